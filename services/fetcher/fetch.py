"""The fetch story: what a maildrop holds that we do not have, taken over without losing any of it.

Log on, list UIDLs, leave out what the ledger knows, retrieve the rest. Each message is published
and confirmed, then its UIDL is committed to the ledger, and only then is it deleted at the server,
if the account says so; deletions count when QUIT was answered ``+OK``. Killed at any instruction,
the next poll goes on from the ledger: what was published and not recorded is published again under
the same id, and suppressed at the far end.

An account that fails is reported, backed off, and disturbs no other. One whose polls bring
something new and then break is backed off no further than the first time: it gets on, if slowly.
What fails on our side is no reason to back off: then an account is polled at its own interval; or,
where the state database was away and could not be told when it is due, as soon as that is back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.fetcher.account import Account, backoff
from services.fetcher.ports import World
from services.fetcher.session import Session
from services.fetcher.visit import Limits, Visit
from shared.errors import (
    BrokerUnavailable,
    ConfigError,
    MaildropBusy,
    Refused,
    ServerFault,
    SpoolUnavailable,
    StateUnavailable,
)
from shared.message import Envelope, Poll
from shared.outcome import Answer, Done, Outcome, Retry

POLL_SECONDS: Final = 900.0
"""How long one poll job is held; a broker takes a delivery back after 30 minutes."""

DEFAULT_LIMITS: Final = Limits()

STATE_AWAY: Final = 5.0
"""Seconds after which a poll is tried again for which the state database was out of reach."""

ELSEWHERE: Final = 20.0
"""Seconds after which to look again at an account that another fetcher has: by then that one has
said when the account is due, or renewed its lease, or is dead."""

OURS: Final = (SpoolUnavailable, BrokerUnavailable, Refused)
"""What fails on our side, whatever the account."""

FAULTS: Final = (ServerFault, ConfigError, *OURS)
"""What ends a poll early and is no defect of ours."""


@dataclass(slots=True)
class Tally:
    """What a poll has come to so far, over all its sessions."""

    found: int = 0
    fetched: int = 0


class Fetcher:
    """Handles poll jobs.

    Args:
        accounts: every account that is configured, by name.
        world: ledger, outbox and the rest.
        limits: how much one session does before it quits.
    """

    def __init__(
        self, accounts: Mapping[str, Account], world: World, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self._accounts = accounts
        self._world = world
        self._limits = limits
        self._underway: set[str] = set()

    async def handle(self, envelopes: Sequence[Envelope[Poll]], answer: Answer) -> None:
        """Poll the accounts of these jobs, one after the other.

        What goes wrong with an account is reported here.
        """
        for place, envelope in enumerate(envelopes):
            answer(place, await self._job(envelope))

    async def _job(self, envelope: Envelope[Poll]) -> Outcome:
        name = envelope.account
        account = self._accounts.get(name)
        if account is None:
            return Done(f"account {name} is not configured any more", "polled")
        if name in self._underway:
            return Done(f"this fetcher is at account {name} already", "polled")
        self._underway.add(name)
        try:
            return await self._alone(account)
        except StateUnavailable as error:
            return self._again(name, error)
        finally:
            self._underway.discard(name)

    async def _alone(self, account: Account) -> Outcome:
        """Poll an account under its lease, so that no other fetcher does at the same time."""
        lease = f"account:{account.name}"
        if not await self._world.ledger.lease(lease):
            await self._world.schedule.queued([account.name], hold=ELSEWHERE)
            return Done(f"another fetcher is at account {account.name}", "polled")
        try:
            await self._poll(account)
        finally:
            await self._world.ledger.release(lease)
        return Done(account.name, "polled")

    async def _poll(self, account: Account) -> None:
        tally = Tally()
        try:
            wait = await self._sessions(account, tally)
        except FAULTS as error:
            await self._back_off(account, error, progress=tally.fetched > 0)
        else:
            await self._next(account, wait, None)

    async def _sessions(self, account: Account, tally: Tally) -> float:
        """Run sessions until nothing is left; return the seconds until the next poll."""
        clock = self._world.clock
        started = clock.monotonic()
        while True:
            tell = self._world.journal.dialogue(account=account.name)
            session = await Session.open(account.login, tell=tell)
            visit = Visit(account, session, self._world, self._limits)
            try:
                more = await visit.run()
            finally:
                tally.found = max(tally.found, visit.found)
                tally.fetched += visit.fetched
                await session.abort()
            if not more or clock.monotonic() - started > POLL_SECONDS:
                break
        if visit.failure is not None:
            raise visit.failure
        seconds = clock.monotonic() - started
        self._world.journal.polled(account.name, tally.found, tally.fetched, seconds)
        return 0.0 if more else account.poll_every

    async def _back_off(self, account: Account, error: Exception, *, progress: bool) -> None:
        failures = 0 if progress else await self._world.schedule.failures(account.name)
        wait = account.poll_every
        if not isinstance(error, OURS):
            wait = backoff(wait, failures, busy=isinstance(error, MaildropBusy))
        self._world.journal.account_failed(account.name, str(error), wait)
        await self._next(account, wait, str(error), progress=progress)

    async def _next(
        self, account: Account, wait: float, error: str | None, *, progress: bool = False
    ) -> None:
        at = self._world.clock.now() + wait
        await self._world.schedule.polled(
            account.name, next_poll=at, error=error, progress=progress
        )

    def _again(self, name: str, error: StateUnavailable) -> Retry:
        """Keep the poll job: without it, the database takes the account for queued, and it is not.

        It goes back to its queue, for whoever is there when the database is.
        """
        why = f"the state database is out of reach: {error}"
        self._world.journal.account_failed(name, why, STATE_AWAY)
        return Retry(why, after=STATE_AWAY)
