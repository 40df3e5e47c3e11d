"""A bounded number of places: who finds none free waits in line, and not for ever.

An ``asyncio.Semaphore`` with one timer for all that wait rather than one for each. They come in
order and all wait as long, so the first in line is always the first whose time is over. It belongs
to one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Slots:
    """So many places, and the line of those who wait for one.

    Args:
        count: how many places there are.
        patience: seconds to wait for one, at the most.
    """

    def __init__(self, count: int, patience: float) -> None:
        self._free = count
        self._patience = patience
        self._line: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def take(self) -> None:
        """Take a place; wait in line until there is one.

        Raises:
            TimeoutError: there was none in time.
        """
        if self._free:
            self._free -= 1
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        until = loop.time() + self._patience
        self._line.append((until, future))
        if self._timer is None:
            self._timer = loop.call_at(until, self._turn_away, loop)
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None:  # it had just become ours
                self.give()
            raise

    def give(self) -> None:
        """Give a place back: to the first in line, if there is one."""
        while self._line:
            _, future = self._line.popleft()
            if not future.done():
                future.set_result(None)
                return
        self._free += 1

    def _turn_away(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send away those whose time is over, and look again when the next one's is."""
        now = loop.time()
        while self._line and (self._line[0][0] <= now or self._line[0][1].done()):
            _, future = self._line.popleft()
            if not future.done():
                future.set_exception(TimeoutError())
        self._timer = None
        if self._line:
            self._timer = loop.call_at(self._line[0][0], self._turn_away, loop)
