"""Group commit: what is asked for while a batch runs is done together in the next one.

Blocking work with a fixed cost (a transaction, an fsync of a directory) is cheap when many share
it. Callers await the answers for their items; a worker thread gets the items of all callers as
batches. Under little load a batch is one item and nobody waits; under much load batches grow by
themselves. It trusts ``run`` to answer for every item; where it does not, the whole batch fails,
none of it silently.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextvars import copy_context
from functools import partial
from typing import Final, Generic, TypeAlias, TypeVar

LINGER: Final = 0.005
FEW: Final = 8
"""Where some wait when a batch ends, but fewer than these, more are on their way: they are waited
for, this many seconds. What servers answer for one by one came in batches of three, and a batch has
a cost in two threads, and its own sync. Who comes alone never waits. No longer than a sync takes:
what a server has taken is not recorded meanwhile (the window of RFC 1047)."""

T = TypeVar("T")
R = TypeVar("R")
_Answers: TypeAlias = Sequence[R | Exception]
_Waiter: TypeAlias = tuple[Sequence[T], "asyncio.Future[_Answers[R]]"]


class GroupCommit(Generic[T, R]):
    """An async function of some items over a blocking function of many.

    One batch runs at a time, and batches and their items keep the order in which they were asked
    for. It belongs to one event loop. A caller that is cancelled stops waiting; its items are done
    all the same. Closing the executor is its owner's part.

    Args:
        run: does a batch, in a thread of the executor and in the context of whoever made this;
            returns one answer for each item in the order of the items. An Exception among the
            answers is the answer for that item alone; one that is raised is, for all callers of
            the batch.
        executor: where ``run`` runs. Several may share one; a single thread then serialises them.
        limit: items that a batch may have at most.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], _Answers[R]],
        executor: Executor,
        limit: int = 1000,
    ) -> None:
        self._run = run
        self._executor = executor
        self._limit = limit
        self._waiting: deque[_Waiter[T, R]] = deque()
        self._busy = False
        self._context = copy_context()  # one batch at a time: it is entered once at a time

    async def __call__(self, item: T) -> R:
        """Return what ``run`` answered for this item.

        Raises:
            Exception: what ``run`` raised, or answered for this item.
        """
        (answer,) = await self.all([item])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def all(self, items: Sequence[T]) -> _Answers[R]:
        """Return what ``run`` answered for each of these items, in one batch if that takes them.

        Raises:
            Exception: what ``run`` raised.
        """
        if len(items) <= self._limit:
            return await self._enqueue(items)
        answers: list[R | Exception] = []
        for start in range(0, len(items), self._limit):
            answers += await self._enqueue(items[start : start + self._limit])
        return answers

    def _enqueue(self, items: Sequence[T]) -> asyncio.Future[_Answers[R]]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Answers[R]] = loop.create_future()
        self._waiting.append((items, future))
        if not self._busy:
            self._busy = True
            loop.call_soon(self._start, loop)  # not at once: others are ready in this very tick
        return future

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, items = self._next()
        try:
            job = self._executor.submit(self._context.run, self._run, items)
        except RuntimeError as error:  # the executor was shut down
            self._settle(loop, batch, error)
        else:
            job.add_done_callback(partial(self._back_to_loop, loop, batch))

    def _next(self) -> tuple[list[_Waiter[T, R]], list[T]]:
        batch: list[_Waiter[T, R]] = []
        items: list[T] = []
        while self._waiting and (not batch or len(items) + len(self._waiting[0][0]) <= self._limit):
            waiter = self._waiting.popleft()
            batch.append(waiter)
            items += waiter[0]
        return batch, items

    def _back_to_loop(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Waiter[T, R]],
        job: Future[_Answers[R]],
    ) -> None:
        error = asyncio.CancelledError() if job.cancelled() else job.exception()
        answers = job.result() if error is None else error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._settle, loop, batch, answers)

    def _settle(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Waiter[T, R]],
        answers: _Answers[R] | BaseException,
    ) -> None:
        asked = sum(len(items) for items, _ in batch)
        if not isinstance(answers, BaseException) and len(answers) != asked:
            answers = RuntimeError(f"{len(answers)} answers for a batch of {asked}")
        start = 0
        for items, future in batch:
            end = start + len(items)
            _answer(future, answers if isinstance(answers, BaseException) else answers[start:end])
            start = end
        self._busy = bool(self._waiting)
        if sum(len(items) for items, _ in self._waiting) >= FEW:
            self._start(loop)
        elif self._busy:
            loop.call_later(LINGER, self._start, loop)


def _answer(future: asyncio.Future[_Answers[R]], answer: _Answers[R] | BaseException) -> None:
    if future.done():  # its caller was cancelled
        return
    if isinstance(answer, asyncio.CancelledError):
        future.cancel()
    elif isinstance(answer, BaseException):
        future.set_exception(answer)
    else:
        future.set_result(answer)
