"""Polls that go on after their job is settled.

A broker takes a delivery back that is not settled for long (RabbitMQ after 30 minutes, unless its
``consumer_timeout`` says otherwise, which no client is told), and hands out no more than so many at
a time. So a poll that waits for its server, or takes long, does not keep its job: it goes on by
itself, under the lease of its account. Should the process die, the account is due again after the
hold that whoever let go of the job has set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from shared.outcome import Outcome

JOB_KEPT: Final = 600.0
"""Seconds for which a poll keeps its job at the most, besides those in which it has no slot."""


class DetachedPolls:
    """Polls without a job.

    Args:
        crashed: told of what one of them raises.
    """

    def __init__(self, crashed: Callable[[BaseException], None]) -> None:
        self._crashed = crashed
        self._polls: set[asyncio.Task[Outcome]] = set()

    async def until(
        self, poll: Coroutine[Any, Any, Outcome], let_go: asyncio.Future[None]
    ) -> Outcome | None:
        """Return what has become of a poll; None where it goes on without its job.

        Args:
            poll: which one.
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
        self._polls.add(task)
        task.add_done_callback(self._note_end)
        return None

    async def close(self) -> None:
        """Cancel the polls that still run; what they had not recorded is fetched again."""
        for task in self._polls:
            task.cancel()
        if self._polls:
            await asyncio.wait(set(self._polls))

    def _note_end(self, task: asyncio.Task[Outcome]) -> None:
        self._polls.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crashed(error)
