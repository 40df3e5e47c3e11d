"""Time as a parameter, so that retry schedules and ages are tested without sleeping."""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol


class Clock(Protocol):
    """Where a module gets its time from."""

    def now(self) -> float:
        """Return the wall clock in seconds since 1970 (UTC); it can jump."""

    def monotonic(self) -> float:
        """Return seconds since some fixed point; it never goes back.

        It stands still while the machine is suspended.
        """

    def boottime(self) -> float:
        """Return seconds since some fixed point, those of a suspended machine too, if it knows.

        It never goes back.
        """

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds, not counting those of a suspended machine."""


_BOOTTIME: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux has one; elsewhere, as on macOS, the other one goes on in a suspended machine."""


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        """Return the wall clock in seconds since 1970 (UTC); it can jump."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds since some fixed point; it never goes back."""
        return time.monotonic()

    def boottime(self) -> float:
        """Return seconds since some fixed point, those of a suspended machine too, if it knows."""
        return time.clock_gettime(_BOOTTIME)

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""
        await asyncio.sleep(seconds)
