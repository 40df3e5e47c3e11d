"""A line of those who wait for a connection: in order, and not for ever.

One timer for all: they come in order and all wait as long, so the first in line is always the first
whose time is over. It belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Line(Generic[T]):
    """Who waits.

    Args:
        patience: seconds to wait, at the most.
        late: is given those whose time is over, one by one.
    """

    def __init__(self, patience: float, late: Callable[[T], None]) -> None:
        self._patience = patience
        self._late = late
        self._waiting: deque[tuple[float, T]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, several: Iterable[T]) -> None:
        """Put these at the end of the line."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience
        self._waiting.extend((until, one) for one in several)
        if self._timer is None and self._waiting:
            self._timer = loop.call_at(until, self._turn_away, loop)

    def next(self) -> T | None:
        """Take the first one out of the line; None if nobody waits."""
        return self._waiting.popleft()[1] if self._waiting else None

    def next_if(self, true: Callable[[T], bool]) -> T | None:
        """Take the first one out of the line if this is true of it; None if not."""
        return self.next() if self._waiting and true(self._waiting[0][1]) else None

    def leave(self, gone: Callable[[T], bool]) -> None:
        """Take those out of the line of whom this is true."""
        self._waiting = deque(entry for entry in self._waiting if not gone(entry[1]))

    def _turn_away(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send away those whose time is over, and look again when the next one's is."""
        now = loop.time()
        self._timer = None
        while self._waiting and self._waiting[0][0] <= now:
            self._late(self._waiting.popleft()[1])
        if self._waiting:
            self._timer = loop.call_at(self._waiting[0][0], self._turn_away, loop)
