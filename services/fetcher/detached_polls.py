"""Polls that go on after their job is settled.

A broker takes a delivery back that is not settled for long (RabbitMQ after 30 minutes, unless its
``consumer_timeout`` says otherwise, which no client is told), and hands out no more than so many at
a time. So a poll that stands in line for its server, waits for it, or takes long, does not keep its
job: it goes on by itself, and its account is held, so that none queues another job for it. Should
the process die, the account is due again when that hold is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeAlias

from shared.clock import Clock
from shared.outcome import Outcome

JOB_KEPT: Final = 600.0
"""Seconds for which a poll keeps its job at the most, besides those in which it has no slot."""


HOLD_EVERY: Final = 10.0
"""Seconds between two holds of the accounts whose polls go on."""

Hold: TypeAlias = Callable[[Sequence[str]], Awaitable[None]]


class DetachedPolls:
    """Polls without a job.

    Args:
        hold: lets accounts not be due for longer than ``HOLD_EVERY``.
        clock: the time.
        crashed: told of what one of them raises.
    """

    def __init__(self, hold: Hold, clock: Clock, crashed: Callable[[BaseException], None]) -> None:
        self._hold = hold
        self._clock = clock
        self._crashed = crashed
        self._polls: dict[asyncio.Task[Outcome], str] = {}
        self._holding: asyncio.Task[None] | None = None

    async def until(
        self, account: str, poll: Coroutine[Any, Any, Outcome], let_go: asyncio.Future[None]
    ) -> Outcome | None:
        """Return what has become of a poll; None where it goes on without its job.

        Args:
            account: which is polled.
            poll: of it.
            let_go: done when it does not need its job any more.
        """
        task = asyncio.create_task(poll)
        either: set[asyncio.Future[Any]] = {task, let_go}
        try:
            await asyncio.wait(either, timeout=JOB_KEPT, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            raise
        if task.done():
            return task.result()
        self._polls[task] = account
        task.add_done_callback(self._note_end)
        await self._hold([account])
        if self._holding is None or self._holding.done():
            self._holding = asyncio.create_task(self._hold_all())
        return None

    async def close(self) -> None:
        """Cancel the polls that still run; what they had not recorded is fetched again."""
        tasks: set[asyncio.Task[Any]] = set(self._polls)
        if self._holding is not None:
            tasks.add(self._holding)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _hold_all(self) -> None:
        while self._polls:
            await self._clock.sleep(HOLD_EVERY)
            if self._polls:
                await self._hold([*self._polls.values()])

    def _note_end(self, task: asyncio.Task[Outcome]) -> None:
        del self._polls[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crashed(error)
