"""How long to wait before the next try, so that a broker that comes back is not run over."""

from __future__ import annotations

import random
from typing import Final

from shared.clock import Clock

FIRST: Final = 0.1
STEADY: Final = 10.0
"""Seconds after which a success counts as one; less, and the next pause is longer still."""


class Backoff:
    """Pauses that double, with jitter, up to a cap.

    Args:
        clock: where time comes from.
        cap: the longest pause in seconds.
    """

    def __init__(self, clock: Clock, cap: float) -> None:
        self._clock = clock
        self._cap = cap
        self._failures = 0
        self._success_at: float | None = None

    def note_success(self) -> None:
        """Note that the last try worked; what comes next may still fail soon."""
        self._success_at = self._clock.monotonic()

    async def pause(self) -> None:
        """Wait, after a failure or a loss."""
        at, self._success_at = self._success_at, None
        if at is not None and self._clock.monotonic() - at >= STEADY:
            self._failures = 0
        ceiling = min(self._cap, FIRST * 2 ** min(self._failures, 20))
        self._failures += 1
        await self._clock.sleep(random.uniform(ceiling / 2, ceiling))  # noqa: S311 - only jitter
