"""A waiting line, in order; what has to be sent once more goes to its head.

It belongs to one event loop, and knows nothing of time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class WaitingLine(Generic[T]):
    """What waits."""

    def __init__(self) -> None:
        self._waiting: deque[T] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, one: T) -> None:
        """Put one at the end of the line."""
        self._waiting.append(one)

    def put_back(self, one: T) -> None:
        """Put one at the head of the line that has been in it before."""
        self._waiting.appendleft(one)

    def take_next(self) -> T | None:
        """Take the first one out of the line; None if none waits."""
        return self._waiting.popleft() if self._waiting else None

    def take_next_if(self, true: Callable[[T], bool]) -> T | None:
        """Take the first one out of the line if this is true of it; None if not."""
        return self.take_next() if self._waiting and true(self._waiting[0]) else None

    def take_last(self, count: int) -> list[T]:
        """Take so many out of the end of the line: those that have waited least."""
        return [self._waiting.pop() for _ in range(min(count, len(self._waiting)))]

    def remove(self, gone: Callable[[T], bool]) -> None:
        """Take those out of the line of which this is true."""
        self._waiting = deque(one for one in self._waiting if not gone(one))
