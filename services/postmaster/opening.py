"""Opens what the operator's commands work on, as the settings say.

Modules are imported when they are needed: of the two brokers, only the one in use.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from services.postmaster.browse_guard import BrowseGuard
from shared.broker import Steward
from shared.clock import SystemClock
from shared.log import Report, printable
from shared.settings.model import Settings

if TYPE_CHECKING:
    from shared.broker.management import Management
    from shared.spool import Spool
    from shared.state import AccountState, State


_LINE: Final = 1000
"""Characters of a line for the operator."""


@contextmanager
def open_steward(settings: Settings, report: Report | None = None) -> Iterator[Steward]:
    """Yield the operator's side of the broker, and disconnect at the end.

    Args:
        settings: the configuration.
        report: is told of what is waited for, or found; the operator at the terminal if None.

    Raises:
        ConfigError: the broker's URL, credentials or file are wrong.
        BrokerUnavailable: it does not answer.
    """
    steward = _rabbitmq(settings, report or _say) or _embedded(settings)
    try:
        yield steward
    finally:
        steward.close()


def open_management(settings: Settings) -> Management | None:
    """Return RabbitMQ's management API, None where the settings do not say where it is.

    Raises:
        ConfigError: its URL is wrong, or the password of the broker cannot be had.
    """
    url, broker = settings.broker.management_url, settings.broker.address()
    if url is None or broker is None:
        return None
    from shared.broker.management import Management

    ca_file = settings.broker.ca_file
    return Management(url.reveal(), broker, None if ca_file is None else str(ca_file))


def open_spool(settings: Settings) -> Spool:
    """Return the spool.

    Raises:
        ConfigError: its URL is wrong, or a package for it is not installed.
    """
    from shared.spool import Spool

    return Spool(settings.spool_url, settings.spool.options)


@asynccontextmanager
async def open_state(address: str | Path) -> AsyncIterator[State]:
    """Yield the state database, its tables made or brought up to date, until the block ends.

    Raises:
        ConfigError: the database's URL, credentials or file are wrong.
        StateUnavailable: it does not answer.
    """
    # Not at the top: SQLAlchemy takes its time to load.
    from shared.state import State, new_owner

    state = await State.open(address, owner=new_owner())
    try:
        yield state
    finally:
        await state.close()


def account_states(settings: Settings) -> Mapping[str, AccountState]:
    """Return how each account stands that was ever due. A database is not made for the question.

    Raises:
        ConfigError: the database's URL, credentials or file are wrong.
        StateUnavailable: it does not answer.
    """
    if missing_database(settings) is not None:
        return {}
    return asyncio.run(_account_states(settings.state_address()))


def missing_database(settings: Settings) -> Path | None:
    """Return the file of a state database that is not there, None where it is, or is at a server.

    Raises:
        ConfigError: the password of a server cannot be had.
    """
    address = settings.state_address()
    file = address if isinstance(address, Path) else _file(address)
    return file if file is not None and not file.exists() else None


def _file(url: str) -> Path | None:
    kind, _, file = url.partition(":///")
    return Path(file) if kind == "sqlite" else None


async def _account_states(address: str | Path) -> Mapping[str, AccountState]:
    async with open_state(address) as state:
        return await state.accounts()


def _rabbitmq(settings: Settings, report: Report) -> Steward | None:
    urls = settings.broker.addresses()
    if not urls:
        return None
    from shared.broker.steward.steward import KombuSteward

    ca_file, management = settings.broker.ca_file, open_management(settings)
    return KombuSteward(
        urls,
        settings.retry.tiers,
        None if ca_file is None else str(ca_file),
        report,
        names=settings.broker.names,
        require_harmless=BrowseGuard(management, report),
        ask=None if management is None else management.queues,
    )


def _say(what: str, /, **about: object) -> None:
    """Tell the operator what is waited for, or was found."""
    queue = str(about.pop("queue", ""))
    more = ", ".join(f"{name} {value}" for name, value in about.items())
    line = ": ".join(filter(None, (queue, what)))
    click.echo(printable(f"{line} ({more})" if more else line, _LINE), err=True)


def _embedded(settings: Settings) -> Steward:
    from shared.broker.embedded.steward import EmbeddedSteward

    return EmbeddedSteward(settings.queue_file, settings.retry.tiers, SystemClock())
