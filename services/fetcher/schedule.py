"""The schedule: accounts that are due become poll jobs in the queue ``poll``.

Every fetcher runs one; the state database gives each due account to one of them only: for seconds,
until its poll job is queued, and then for as long as that may take. A scheduler that dies delays
its accounts by those seconds, a poll job that gets lost by a few minutes: where the queue is empty,
what was queued before that and is not being polled is due again. (Where the queue is never found
empty, by the longer time.) A second job for an account whose first one turns up is not polled twice
at a time, as polls have a lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from services.fetcher.interfaces import EnvelopeSink, MailEvents, Schedule
from shared.clock import Clock
from shared.errors import BrokerUnavailable, Refused, StateUnavailable
from shared.message import Envelope, Poll, poll_id

CLAIM: Final = 5.0
"""Seconds that it may take to queue the poll jobs of due accounts."""

HOLD: Final = 1_800.0
"""Seconds for which a poll job may wait and run before its account is taken for due again."""

LOOK_EVERY: Final = 1.0

MISS_EVERY: Final = 60.0
"""Seconds between two looks for poll jobs that are lost."""

MISSED_AFTER: Final = 120.0
"""Seconds after which a poll job that was queued is in the queue, or its account is polled: who
takes one waits for no slot with it, unless it is to be done at once."""


class Scheduler:
    """Looks for due accounts and queues a poll job for each.

    Args:
        accounts: the names of all accounts that are polled.
        schedule: knows which are due.
        publisher: sends to the queue ``poll``.
        waiting: tells how many jobs wait in it.
        journal: told of trouble.
        clock: the time.
        blocked: tells why the broker takes nothing just now; then nothing is fetched either.
        first: seconds after which an account never seen before is polled, where not at once.
    """

    def __init__(
        self,
        accounts: Sequence[str],
        schedule: Schedule,
        publisher: EnvelopeSink,
        waiting: Callable[[], Awaitable[int]],
        journal: MailEvents,
        clock: Clock,
        blocked: Callable[[], str | None],
        first: Mapping[str, float],
    ) -> None:
        self._accounts = accounts
        self._schedule = schedule
        self._publisher = publisher
        self._waiting = waiting
        self._journal = journal
        self._clock = clock
        self._blocked = blocked
        self._first = first
        self._miss_at = clock.monotonic() + MISS_EVERY

    async def run(self, stop: asyncio.Event) -> None:
        """Queue poll jobs until ``stop`` is set."""
        while not stop.is_set():
            if self._clock.monotonic() >= self._miss_at:
                self._miss_at = self._clock.monotonic() + MISS_EVERY
                await self.release_lost()
            await self.queue_due()
            await self._clock.sleep(LOOK_EVERY)

    async def release_lost(self) -> None:
        """Let accounts be due again whose poll jobs were lost, with their queue or out of it."""
        try:
            if await self._waiting():
                return
            lost = await self._schedule.release_lost(self._accounts, age=MISSED_AFTER)
        except StateUnavailable as error:
            self._journal.trouble("the schedule cannot be read", why=error)
        except BrokerUnavailable:
            pass  # it is said where jobs are to be queued
        else:
            if lost:
                self._journal.trouble(
                    "poll jobs were lost: their accounts are polled again", jobs=len(lost)
                )

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
            await self._publisher.put(*jobs)
            await self._schedule.hold_queued(due, hold=HOLD)
        except StateUnavailable as error:
            self._journal.trouble(
                "accounts may be polled twice: their jobs could not be noted", why=error
            )
        except (BrokerUnavailable, Refused) as error:
            self._journal.trouble("poll jobs could not be queued", why=error)
            await self._give_back(due)

    async def _give_back(self, due: Sequence[str]) -> None:
        try:
            await self._schedule.give_back(due)
        except StateUnavailable as error:
            self._journal.trouble("accounts are polled later than planned", why=error)
