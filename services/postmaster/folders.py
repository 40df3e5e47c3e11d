"""The commands ``failed`` and ``quarantine``: the same five for each folder."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import click

from services.postmaster import parked, show
from services.postmaster.invocation import Invocation, pass_invocation
from services.postmaster.open import open_spool, open_steward
from services.postmaster.parked import FAILED, QUARANTINED, Folder
from shared.log import printable

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_id = click.argument("id_", metavar="ID")


def _commands(folder: Folder) -> click.Group:
    """Return the group of commands that work on a folder."""
    about = f"See and settle the messages in {folder.title}. An ID can be cut to its beginning."
    group = click.Group(folder.name, help=about)
    for command in (_list, _show, _again, _export, _drop):
        group.add_command(command(folder))
    return group


def _list(folder: Folder) -> click.Command:
    @click.command("list", help=f"List the messages in {folder.title}, oldest first.")
    @_json
    @pass_invocation
    def list_(invocation: Invocation, as_json: bool) -> None:
        with open_steward(invocation.settings()) as steward:
            messages = parked.browse(steward, folder)
            if as_json:
                show.as_json([show.record(message) for message in messages])
            else:
                show.listed(messages, folder.title[0].upper() + folder.title[1:])

    return list_


def _show(folder: Folder) -> click.Command:
    @click.command("show", help="Show a message: why it is here, its way so far, its header.")
    @_id
    @_json
    @pass_invocation
    def show_(invocation: Invocation, id_: str, as_json: bool) -> None:
        with open_steward(invocation.settings()) as steward:
            messages = parked.find(steward, folder, [id_])
        if as_json:
            show.as_json([show.details(message) for message in messages])
            return
        for message in messages:
            show.shown(message)

    return show_


def _again(folder: Folder) -> click.Command:
    @click.command(folder.again, help="Try messages again, in the stage that they failed in.")
    @click.argument("ids", metavar="[ID...]", nargs=-1)
    @click.option("--all", "every", is_flag=True, help="All of them.")
    @_json
    @pass_invocation
    def again(invocation: Invocation, ids: Sequence[str], every: bool, as_json: bool) -> None:
        if every == bool(ids):
            raise click.UsageError("expected either IDs or --all")
        with open_steward(invocation.settings()) as steward:
            found = parked.browse(steward, folder) if every else parked.find(steward, folder, ids)
            count = parked.move_back(steward, folder, found)
        _report({folder.done: count}, as_json)

    return again


def _export(folder: Folder) -> click.Command:
    @click.command("export", help="Write the raw message, byte for byte as it was fetched.")
    @_id
    @click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        help="A new file to write to; else standard output.",
    )
    @_json
    @pass_invocation
    def export(invocation: Invocation, id_: str, output: Path | None, as_json: bool) -> None:
        if output is None and (as_json or sys.stdout.isatty()):
            raise click.UsageError("expected -o FILE: the bytes do not go to a terminal or in JSON")
        settings = invocation.settings()
        with open_steward(settings) as steward:
            message = parked.find(steward, folder, [id_])[0]
        if why := parked.without_blob(message):
            raise click.ClickException(f"nothing to export: {why}")
        chunks = parked.chunks(open_spool(settings), message)
        size = _written(chunks, output)
        if output is not None:
            _report({"bytes": size, "file": str(output)}, as_json)

    return export


def _drop(folder: Folder) -> click.Command:
    @click.command("drop", help="Delete a message for good.")
    @_id
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @_json
    @pass_invocation
    def drop(invocation: Invocation, id_: str, yes: bool, as_json: bool) -> None:
        settings = invocation.settings()
        with open_steward(settings) as steward:
            found = parked.find(steward, folder, [id_])
            for why in filter(None, map(parked.without_blob, found)):
                click.echo(f"only the message in the queue can be dropped: {why}", err=True)
            if not (yes or _confirmed(found[0].message_id)):
                raise click.ClickException("nothing was dropped")
            dropped = asyncio.run(parked.drop(steward, open_spool(settings), found))
        _report({"dropped": dropped.messages}, as_json)
        if dropped.left:
            raise click.ClickException(_left(dropped.left))

    return drop


def _left(left: Mapping[str, str]) -> str:
    blobs = ", ".join(f"{printable(key)} ({why})" for key, why in left.items())
    return (
        f"the message is gone from its queue, but not from the spool: {blobs};"
        " spool sweep deletes it later"
    )


def _confirmed(id_: str) -> bool:
    if not sys.stdin.isatty():
        raise click.ClickException("drop deletes for good; say --yes where nobody can be asked")
    return click.confirm(f"Delete {id_} for good?", err=True)


def _report(result: dict[str, object], as_json: bool) -> None:
    if as_json:
        show.as_json(result)
    else:
        click.echo(", ".join(f"{key}: {value}" for key, value in result.items()))


def _written(chunks: AsyncIterator[bytes], output: Path | None) -> int:
    """Write all of the chunks to a new file (mode 0600), or to standard output; return the size.

    Raises:
        ClickException: there is such a file already, or it cannot be written.
    """
    if output is None:
        return asyncio.run(_copy(chunks, sys.stdout.buffer))
    with ExitStack() as undo:
        try:
            output.touch(0o600, exist_ok=False)
            undo.callback(output.unlink)
            with output.open("wb") as file:
                size = asyncio.run(_copy(chunks, file))
        except OSError as error:
            raise click.ClickException(f"cannot write {output}: {error.strerror}") from error
        undo.pop_all()
    return size


async def _copy(chunks: AsyncIterator[bytes], file: BinaryIO) -> int:
    size = 0
    async for chunk in chunks:
        size += file.write(chunk)
    file.flush()
    return size


failed = _commands(FAILED)
quarantine = _commands(QUARANTINED)
