"""The command ``import``: accounts of another program, and which messages it has fetched.

What is brought over is written in this order: the UIDLs into the ledger, then the configuration. So
nobody starts with a configuration whose ledger does not know what was fetched. The other program
has to be stopped before: what it fetches afterwards is fetched again, unless ``import uidls``
brings that in, too.
"""

from __future__ import annotations

import getpass
import os
import pwd
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import click

from services.postmaster import show
from services.postmaster.invocation import Invocation, pass_invocation
from services.postmaster.moving import configuration, getmail, ledger, mpop
from services.postmaster.moving.fetchmail import accounts as fetchmail
from services.postmaster.moving.found import (
    Found,
    FoundAccount,
    FoundDestination,
    Home,
    Maildrop,
    Wrong,
)
from services.postmaster.moving.netrc import password_in
from services.postmaster.moving.records import FORMATS, Seen, files_at, read
from services.postmaster.options import json_option, require_confirmed, yes_option
from shared.disk.durable import sync
from shared.disk.replaced_file import write_file
from shared.errors import ConfigError
from shared.log import printable

_Reader: TypeAlias = Callable[[Path, str, Home], Found]

UNFINISHED: Final = 1
"""The exit status where an account has to be completed by hand."""

_path = click.Path(path_type=Path)
_uidls = click.option(
    "--uidls", type=_path, help="Where it keeps its UIDLs, if not in the usual place."
)


def _importer(name: str, format_: str, reader: _Reader, *, several: bool = False) -> click.Command:
    """Return the command for the configuration of a program."""

    @click.command(
        name, help=f"Write a configuration from {format_}'s, and bring over what it has fetched."
    )
    @click.argument("files", nargs=-1 if several else 1, required=True, metavar="FILE", type=_path)
    @click.option(
        "-o",
        "--output",
        type=_path,
        default=Path("connector.toml"),
        show_default=True,
        help="The configuration to write.",
    )
    @_uidls
    @click.option("--delivery", metavar="URL", help="Where mail goes that cannot go where it did.")
    @click.option("--data-dir", type=_path, help="Where the connector is to keep its data.")
    @yes_option
    @json_option
    @pass_invocation
    @click.pass_context
    def command(
        context: click.Context, invocation: Invocation, /, files: Any, as_json: bool, **options: Any
    ) -> None:
        found = _found(files if several else (files,), reader, options["delivery"])
        if not _bring_in(invocation, format_, found, as_json=as_json, **options):
            context.exit(UNFINISHED)

    return command


import_: Final = click.Group(
    "import",
    [
        _importer("fetchmailrc", "fetchmail", fetchmail.read),
        _importer("getmailrc", "getmail", getmail.read, several=True),
        _importer("mpoprc", "mpop", mpop.read),
    ],
    help="Move in from fetchmail, getmail or mpop. Stop that program before.",
)


@import_.command("uidls")
@click.argument("files", nargs=-1, required=True, metavar="FILE", type=_path)
@click.option("--format", "format_", type=click.Choice(list(FORMATS)), required=True)
@click.option("--account", "names", multiple=True, metavar="NAME", help="This account alone.")
@json_option
@pass_invocation
def uidls(
    invocation: Invocation, files: Sequence[Path], format_: str, names: Sequence[str], as_json: bool
) -> None:
    """Bring over what another program has fetched, into the accounts of this configuration.

    FILE is where that program keeps its UIDLs, or the folder with its files. Accounts are found in
    it by server and user name. What is known here already stays as it is.
    """
    settings = invocation.settings()
    chosen = ledger.chosen(settings, names)
    seen = {
        name: _seen(format_, maildrop, [f for p in files for f in files_at(p, format_, maildrop)])
        for name, maildrop in chosen.items()
    }
    new = ledger.bring_in(settings, seen)
    if as_json:
        show.as_json(
            [{"account": name, "uidls": len(seen[name]), "new": new[name]} for name in new]
        )
        return
    for name, count in new.items():
        click.echo(f"{printable(name)}: {len(seen[name])} UIDLs, {count} of them new here")


def _found(files: Sequence[Path], reader: _Reader, delivery: str | None) -> Found:
    """Return what these files configure.

    Raises:
        ConfigError: one of them cannot be read, or is something else.
    """
    every = Found()
    for path in files:
        found = _reading(path, partial(_read, path, reader))
        every.accounts += found.accounts
        every.left += found.left
    for account in every.accounts:
        if account.delivery is None and delivery is not None:
            account.delivery = FoundDestination(delivery)
    every.poll_each_once()
    return every


