"""Time as a parameter, so that retry schedules and ages are tested without sleeping."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where a module gets its time from."""

    def now(self) -> float:
        """Return the wall clock in seconds since 1970 (UTC); it can jump."""

    def monotonic(self) -> float:
        """Return seconds since some fixed point; it never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        """Return the wall clock in seconds since 1970 (UTC); it can jump."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds since some fixed point; it never goes back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""
        await asyncio.sleep(seconds)
