"""Puts the fetcher together from what a process has open. Wires, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from services.fetcher.account import Account, Intake, first_polls
from services.fetcher.fetch import CONCURRENCY, Fetcher
from services.fetcher.housekeeping import Housekeeping
from services.fetcher.installation_check import InstallationCheck
from services.fetcher.interfaces import FetcherContext, SessionLimits
from services.fetcher.pop3.deadlines import Deadlines
from services.fetcher.pop3.login import Login
from services.fetcher.schedule import Scheduler
from services.wiring import Assembly, Companion, Resources, StageWiring
from shared.authentication.tokens import AccessTokens
from shared.errors import ConfigError
from shared.ledger import safe_age
from shared.message import Poll
from shared.metrics import HELD
from shared.network.dial import NetworkRoute
from shared.network.tls import Trust
from shared.queue_publisher import QueuePublisher
from shared.queues import INCOMING, POLL
from shared.redaction.known_secrets import KnownSecrets
from shared.settings import model
from shared.settings.access_tokens import OAuthTokens
from shared.settings.account import AccountSettings
from shared.settings.providers import Provider, floor_of
from shared.settings.schedules import local_zone
from shared.stage import Stage
from shared.state import State  # here, so that it is loaded before the stage says it has started
from shared.timetable import Timetable


def account(
    table: AccountSettings,
    limits: model.LimitSettings,
    known: KnownSecrets,
    floor: float = 0.0,
    tokens: AccessTokens | None = None,
) -> Account:
    """Return an account as the fetcher has it.

    Args:
        table: its table in the configuration.
        limits: what polls are kept to.
        known: passwords that no server is quoted with; its own is added as it is used.
        floor: seconds from one poll to the next, at the least.
        tokens: where its access tokens come from; None where it has a password.
    """
    secret = table.secret
    if secret is None and tokens is None:
        raise ConfigError(f"account {table.name}", "there is no password")
    login = Login(
        table.host,
        table.port,
        table.tls,
        table.username,
        str if secret is None else secret.reveal,
        trust(table),
        table.timeout,
        table.auth,
        tokens,
        route=NetworkRoute(table.bind, None if table.proxy is None else table.proxy.reveal()),
        deadlines=Deadlines(
            limits.connect_within, limits.login_within, limits.session_within, limits.slowest
        ),
        known=known,
    )
    return Account(
        table.name,
        login,
        timetable(table).no_sooner(floor),
        table.keep.seconds,
        table.max_size,
        None if table.poll_soonest is None else max(table.poll_soonest, floor),
        floor,
        Intake(
            table.skip_existing,
            table.order == "newest",
            table.max_per_session,
            table.flood_limit,
            limits.flood_limit,
            table.mailbox if table.over_max_size == "notice" else None,
        ),
    )


def _access_tokens(
    tables: Sequence[AccountSettings], state: State, r: Resources
) -> Mapping[str, AccessTokens]:
    """Return where the access tokens of accounts come from, by name."""
    with_tokens = [table for table in tables if table.oauth is not None]
    if not with_tokens:
        return {}
    tokens = OAuthTokens(r.settings, state, r.clock, r.known, r.log.trouble)
    return {table.name: tokens.of_account(table) for table in with_tokens}


def timetable(table: AccountSettings) -> Timetable:
    """Return when an account is to be polled, whatever its provider asks for."""
    if table.schedule is None:
        return Timetable.always(table.poll_every)
    return Timetable(table.schedule, table.timezone or local_zone())


def fewer_connections(
    accounts: Mapping[str, Account], providers: Mapping[str, Provider | None]
) -> dict[str, int]:
    """Return how many connections a server takes, by server, where its provider has a limit.

    Args:
        accounts: those that are polled, by name.
        providers: theirs, by the same name.
    """
    fewer = dict[str, int]()
    for name, one in accounts.items():
        provider = providers[name]
        if provider is not None and provider.connections is not None:
            most = fewer.get(one.server, provider.connections)
            fewer[one.server] = min(most, provider.connections)
    return fewer


def trust(table: AccountSettings) -> Trust:
    """Return by what the server of an account is known in TLS, and we to it."""
    files = (table.ca_file, table.client_cert, table.client_key)
    ca_file, cert, key = (None if file is None else str(file) for file in files)
    return Trust(ca_file, table.tls_fingerprint, cert, key)


@asynccontextmanager
async def assemble(r: Resources) -> AsyncGenerator[Assembly, None]:
    """Put the fetcher together, with the schedule and the housekeeping beside it."""
    tables = [table for table in r.settings.accounts if table.enabled]
    providers = {table.name: r.settings.provider_of(table) for table in tables}
    state: State = await r.state()
    tokens = _access_tokens(tables, state, r)
    accounts = {
        t.name: account(
            t, r.settings.limits, r.known, floor_of(providers[t.name]), tokens.get(t.name)
        )
        for t in tables
    }
    limit = r.settings.spool.inline_limit
    incoming, poll = QueuePublisher(r.broker, INCOMING), QueuePublisher(r.broker, POLL)
    remembers = safe_age(r.settings.retry.give_up_after)
    doubts: InstallationCheck | None = None

    def note_held() -> None:
        if doubts is not None:
            doubts.note_held()

    context = FetcherContext(
        state,
        state,
        incoming,
        r.spool,
        limit,
        r.log,
        r.clock,
        r.room.lacking,
        remembers=remembers,
        limits=SessionLimits(max_messages=r.settings.limits.max_messages),
        note_held=note_held,
    )
    most = r.settings.limits.connections_per_host
    fetcher = Fetcher(accounts, context, most, fewer_connections(accounts, providers))

    async def waiting() -> int:
        return (await r.broker.depths([POLL]))[POLL]

    schedule = Scheduler(
        list(accounts),
        state,
        poll,
        waiting,
        r.log,
        r.clock,
        blocked=lambda: r.broker.blocked or r.room.lacking(),
        first=first_polls(accounts.values()),
    )
    names = [table.name for table in r.settings.accounts]
    upkeep = Housekeeping(names, state, r.spool, r.log.note, r.log.trouble, r.clock, remembers)
    await upkeep.begin()
    beside: tuple[Companion, ...] = (schedule.run, upkeep.run)
    if r.marks is not None:
        counts = r.log.counts
        came = lambda: counts["fetched"] + counts["suppressed"]  # noqa: E731
        doubts = InstallationCheck(state, r.marks, r.log.trouble, r.clock, names, came)
        await r.unless_stopped(doubts.begin())
        r.warn(doubts.warnings)
        r.log.metrics.watch(HELD, lambda: float(doubts.held))
        beside = (*beside, doubts.run)
    stage = Stage("fetcher", POLL, Poll, None, fetcher.handle, CONCURRENCY)
    try:
        yield Assembly(stage, beside)
    finally:
        await fetcher.close()
        if doubts is not None:
            await doubts.leave()


WIRING: Final = StageWiring("fetcher", assemble)
