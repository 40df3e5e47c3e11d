"""Housekeeping beside the fetcher, once a day: what is long over is forgotten.

The ledgers lose finished deliveries, identities that no maildrop holds any more, and how accounts
stand that nobody has any more; the spool loses what was begun there and never finished. Blobs are
left alone: a look at the ledgers cannot tell which of them a queue still refers to. It trusts the
database that an identity is kept as long as a maildrop holds its message. What cannot be done now
is reported, and tried again in an hour.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Protocol

from services.fetcher.interfaces import SpoolWriter
from shared.clock import Clock
from shared.daemon_thread import answer_within
from shared.errors import SpoolUnavailable, StateUnavailable
from shared.log import Report

HOUR: Final = 3_600.0
DAY: Final = 24 * HOUR

FIRST: Final = HOUR
"""Seconds from the start to the first time. After a long standstill a message may be delivered and
its UIDL not recorded; the polls of this hour record it before its delivery is forgotten."""

EVERY: Final = DAY
AGAIN: Final = HOUR
"""Seconds to the next time: after all went well, and after something did not."""

DRAFT_AGE: Final = DAY
"""Seconds after which nobody writes any more to what was begun in the spool: a session that made
no progress for a minute has long been closed."""

LEFT_AFTER: Final = 30 * DAY
"""Seconds after which it is forgotten how an account stands that nobody has queued or polled: long
beyond any time in which fetchers of two configurations run side by side. What was fetched of it is
not forgotten, should it come back."""

PATIENCE: Final = 10.0
"""Seconds that the start waits for a spool that does not answer."""

LEASE_NAME: Final = "upkeep"


class PrunableLedgers(Protocol):
    """The state database. Every call may raise StateUnavailable."""

    async def lease(self, name: str) -> bool:
        """Take a lease; return whether it is ours."""

    async def release(self, name: str) -> None:
        """Give a lease up."""

    async def prune(self, older_than: float) -> int:
        """Delete what has been over for so many seconds; return how many rows."""

    async def prune_accounts(self, accounts: Sequence[str], *, age: float) -> int:
        """Forget how all others stand that nobody has polled for so long; return how many."""


class Housekeeping:
    """Does the housekeeping while a fetcher runs.

    Of several fetchers one at a time goes through the ledgers, which they share; each looks after
    the spool, because unfinished blobs may lie on its own machine.

    Args:
        accounts: the names of all that are configured, those that are disabled as well.
        ledgers: the state database.
        spool: where large messages lie.
        note: told what was done.
        report: told what could not be.
        clock: the time.
        age: seconds that the ledgers go back, see ``shared.ledger.safe_age``.
    """

    def __init__(
        self,
        accounts: Sequence[str],
        ledgers: PrunableLedgers,
        spool: SpoolWriter,
        note: Report,
        report: Report,
        clock: Clock,
        age: float,
    ) -> None:
        self._accounts = accounts
        self._ledgers = ledgers
        self._spool = spool
        self._note = note
        self._report = report
        self._clock = clock
        self._age = age

    async def run(self, stop: asyncio.Event) -> None:
        """Do it once a day until ``stop`` is set."""
        wait = FIRST
        while not stop.is_set():
            await self._clock.sleep(wait)
            wait = EVERY if await self.once() else AGAIN

    async def begin(self) -> None:
        """Clear away what a process that was killed has left: a message may be large.

        A spool that does not answer is not waited for: small messages do without it.
        """
        try:
            await answer_within(
                self._clock, PATIENCE, asyncio.ensure_future(self._discard_drafts())
            )
        except TimeoutError:
            why = f"the spool has not answered within {PATIENCE:g} seconds"
            self._report("unfinished blobs could not be discarded", why=why)

    async def once(self) -> bool:
        """Do it now; return whether nothing was in the way."""
        pruned = await self._prune()
        return await self._discard_drafts() and pruned

    async def _prune(self) -> bool:
        try:
            if await self._ledgers.lease(LEASE_NAME):
                await self._prune_alone()
        except StateUnavailable as error:
            self._report("the ledgers could not be pruned", why=error)
            return False
        return True

    async def _prune_alone(self) -> None:
        try:
            rows = await self._ledgers.prune(self._age)
            rows += await self._ledgers.prune_accounts(self._accounts, age=LEFT_AFTER)
        finally:
            with suppress(StateUnavailable):  # then the lease expires by itself
                await self._ledgers.release(LEASE_NAME)
        self._note("ledgers pruned", rows=rows, older_than_days=round(self._age / DAY))

    async def _discard_drafts(self) -> bool:
        try:
            await self._spool.discard_drafts(DRAFT_AGE)
        except SpoolUnavailable as error:
            self._report("unfinished blobs could not be discarded", why=error)
            return False
        return True
