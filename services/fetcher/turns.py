"""Very large listings of one process take turns: each of them may need 100 MB.

Whose listing turns out to be large waits, in the middle of it, while another one is read and
compared; the server waits with us, which is not held against it. Small ones never wait.

It trusts no server to be quick: after PATIENCE a listing goes on beside the one that it waits for,
so that a slow server costs the others time, and not their mail. Known limit: with several slow ones
there is more than one in memory.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

LARGE: Final = 50_000
"""Lines of a listing from which on it waits for its turn: 10 MB."""

PATIENCE: Final = 60.0
"""Seconds that it waits at most; a million lines take some ten."""


class Turns:
    """The turns of one process."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    def turn(self) -> Turn:
        """Return a turn that may be taken once, in an ``async with``."""
        return Turn(self._lock)


class Turn:
    """A turn, given back at the end of the block.

    Args:
        lock: is held meanwhile.
        patience: seconds after which it is done without.
    """

    def __init__(self, lock: asyncio.Lock, patience: float = PATIENCE) -> None:
        self._lock = lock
        self._patience = patience
        self._asked = False
        self._has = False

    async def take(self, lines: int) -> bool:
        """Wait for the turn where a listing has so many lines; return whether it was waited for."""
        if self._asked or lines < LARGE:
            return False
        self._asked = True
        try:
            async with asyncio.timeout(self._patience):
                await self._lock.acquire()
        except TimeoutError:
            return True
        self._has = True
        return True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._has:
            self._has = False
            self._lock.release()
