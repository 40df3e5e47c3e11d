"""How long to wait before the next try, so that what comes back is not run over."""

from __future__ import annotations

import random
from typing import Final

from shared.clock import Clock

STEADY: Final = 10.0
"""Seconds after which a success counts as one; less, and the next pause is longer still."""


class Backoff:
    """Pauses that double up to a cap.

    Args:
        clock: where time comes from.
        first: the first pause in seconds.
        cap: the longest pause in seconds.
        jitter: whether each is shorter by up to a half, so that many do not come back at once.
    """

    def __init__(self, clock: Clock, first: float, cap: float, *, jitter: bool = False) -> None:
        self._clock = clock
        self._first = first
        self._cap = cap
        self._jitter = jitter
        self._failures = 0
        self._success_at: float | None = None

    def reset(self) -> None:
        """Begin with the first pause again."""
        self._failures = 0

    def note_success(self) -> None:
        """Note that the last try worked; what comes next may still fail soon."""
        self._success_at = self._clock.monotonic()

    def next_pause(self) -> float:
        """Return how many seconds to wait after another failure or loss."""
        at, self._success_at = self._success_at, None
        if at is not None and self._clock.monotonic() - at >= STEADY:
            self.reset()
        pause = min(self._cap, self._first * 2 ** min(self._failures, 20))
        self._failures += 1
        return random.uniform(pause / 2, pause) if self._jitter else pause  # noqa: S311

    async def pause(self) -> None:
        """Wait, after a failure or a loss."""
        await self._clock.sleep(self.next_pause())
