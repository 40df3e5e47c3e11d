"""The schedule: accounts that are due become poll jobs in the queue ``poll``.

Every fetcher runs one; the state database gives each due account to one of them only: for seconds,
until its poll job is queued, and then for as long as that may take. A scheduler that dies delays
its accounts by those seconds, a poll job that gets lost by the longer time; it is no worse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from services.fetcher.ports import Journal, Outbox, Schedule
from shared.clock import Clock
from shared.errors import BrokerUnavailable, Refused, StateUnavailable
from shared.message import Envelope, Poll, poll_id

CLAIM: Final = 5.0
"""Seconds that it may take to queue the poll jobs of due accounts."""

HOLD: Final = 1_800.0
"""Seconds for which a poll job may wait and run before its account is taken for due again."""

LOOK_EVERY: Final = 1.0


class Scheduler:
    """Looks for due accounts and queues a poll job for each.

    Args:
        accounts: the names of all accounts that are polled.
        schedule: knows which are due.
        outbox: the queue ``poll``.
        journal: told of trouble.
        clock: the time.
        blocked: tells why the broker takes nothing just now; then nothing is fetched either.
        first: seconds after which an account never seen before is polled, where not at once.
    """

    def __init__(
        self,
        accounts: Sequence[str],
        schedule: Schedule,
        outbox: Outbox,
        journal: Journal,
        clock: Clock,
        blocked: Callable[[], str | None],
        first: Mapping[str, float],
    ) -> None:
        self._accounts = accounts
        self._schedule = schedule
        self._outbox = outbox
        self._journal = journal
        self._clock = clock
        self._blocked = blocked
        self._first = first

    async def run(self, stop: asyncio.Event) -> None:
        """Queue poll jobs until ``stop`` is set."""
        while not stop.is_set():
            await self.queue_due()
            await self._clock.sleep(LOOK_EVERY)

    async def queue_due(self) -> None:
        """Queue a poll job for each account that is due now."""
        if self._blocked() is not None:
            return
        try:
            due = await self._schedule.claim_due(self._accounts, hold=CLAIM, first=self._first)
        except StateUnavailable as error:
            self._journal.trouble("the schedule cannot be read", why=error)
            return
        if due:
            await self._queue(due)

    async def _queue(self, due: Sequence[str]) -> None:
        now = self._clock.now()
        jobs = [Envelope(poll_id(name), name, Poll(), now) for name in due]
        try:
            await self._outbox.put(*jobs)
            await self._schedule.queued(due, hold=HOLD)
        except StateUnavailable as error:
            self._journal.trouble("accounts are due again although they are queued", why=error)
        except (BrokerUnavailable, Refused) as error:
            self._journal.trouble("poll jobs could not be queued", why=error)
            await self._give_back(due)

    async def _give_back(self, due: Sequence[str]) -> None:
        try:
            await self._schedule.give_back(due)
        except StateUnavailable as error:
            self._journal.trouble("accounts are due again only after a while", why=error)
