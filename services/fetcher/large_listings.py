"""Large listings of one process take turns: each of them may need 100 MB.

Whose listing turns out to be large waits, in the middle of it, while others are read and compared:
of very large ones one at a time, of those that are not small some. The server waits with us, which
is not held against it. Small ones never wait. What the ledger knows of a maildrop is read ahead of
its listing for one at a time, too, unless it is little.

It trusts no server to be quick: after PATIENCE a listing goes on beside the one that it waits for,
so that a slow server costs the others time, and not their mail. Known limit: with several slow ones
there is more than one in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

MIDDLING: Final = 5_000
"""Lines of a listing from which on it waits where there are several such: 1 MB."""

SEVERAL: Final = 8
"""So many."""

LARGE: Final = 30_000
"""Lines from which on it waits while there is another one as large: 6 MB."""

PATIENCE: Final = 60.0
"""Seconds that it waits at most, for each: more than a million lines take."""


class ListingTurns:
    """The turns of one process.

    Attributes:
        ahead: held by whom the ledger is read ahead for.
    """

    def __init__(self) -> None:
        self._several = asyncio.Semaphore(SEVERAL)
        self._one = asyncio.Lock()
        self.ahead = asyncio.Lock()

    def turn(self, patience: float = PATIENCE) -> ListingTurn:
        """Return a turn that may be taken, in an ``async with``.

        Args:
            patience: seconds after which it is done without.
        """
        # In this order, of all: so none waits for another that waits for it.
        return ListingTurn([(MIDDLING, self._several), (LARGE, self._one)], patience)


class ListingTurn:
    """A turn, given back at the end of the block.

    Args:
        wanted: what is held meanwhile, from so many lines on.
        patience: seconds after which it is done without.
    """

    def __init__(
        self, wanted: Sequence[tuple[int, asyncio.Semaphore | asyncio.Lock]], patience: float
    ) -> None:
        self._wanted = list(wanted)
        self._patience = patience
        self._held: list[asyncio.Semaphore | asyncio.Lock] = []

    async def take(self, lines: int) -> bool:
        """Wait for the turn where a listing has so many lines; return whether it was waited for."""
        asked = False
        while self._wanted and lines >= self._wanted[0][0]:
            _, lock = self._wanted.pop(0)
            asked = True
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    await lock.acquire()
                    self._held.append(lock)
        return asked

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while self._held:
            self._held.pop().release()
