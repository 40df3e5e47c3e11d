"""Group commit: what is asked for while a batch runs is done together in the next one.

Blocking work with a fixed cost (a transaction, an fsync of a directory) is cheap when many share
it. Callers await one item each; a worker thread gets them as batches. Under little load a batch is
one item and nobody waits; under much load batches grow by themselves. It trusts ``run`` to answer
for every item; where it does not, the whole batch fails, none of it silently.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from itertools import islice
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")
R = TypeVar("R")
_Waiter: TypeAlias = tuple[T, "asyncio.Future[R]"]


class Grouped(Generic[T, R]):
    """An async function of one item over a blocking function of many.

    One batch runs at a time, and batches and their items keep the order in which they were asked
    for. It belongs to one event loop. A caller that is cancelled stops waiting; its item is done
    all the same. Closing the executor is its owner's part.

    Args:
        run: does a batch, in a thread of the executor; returns one answer for each item in the
            order of the items. An Exception among the answers is raised to that item's caller
            alone; one that is raised, to all callers of the batch.
        executor: where ``run`` runs. Several may share one; a single thread then serialises them.
        limit: items that a batch may have at most.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Sequence[R | Exception]],
        executor: Executor,
        limit: int = 1000,
    ) -> None:
        self._run = run
        self._executor = executor
        self._limit = limit
        self._waiting: deque[_Waiter[T, R]] = deque()
        self._busy = False

    async def __call__(self, item: T) -> R:
        """Return what ``run`` answered for this item.

        Raises:
            Exception: what ``run`` raised, or answered for this item.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._waiting.append((item, future))
        if not self._busy:
            self._busy = True
            loop.call_soon(self._start, loop)  # not at once: others are ready in this very tick
        return await future

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        batch = list(islice(self._waiting, self._limit))
        for _ in batch:
            self._waiting.popleft()
        try:
            job = self._executor.submit(self._run, [item for item, _ in batch])
        except RuntimeError as error:  # the executor was shut down
            self._settle(loop, batch, error)
        else:
            job.add_done_callback(partial(self._back_to_loop, loop, batch))

    def _back_to_loop(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Waiter[T, R]],
        job: Future[Sequence[R | Exception]],
    ) -> None:
        error = asyncio.CancelledError() if job.cancelled() else job.exception()
        answers = job.result() if error is None else error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._settle, loop, batch, answers)

    def _settle(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Waiter[T, R]],
        answers: Sequence[R | Exception] | BaseException,
    ) -> None:
        if not isinstance(answers, BaseException) and len(answers) != len(batch):
            answers = RuntimeError(f"{len(answers)} answers for a batch of {len(batch)}")
        each = [answers] * len(batch) if isinstance(answers, BaseException) else answers
        for (_, future), answer in zip(batch, each, strict=True):
            _answer(future, answer)
        self._busy = bool(self._waiting)
        if self._busy:
            self._start(loop)


def _answer(future: asyncio.Future[R], answer: R | BaseException) -> None:
    if future.done():  # its caller was cancelled
        return
    if isinstance(answer, asyncio.CancelledError):
        future.cancel()
    elif isinstance(answer, BaseException):
        future.set_exception(answer)
    else:
        future.set_result(answer)
