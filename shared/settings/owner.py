"""Whose data lies in ``data_dir``: two configurations that share one by accident are told apart.

The usual place is the same for every configuration that names none. Where two of them mean
different things by one name, the mail of one would go to the mailboxes of the other, and what lies
in one maildrop would count as fetched from the other. So the file that was last run with a
``data_dir`` is written down in it, and another one that contradicts it is refused. It trusts that
file only as long as it is there, is right, and leads to the same place: after a move it is gone, or
says the same. Limits: settings in the environment alone leave no trace; of a ledger elsewhere
(``state.url``) nothing is seen here, but the fetcher says at each poll that an account was another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from shared.disk.replaced_file import write_file
from shared.errors import ConfigError
from shared.log import printable
from shared.settings.advice import maildrop_of
from shared.settings.load import load
from shared.settings.model import Settings
from shared.settings.source import PREFIX

OWNER: Final = "configuration"
"""The file in ``data_dir`` that holds the path of the configuration."""

_LONGEST: Final = 4096


def require_own(settings: Settings, path: Path | None, environ: Mapping[str, str]) -> None:
    """Make sure that no other configuration means something else by the data in ``data_dir``.

    Args:
        settings: the configuration.
        path: its file; None for the environment alone.
        environ: the environment.

    Raises:
        ConfigError: another one does; it says which, and what to do.
    """
    other = _other(settings, path)
    if other is None:
        return
    plain = {name: value for name, value in environ.items() if not name.startswith(PREFIX)}
    try:
        theirs = load(other, plain)
    except (ConfigError, OSError):
        return
    place = settings.data_dir.absolute()
    if not theirs.uses_data_dir or not _same(theirs.data_dir.absolute(), place):
        return
    if what := next(_contradictions(settings, theirs), None):
        raise ConfigError(
            "data_dir",
            f"{printable(str(place))} holds the queues and ledgers of another configuration,"
            f" {printable(str(other))}: {what}. Write a data_dir of its own into each; if the other"
            " one is no longer used, delete it",
        )


def note_owner(settings: Settings, path: Path | None) -> None:
    """Write down that this configuration is run with its ``data_dir``, as far as that works."""
    if path is None or not settings.uses_data_dir:
        return
    place = settings.data_dir.absolute()
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(place / OWNER, os.fsencode(path.absolute()), durable=False)
    except OSError:
        return  # whoever needs the place will say so


def _other(settings: Settings, path: Path | None) -> Path | None:
    """Return the configuration that was last run with this ``data_dir``, if it is another one."""
    if path is None or not settings.uses_data_dir:
        return None
    try:
        with (settings.data_dir / OWNER).open("rb") as file:
            other = Path(os.fsdecode(file.read(_LONGEST)))
        return None if not other.is_file() or other.samefile(path) else other
    except (OSError, ValueError):
        return None


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _contradictions(ours: Settings, theirs: Settings) -> Iterator[str]:
    """Yield what is called by one name and is not one thing."""
    accounts = {account.name: account for account in theirs.accounts}
    for here in ours.accounts:
        there = accounts.get(here.name)
        if there is None:
            continue
        if maildrop_of(here) != maildrop_of(there):
            port = here.port != there.port  # behind tunnels every server is this machine
            one, another = (
                f"{each.username} at {each.host}{f':{each.port}' if port else ''}"
                for each in (here, there)
            )
            yield f"account {here.name} is {one} here, and {another} there"
        if here.mailbox != there.mailbox:
            yield f"account {here.name} goes to {here.mailbox} here, and to {there.mailbox} there"
    destinations = theirs.every_destination
    for name, destination in ours.every_destination.items():
        other = destinations.get(name)
        if other is not None and str(other.url) != str(destination.url):
            yield f"destination {name} is {destination.url} here, and {other.url} there"
