"""Tries what a configuration leads to: our own places, each account's login, each destination.

Nothing is fetched, deleted or delivered: STAT and QUIT, or what comes before MAIL. A few at a time,
as providers count connections, and none for long. No secret is in what is said.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Final

from services.check_places import places
from services.deliverer.destinations import courier_for
from services.deliverer.wiring import dialogues
from services.fetcher.pop3.login import Login
from services.fetcher.pop3.session import Pop3Session
from services.fetcher.wiring import account as account_of
from services.postmaster import show
from services.postmaster.configuration import ConnectionTest
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
from shared.redaction.known_secrets import KnownSecrets
from shared.settings.model import AccountSettings, DestinationSettings, Settings
from shared.settings.written_secrets import secrets_in

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
    most = min(AT_ONE_HOST, settings.limits.connections_per_host)
    hosts: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(most))

    async def account(table: AccountSettings) -> ConnectionTest:
        async with hosts[table.host.lower()], crowd:
            return await _outcome("account", table.name, _log_in(table, settings, log, known))

    async def destination(name: str, table: DestinationSettings) -> ConnectionTest:
        recipients = [a.mailbox for a in settings.accounts if a.destination == name]
        async with crowd:
            return await _outcome("destination", name, _reach(name, table, recipients, log, known))

    return await asyncio.gather(
        *(_outcome(*trial) for trial in places(settings)),
        *(account(table) for table in settings.accounts if table.enabled),
        *(destination(*item) for item in settings.every_destination.items()),
    )


async def _outcome(what: str, name: str, work: Coroutine[None, None, str]) -> ConnectionTest:
    try:
        async with asyncio.timeout(LONGEST):
            return ConnectionTest(what, name, True, printable(await work))
    except TimeoutError:
        return ConnectionTest(what, name, False, f"not finished after {LONGEST:g} seconds")
    except _EXPECTED as error:
        prefix = next((text for kind, text in _PREFIXES if isinstance(error, kind)), "")
        return ConnectionTest(what, name, False, printable(f"{prefix}{error}", 1000))
    except Exception as error:  # noqa: BLE001  (one that fails unforeseen hides no other)
        return ConnectionTest(what, name, False, printable(f"{type(error).__name__}: {error}"))


async def _log_in(
    table: AccountSettings, settings: Settings, log: MailLog, known: KnownSecrets
) -> str:
    login = account_of(table, settings.limits, known).login
    session = await Pop3Session.open(
        _with_short_timeout(login), tell=log.dialogue(account=table.name)
    )
    try:
        count, size = await session.stat()
        await session.quit()
    except BaseException:
        await session.abort()
        raise
    return f"logged in to {login.server}; messages there: {count} ({show.size(size)})"


def _with_short_timeout(login: Login) -> Login:
    return replace(login, timeout=min(login.timeout, PATIENCE))


async def _reach(
    name: str,
    table: DestinationSettings,
    recipients: Sequence[str],
    log: MailLog,
    known: KnownSecrets,
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
    )
    try:
        await courier.probe(list(dict.fromkeys(recipients)))
    finally:
        await courier.close()
    return f"reached {table.url}"