def _read(path: Path, reader: _Reader) -> Found:
    return reader(path, _text(path), _home(path))


def _reading(path: Path, reading: Callable[[], Any]) -> Any:
    try:
        return reading()
    except Wrong as error:
        raise ConfigError(str(path), printable(str(error), 500)) from None


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), f"cannot read it: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return data.decode("latin-1").replace("\r\n", "\n")


def _home(path: Path) -> Home:
    """Return whose file this is: ``~`` in it, and who logs in where it does not say."""
    owner = path.stat().st_uid
    if owner == os.geteuid():
        home, user = Path("~").expanduser(), getpass.getuser()
    else:
        try:
            entry = pwd.getpwuid(owner)
        except KeyError:
            raise ConfigError(str(path), "its owner is no user here: whose file is it?") from None
        home, user = Path(entry.pw_dir), entry.pw_name
    return Home(home, user, partial(password_in, home / ".netrc"))


def _seen(format_: str, maildrop: Maildrop, paths: Sequence[Path]) -> dict[str, float | None]:
    """Return what these files say of a maildrop."""
    seen: dict[str, float | None] = {}
    for path in paths:
        seen |= _reading(path, partial(read, path, FORMATS[format_], maildrop))
    return seen


def _bring_in(
    invocation: Invocation,
    format_: str,
    found: Found,
    *,
    output: Path,
    uidls: Path | None,
    data_dir: Path | None,
    yes: bool,
    as_json: bool,
    **_: object,
) -> bool:
    """Write what was found; return whether it is complete."""
    # Not at the top: it loads pydantic.
    from shared.settings.data_dir import usual

    if os.path.lexists(output) and not yes:
        require_confirmed(
            f"{output} is there already. Overwrite it?",
            f"{output} is there already, and would be overwritten",
            "nothing was written",
        )
    place = (data_dir or usual(invocation.environ)).absolute()
    accounts = configuration.named(found.accounts)
    seen = {
        name: _seen(format_, account.maildrop, _records(account.maildrop, format_, uidls))
        for name, account in accounts.items()
    }
    _write(invocation, output, configuration.text(accounts, found, format_, place), seen)
    _tell(output, place, accounts, seen, found, as_json=as_json)
    return not any(account.lacks for account in found.accounts)


def _records(maildrop: Maildrop, format_: str, given: Path | None) -> Sequence[Path]:
    if given is not None:
        return files_at(given, format_, maildrop)
    return [next((path for path in maildrop.records if path.is_file()), maildrop.records[0])]


def _write(invocation: Invocation, output: Path, text: str, seen: Mapping[str, Seen]) -> None:
    """Write the UIDLs into the ledger of this configuration, and then the configuration.

    Raises:
        ConfigError: it is none: it stays beside the place where it was to be.
    """
    from shared.settings.load import load
    from shared.settings.owner import require_own

    draft = output.with_name(f"{output.name}.draft")
    try:
        write_file(draft, text.encode())
    except OSError as error:
        raise ConfigError(str(draft), f"cannot write it: {error.strerror}") from error
    settings = load(draft, invocation.environ)
    try:
        require_own(settings, draft, invocation.environ)
        ledger.bring_in(settings, seen)
        draft.replace(output)
    finally:
        draft.unlink(missing_ok=True)  # there are passwords in it
    sync(output.absolute().parent)


def _tell(
    output: Path,
    place: Path,
    accounts: Mapping[str, FoundAccount],
    seen: Mapping[str, Seen],
    found: Found,
    *,
    as_json: bool,
) -> None:
    if as_json:
        show.as_json(
            {
                "configuration": str(output),
                "data_dir": str(place),
                "accounts": [
                    {"account": name, "uidls": len(seen[name]), "lacks": account.lacks}
                    for name, account in accounts.items()
                ],
                "left": [
                    {"where": str(left.place), "what": left.what, "advice": left.advice}
                    for left in found.left
                ],
            }
        )
        return
    click.echo(f"Wrote {output}; data lies in {place}.")
    for name, account in accounts.items():
        lacks = f"; lacks {account.lacks}, and is a comment" if account.lacks else ""
        click.echo(f"  {printable(name)}: {len(seen[name])} UIDLs{lacks}")
    if found.left:
        click.echo("Not carried over:")
    for left in found.left:
        click.echo(printable(f"  {left.place}: {left.what}: {left.advice}", 500))
    click.echo(f"Next: pop3-connector --config {output} check-config --connect")
