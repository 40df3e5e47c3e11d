"""What the ledger knows of the accounts of a configuration, and what is brought into it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

import click

from services.postmaster.moving.found import Maildrop
from services.postmaster.moving.records import Seen
from services.postmaster.opening import open_state
from shared.log import printable

if TYPE_CHECKING:
    from shared.ledger import Known
    from shared.settings.model import Settings

_PORTION: Final = 10_000
"""UIDLs that are written in one transaction: others write meanwhile."""


def chosen(settings: Settings, names: Sequence[str]) -> dict[str, Maildrop]:
    """Return what other programs call the maildrops of accounts, by the name of the account.

    Args:
        settings: the configuration.
        names: of the accounts; none for all.

    Raises:
        click.ClickException: there is none of that name.
    """
    every = {
        account.name: Maildrop((account.host,), account.port, account.username)
        for account in settings.accounts
    }
    if unknown := [name for name in names if name not in every]:
        raise click.ClickException(f"there is no account {printable(unknown[0])}")
    return {name: every[name] for name in names or every}


def known(settings: Settings, names: Iterable[str]) -> dict[str, Mapping[str, Known]]:
    """Return what the ledger knows of these accounts."""
    return asyncio.run(_known(settings, names))


async def _known(settings: Settings, names: Iterable[str]) -> dict[str, Mapping[str, Known]]:
    async with open_state(settings.state_address()) as state:
        return {name: await state.known(name) for name in names}


def bring_in(settings: Settings, seen: Mapping[str, Seen]) -> dict[str, int]:
    """Record what another program has fetched; return how much of it was new, by account."""
    return asyncio.run(_bring_in(settings, seen, time.time()))


async def _bring_in(settings: Settings, seen: Mapping[str, Seen], now: float) -> dict[str, int]:
    new: dict[str, int] = {}
    async with open_state(settings.state_address()) as state:
        for name, uidls in seen.items():
            there = await state.known(name)
            # Of a message that nobody dates, its time at the server begins now.
            since = {
                uidl: now if at is None else min(at, now)
                for uidl, at in uidls.items()
                if uidl not in there
            }
            for portion in _portions(since):
                await state.import_uidls(name, portion)
            new[name] = len(since)
    return new


def _portions(since: Mapping[str, float]) -> Iterator[Mapping[str, float]]:
    items = iter(since.items())
    while portion := dict(islice(items, _PORTION)):
        yield portion
