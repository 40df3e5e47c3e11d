"""Clocks that a test moves by hand."""

import asyncio
import heapq
import mmap
import struct
import time
from pathlib import Path

from shared.clock import SystemClock


class ManualClock:
    """Stands still until ``advance``; sleepers wake in order when their time has come."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._start = now
        self._now = now
        self._suspended = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    @property
    def sleepers(self) -> int:
        """How many sleep."""
        return sum(not future.done() for _, _, future in self._sleepers)

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now - self._start - self._suspended

    def boottime(self) -> float:
        return self._now - self._start

    def suspend(self, seconds: float, *, told: bool = True) -> None:
        """Let time pass in which the machine is suspended: sleepers know nothing of it.

        Args:
            seconds: how much of it.
            told: whether the wall clock has been set right since.
        """
        if not told:
            self._start -= seconds
            self._suspended += seconds
            return
        self._now += seconds
        self._suspended += seconds
        self._sleepers = [(at + seconds, n, future) for at, n, future in self._sleepers]

    def set(self, seconds: float) -> None:
        """Put the wall clock so far ahead, or back; no time passes by that."""
        self._now += seconds
        self._start += seconds
        self._sleepers = [(at + seconds, n, future) for at, n, future in self._sleepers]

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._now + seconds, self._count, future))
        await future

    async def skip(self) -> bool:
        """Move on to the moment at which the next sleeper wakes; False where nobody sleeps."""
        if not self._sleepers:
            return False
        await self.advance(self._sleepers[0][0] - self._now)
        return True

    async def advance(self, seconds: float) -> None:
        """Move time on, waking every sleeper on the way at its own moment."""
        target = self._now + seconds
        while self._sleepers and self._sleepers[0][0] <= target:
            self._now, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
            await _let_run()
        self._now = target
        await _let_run()


async def _let_run() -> None:
    """Let the event loop turn 20 times; fewer where it has had nothing to do for two turns.

    A day of a clock with a sleeper for every five seconds is 17,000 of these.
    """
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
    idle = 0
    for _ in range(20):
        await asyncio.sleep(0)
        idle = 0 if ready else idle + 1
        if idle == 2:
            return


class ShiftedClock:
    """The machine's clocks, as far ahead or back as a test has put them: in several processes.

    Sleepers sleep as long as they would on the machine; what looks at the clock sees it jump.

    Args:
        path: a file that they all look at; it is made if it is missing.
    """

    _OFFSETS = struct.Struct("dd")

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            path.write_bytes(bytes(self._OFFSETS.size))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), self._OFFSETS.size)

    def now(self) -> float:
        return time.time() + self._offsets()[0]

    def monotonic(self) -> float:
        return time.monotonic() + self._offsets()[1]

    def boottime(self) -> float:
        return self.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        wall, monotonic = self._offsets()
        self._OFFSETS.pack_into(self._shared, 0, wall + seconds, monotonic + seconds)

    def set(self, seconds: float) -> None:
        """Put the wall clock this far ahead, or back; no time passes by that."""
        self._OFFSETS.pack_into(self._shared, 0, seconds, self._offsets()[1])

    def rule(self) -> None:
        """Be the machine's clock in this process from now on."""
        for name in ("now", "monotonic", "boottime"):
            setattr(SystemClock, name, getattr(self, name))

    def _offsets(self) -> tuple[float, float]:
        wall, monotonic = self._OFFSETS.unpack_from(self._shared)
        return wall, monotonic
