"""A line: suspects that wait for one process, and are handled in it side by side.

What crashes its process does so when it is handled. So a suspect has its first moments, in which a
crash is likely its doing, and after them waits for a server, beside whoever comes next. A line
starts its process when there is somebody to try, says who was in it when it ended, and judges
nobody. A process that cannot be started charges nobody either: who waits for it is put off.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from shared.broker import Delivery, Header
from shared.clock import Clock
from shared.settlement import Settlement
from shared.trial import Ended, NotStarted, TrialProcess
from shared.trial.starter import ProcessStarter

FIRST_MOMENTS: Final = 1.0
"""Seconds in which a message crashes the process that handles it, if it does."""

IDLE: Final = 10.0
"""Seconds for which a process waits for another suspect: to start one costs more."""


@dataclass(slots=True, eq=False)
class Suspect:
    """A message that may be what crashes its process.

    Attributes:
        told: what an operator is to read of it, once that could be read.
        ends: processes that ended while it was beyond its first moments there.
        crashes: processes of its own that ended while they had it in hand.
    """

    delivery: Delivery
    told: Mapping[str, Header] | None = None
    ends: int = 0
    crashes: int = 0

    def tell(self, told: Mapping[str, Header]) -> None:
        """Take what an operator is to read of it."""
        self.told = told


Answered: TypeAlias = Callable[[Suspect, Settlement], None]
"""Takes what follows from a suspect."""

Postpone: TypeAlias = Callable[[Suspect], None]
"""Takes one that cannot be tried now."""

ProcessEnded: TypeAlias = Callable[[str, list[Suspect], list[Suspect]], None]
"""Takes how a process ended, who was in its first moments there, and who else was in hand."""

Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
"""Starts a task that is waited for when the stage ends."""


class SideBySideTrials:
    """One line, and its process.

    Args:
        width: how many may be in their first moments at a time.
        starts: starts processes.
        answered: is told what follows.
        put_off: is told of those for whom no process starts.
        ended: is told of each end of a process that was not asked for.
        spawn: starts what hands a suspect over.
        clock: times first moments.
    """

    def __init__(
        self,
        width: int,
        starts: ProcessStarter,
        answered: Answered,
        put_off: Postpone,
        ended: ProcessEnded,
        spawn: Spawn,
        clock: Clock,
    ) -> None:
        self._starts = starts
        self._answered = answered
        self._put_off = put_off
        self._ended = ended
        self._spawn = spawn
        self._clock = clock
        self._width = width
        self._trials: deque[Suspect] = deque()
        self._change = asyncio.Event()
        self._in_hand: dict[Suspect, float] = {}  # since when, by the monotonic clock
        self._lost: list[Suspect] = []
        self._process: TrialProcess | None = None

    def put(self, suspect: Suspect) -> None:
        """Have one wait in the line; somebody has to see that it ``run``s."""
        self._trials.append(suspect)
        self._change.set()

    def stop(self) -> int:
        """Start no further trial; return how many waited for one."""
        left = len(self._trials)
        self._trials.clear()
        return left

    async def run(self) -> None:
        """Try whoever is in the line; return when there was nobody for a while."""
        try:
            while self._trials:
                await self._serve()
                await self.close()
        finally:
            await self.close()

    async def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            await process.close()

    async def _serve(self) -> None:
        """Try whoever is in the line with one process after the other."""
        while self._trials or self._in_hand or not await self._idle():
            if self._process is None or (self._process.ended is not None and not self._in_hand):
                await self.close()
                try:
                    self._process = await self._starts.process()
                except NotStarted:
                    self._let_go()
                    return
            self._admit(self._process)
            if not self._in_hand:
                continue
            await self._wait_change(self._until_next())
            if self._process.ended is not None and len(self._lost) == len(self._in_hand):
                await self._report_end(self._process.ended)

    def _let_go(self) -> None:
        """Put off who is in the line."""
        while self._trials:
            self._put_off(self._trials.popleft())

    def _admit(self, process: TrialProcess) -> None:
        while self._trials and process.ended is None and len(self._young()) < self._width:
            suspect = self._trials.popleft()
            self._in_hand[suspect] = self._clock.monotonic()
            self._spawn(self._try(process, suspect))

    def _young(self) -> list[Suspect]:
        """Return who is in its first moments."""
        since = self._clock.monotonic() - FIRST_MOMENTS
        return [suspect for suspect, begun in self._in_hand.items() if begun > since]

    def _until_next(self) -> float | None:
        """Return seconds after which there is room for another one, None if only a change tells."""
        young = self._young()
        if not self._trials or len(young) < self._width:
            return None
        oldest = min(self._in_hand[suspect] for suspect in young)
        return max(0.0, oldest + FIRST_MOMENTS - self._clock.monotonic())

    async def _try(self, process: TrialProcess, suspect: Suspect) -> None:
        try:
            follows = await process.handle(suspect.delivery, suspect.tell)
        except Ended:
            self._lost.append(suspect)
        except BaseException:
            self._in_hand.pop(suspect, None)
            raise
        else:
            del self._in_hand[suspect]
            self._answered(suspect, follows)
        finally:
            self._change.set()

    async def _report_end(self, how: str) -> None:
        """Say who was in the process that has ended; those are in nobody's hands now."""
        young = self._young()
        others = [suspect for suspect in self._in_hand if suspect not in young]
        self._in_hand.clear()
        self._lost.clear()
        await self.close()
        self._ended(how, young, others)

    async def _idle(self) -> bool:
        """Return whether nobody has come for a while."""
        if self._process is None:
            return True
        end = self._clock.monotonic() + IDLE
        while not self._trials and (left := end - self._clock.monotonic()) > 0:
            await self._wait_change(left)
        return not self._trials

    async def _wait_change(self, seconds: float | None) -> None:
        """Return when there is something new, after so many seconds at the latest."""
        if self._change.is_set():
            self._change.clear()
            return
        change = asyncio.create_task(self._change.wait())
        waits: set[asyncio.Task[Any]] = {change}
        if seconds is not None:
            waits.add(asyncio.create_task(self._clock.sleep(seconds)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._change.clear()
