"""The command ``export``: which messages the connector has, in the forms of other programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from services.postmaster.invocation import Invocation, pass_invocation
from services.postmaster.moving import ledger
from services.postmaster.moving.records import FORMATS, Remembered, unfit
from services.postmaster.options import require_confirmed, yes_option
from shared.disk.replaced_file import write_file
from shared.log import printable


@click.group("export", help="Move out to fetchmail, getmail or mpop. Stop the connector before.")
def export() -> None:
    """Group the commands."""


@export.command("uidls")
@click.option("--format", "format_", type=click.Choice(list(FORMATS)), required=True)
@click.option("--account", "names", multiple=True, metavar="NAME", help="This account alone.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="A file, or for getmail a folder, which holds a file for each account; else standard"
    " output.",
)
@yes_option
@pass_invocation
def uidls(
    invocation: Invocation, format_: str, names: Sequence[str], output: Path | None, yes: bool
) -> None:
    """Write which messages have been fetched, so that another program fetches none of them."""
    settings = invocation.settings()
    maildrops = ledger.chosen(settings, names)
    every = []
    for name, known in ledger.known(settings, maildrops).items():
        seen = {uidl: one.first_seen for uidl, one in known.items()}
        if left := unfit(seen):
            click.echo(
                f"{printable(name)}: {len(left)} UIDLs have no place in such a file, and their"
                " messages will be fetched again",
                err=True,
            )
        every.append(
            Remembered(maildrops[name], {u: at for u, at in seen.items() if u not in left})
        )
    texts = dict(FORMATS[format_].write(every))
    if output is None:
        if len(texts) > 1:
            raise click.UsageError("pass -o FOLDER, an existing one: accounts have a file each")
        for text in texts.values():
            sys.stdout.buffer.write(text.encode("latin-1", "replace"))
        return
    if output.is_dir() != (FORMATS[format_].file is None):
        what = "an existing folder" if FORMATS[format_].file is None else "a file"
        raise click.UsageError(f"pass -o with {what} for {format_}")
    paths = {output / name if output.is_dir() else output: text for name, text in texts.items()}
    _require_room(list(paths), yes=yes)
    for path, text in paths.items():
        _write(path, text)
        click.echo(f"Wrote {path}.")


def _require_room(paths: Sequence[Path], *, yes: bool) -> None:
    there = [str(path) for path in paths if os.path.lexists(path)]
    if there and not yes:
        require_confirmed(
            f"{', '.join(there)}: there already. Overwrite?",
            f"{there[0]} is there already, and would be overwritten",
            "nothing was written",
        )


def _write(path: Path, text: str) -> None:
    try:
        write_file(path, text.encode("latin-1", "replace"))
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}") from error
