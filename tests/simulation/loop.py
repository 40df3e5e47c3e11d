"""An event loop whose time jumps to whatever is next, and threads that belong to it.

All that goes by the loop (timers, timeouts, sleeps) passes at once, and in the right order: hours
take as long as what is computed in them. Nothing may run beside the loop, or time would pass
without it: what has a thread of its own does its work in the loop's, in ``threads_joined``.
"""

import asyncio
import contextlib
import selectors
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar

import pytest

from shared import state
from shared.broker.embedded import broker, worker
from shared.broker.embedded.jobs import Job, Subscribe

T = TypeVar("T")

TRANSACTION = 0.002
"""Seconds for a transaction of the state database; what comes meanwhile shares the next one."""

LOOK = 1.0
"""Seconds between two looks of a broker at what is due, and who has died."""

_BIT = 1e-6


class Process:
    """What runs as one process; it may be killed.

    Attributes:
        alive: whether it has not been.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.tasks: set[asyncio.Task[Any]] = set()
        self.killed: list[Callable[[], None]] = []

    def start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Start a task of this process; all that it starts is of this process, too."""
        token = PROCESS.set(self)
        try:
            return asyncio.get_running_loop().create_task(work)
        finally:
            PROCESS.reset(token)

    def kill(self) -> None:
        """End it between two instructions: nothing of it is done any more, nothing given back."""
        self.alive = False
        for end in [*self.killed]:
            end()
        for task in self.tasks:
            task.cancel()


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Its time begins at 0."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Jumps(self))
        self.set_task_factory(_of_its_process)
        self.set_default_executor(JoinedThread(takes=0.0))

    def time(self) -> float:
        return self._now

    def jump(self, seconds: float) -> None:
        """Pass so much time, and a bit: who looks at the clock is never early by a rounding."""
        self._now += seconds + _BIT

    def _write_to_self(self) -> None:
        """Nobody waits at the selector."""


class _Jumps(selectors.SelectSelector):
    def __init__(self, loop: SimulatedLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits, and nothing will ever happen")
        self._loop.jump(timeout)
        return []


def _of_its_process(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> "asyncio.Task[Any]":
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **more)
    process = PROCESS.get()
    if process is not None:
        process.tasks.add(task)
        task.add_done_callback(process.tasks.discard)
    return task


class LoopClock:
    """The time of the loop.

    Args:
        begins: seconds since 1970 (UTC) at which the loop's time was 0.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, begins: float) -> None:
        self._loop = loop
        self._begins = begins

    def now(self) -> float:
        return self._begins + self._loop.time()

    def monotonic(self) -> float:
        return self._loop.time()

    boottime = monotonic

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class JoinedThread(ThreadPoolExecutor):
    """Does its work in the thread of whoever asks, and answers after some time of the loop.

    Args:
        takes: seconds until the answer.
    """

    def __init__(self, *_: object, takes: float = TRANSACTION, **__: object) -> None:
        super().__init__(1)
        self._takes = takes
        self._process = PROCESS.get()

    def submit(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        future: Future[T] = Future()
        if self._process is not None and not self._process.alive:
            future.cancel()  # and with it whoever waits for it
            return future
        try:
            answer = partial(future.set_result, work(*args, **kwargs))
        except Exception as error:
            answer = partial(future.set_exception, error)
        asyncio.get_running_loop().call_later(self._takes, answer)
        return future


class JoinedWorker(worker.Worker):
    """The embedded broker's thread, in the loop's. What others commit is looked at next."""

    _all: ClassVar[set["JoinedWorker"]] = set()

    def start(self, opened: "asyncio.Future[None]") -> None:
        self._loop = asyncio.get_running_loop()
        self._running = self._open(opened)
        self._asked = False
        self._process = PROCESS.get()
        if self._process is not None:
            self._process.killed.append(self._killed)
        self._all.add(self)
        self._loop.call_later(LOOK, self._look)

    def submit(self, jobs: list[Job]) -> None:
        if not self._running:
            for job in jobs:
                if not isinstance(job, Subscribe):
                    job.done.cancel()
            return
        self._running = self._turn(jobs)
        if not self._running:
            self._all.discard(self)
        for other in self._all:
            if other is not self and other._path == self._path and not other._asked:
                other._asked = True
                self._loop.call_soon(other._see)

    def _see(self) -> None:
        self._asked = False
        if self._running:
            self._turn([])

    def _look(self) -> None:
        if self._running:
            self._turn([])
            self._loop.call_later(LOOK, self._look)

    def _killed(self) -> None:
        self._running = False
        self._all.discard(self)
        self._release_owner()


@contextlib.contextmanager
def threads_joined(loop: SimulatedLoop) -> Iterator[None]:
    """Let states and brokers that are opened in this block have no threads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "ThreadPoolExecutor", JoinedThread)
        patch.setattr(broker, "Worker", JoinedWorker)
        patch.setattr(worker, "time", SimpleNamespace(monotonic=loop.time))
        yield


def simulate(main: Callable[[SimulatedLoop], Coroutine[Any, Any, T]]) -> T:
    """Run something in a loop whose time jumps."""
    loop = SimulatedLoop()
    with threads_joined(loop), asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main(loop))
