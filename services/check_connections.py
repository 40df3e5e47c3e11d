"""Tries what a configuration leads to: our own places, each account's login, each destination.

State database, broker and spool: nothing is made or changed there, neither a table nor a queue nor
a file. What is a file, or a folder, on this machine and is not there yet is made at the first
start, and counts as good. Access tokens alone are renewed and stored, where a person has authorized
us: what an authorization server gives must not be lost. Nothing is fetched, deleted or delivered:
STAT and QUIT, or what comes before MAIL. A few at a time, as providers count connections, and none
for long. No secret is in what is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from services.deliverer.destinations import courier_for
from services.deliverer.wiring import dialogues
from services.fetcher.pop3.session import Pop3Session
from services.fetcher.wiring import account as account_of
from services.postmaster import show
from services.postmaster.configuration import ConnectionTest
from services.postmaster.opening import (
    open_management,
    open_spool,
    open_steward,
)
from services.postmaster.state import PATIENCE as DATABASE_PATIENCE
from services.postmaster.state import ledger_file
from services.trial_tokens import TrialTokens
from shared.errors import (
    BrokerUnavailable,
    ConfigError,
    LoginRefused,
    MaildropBusy,
    ServerFault,
    SpoolUnavailable,
    StateUnavailable,
    TooManyConnections,
)
from shared.log import MailLog, printable
from shared.queues import POLL
from shared.redaction.known_secrets import KnownSecrets
from shared.settings.account import AccountSettings
from shared.settings.model import DestinationSettings, Settings
from shared.settings.written_secrets import secrets_in
from shared.sqlite.rebuild import damage_error, file_health
from shared.state.database import probe
from shared.words import counted

AT_ONCE: Final = 32
AT_ONE_HOST: Final = 4
"""Connections at a time; Courier, for one, takes no more from one address."""

PATIENCE: Final = 20.0
"""Seconds without an answer after which a server counts as gone: somebody waits for the result."""

LONGEST: Final = 60.0
"""Seconds for one trial as a whole."""

_SHARE: Final = PATIENCE / 300.0
"""Of the timeouts of RFC 5321 section 4.5.3.2; those before MAIL are 5 minutes."""

_PREFIXES: Final[tuple[tuple[type[ServerFault], str], ...]] = (
    (LoginRefused, "login refused: "),
    (TooManyConnections, "not now: "),
    (MaildropBusy, "not now; the maildrop may be in use, perhaps by this connector: "),
)


_EXPECTED: Final = (
    ConfigError,
    ServerFault,
    BrokerUnavailable,
    StateUnavailable,
    SpoolUnavailable,
)


async def try_connections(settings: Settings, log: MailLog) -> list[ConnectionTest]:
    """Return how each trial went: our own places first, then accounts as they are configured.

    Args:
        settings: what to try.
        log: where dialogues are told, if it is for debugging.
    """
    crowd = asyncio.Semaphore(AT_ONCE)
    known = secrets_in(settings)
    tokens = TrialTokens(settings, known)
    most = min(AT_ONE_HOST, settings.limits.connections_per_host)
    hosts = dict[str, asyncio.Semaphore]()

    async def account(table: AccountSettings) -> ConnectionTest:
        provider = settings.provider_of(table)
        takes = most if provider is None else min(most, provider.connections or most)
        async with hosts.setdefault(table.host.lower(), asyncio.Semaphore(takes)), crowd:
            work = _log_in(table, settings, log, known, tokens)
            return await _outcome("account", table.name, work)

    async def destination(name: str, table: DestinationSettings) -> ConnectionTest:
        recipients = [a.mailbox for a in settings.accounts if a.destination == name]
        async with crowd:
            return await _outcome(
                "destination", name, _reach(name, table, recipients, log, known, tokens)
            )

    try:
        return await asyncio.gather(
            *(_outcome(*trial) for trial in _places(settings)),
            *(account(table) for table in settings.accounts if table.enabled),
            *(destination(*item) for item in settings.every_destination.items()),
        )
    finally:
        await tokens.close()


async def _outcome(what: str, name: str, work: Coroutine[None, None, str]) -> ConnectionTest:
    try:
        async with asyncio.timeout(LONGEST):
            return ConnectionTest(what, name, True, printable(await work))
    except TimeoutError:
        return ConnectionTest(what, name, False, f"not finished after {LONGEST:g} seconds")
    except _EXPECTED as error:
        return ConnectionTest(what, name, False, trouble_with(error))
    except Exception as error:  # noqa: BLE001  (one that fails unforeseen hides no other)
        return ConnectionTest(what, name, False, printable(f"{type(error).__name__}: {error}"))


def trouble_with(error: Exception) -> str:
    """Return what went wrong, for people."""
    prefix = next((text for kind, text in _PREFIXES if isinstance(error, kind)), "")
    return printable(f"{prefix}{error}", 1000)


def _places(settings: Settings) -> Iterator[tuple[str, str, Coroutine[None, None, str]]]:
    """Yield what of our own is to be tried: its kind and name, and what returns what is there."""
    yield "state", "database", asyncio.to_thread(_state, settings)
    yield "broker", "queues", asyncio.to_thread(_broker, settings)
    if settings.broker.management_url is not None and not settings.broker.embedded:
        yield "broker", "management", asyncio.to_thread(_management, settings)
    yield "spool", "blobs", _spool(settings)


def _state(settings: Settings) -> str:
    if (file := ledger_file(settings)) is not None:
        return _file(file)
    there = probe(settings.state_address(), DATABASE_PATIENCE)
    return f"logged in to {settings.state.url}{'' if there else '; its tables are not made yet'}"


def _broker(settings: Settings) -> str:
    if settings.broker.embedded:
        return _file(settings.queue_file)
    with open_steward(settings) as steward:
        depths = steward.depths()
    absent = sum(depth is None for depth in depths.values())
    missing = f"; {counted(absent, 'queue')} to be declared (topology declare)" if absent else ""
    return f"logged in to {', '.join(map(str, settings.broker.every_url))}{missing}"


def _management(settings: Settings) -> str:
    if (management := open_management(settings)) is not None:
        management.queues([POLL])
    return f"logged in to {settings.broker.management_url}"


async def _spool(settings: Settings) -> str:
    where = settings.spool.url or settings.data_dir / "spool"
    await open_spool(settings).mark()
    return f"reached {where}"


def _file(path: Path) -> str:
    if not path.exists():
        return f"not there yet, and made at the start: {path}"
    health = file_health(path)
    if health.faults:
        raise damage_error(path, health.faults[0])
    if health.unknown:
        raise ConfigError(str(path), health.unknown)
    return f"opened {path}"


async def _log_in(
    table: AccountSettings,
    settings: Settings,
    log: MailLog,
    known: KnownSecrets,
    tokens: TrialTokens,
) -> str:
    login = account_of(table, settings.limits, known, tokens=await tokens.of_account(table)).login
    impatient = replace(login, timeout=min(login.timeout, PATIENCE))
    session = await Pop3Session.open(impatient, tell=log.dialogue(account=table.name))
    try:
        count, size = await session.surveyor.stat()
        await session.quit()
    except BaseException:
        await session.abort()
        raise
    there = f"messages there: {count} ({show.size(size)})"
    return f"logged in to {login.server} by {session.mechanism}; {there}"


async def _reach(
    name: str,
    table: DestinationSettings,
    recipients: Sequence[str],
    log: MailLog,
    known: KnownSecrets,
    tokens: TrialTokens,
) -> str:
    # Apart, as it may run a command.
    address = await asyncio.to_thread(table.address) or ""
    courier = courier_for(
        name,
        address,
        connections=1,
        patience=_SHARE,
        listen=dialogues(log, name),
        known=known,
        tokens=await tokens.of_destination(name, table),
    )
    try:
        await courier.probe(list(dict.fromkeys(recipients)))
    finally:
        await courier.close()
    return f"reached {table.url}"
