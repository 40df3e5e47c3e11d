"""Something that a server offers, and whether it was seen to keep it.

Slow is not broken: where something fails, it is done once more without, and only if that goes well
is it left out from then on. It is not remembered for ever: servers change.
"""

from __future__ import annotations

from typing import Final

from shared.clock import Clock

WEEK: Final = 7 * 86_400.0
DAY: Final = 86_400.0
HOUR: Final = 3_600.0


class Promise:
    """Something that a server offers.

    Args:
        clock: the time.
        seconds: for how long to do without what failed.

    Attributes:
        kept: the server was seen to keep it; then what goes wrong has other reasons.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.kept = False
        self._clock = clock
        self._seconds = seconds
        self._suspected = False
        self._again_at = 0.0  # when it may be tried again

    @property
    def trusted(self) -> bool:
        """Whether to make use of it."""
        return self.kept or not (self._suspected or self._clock.monotonic() < self._again_at)

    def note_kept(self) -> None:
        """Note that the server kept it."""
        self.kept, self._suspected = True, False

    def doubt(self) -> None:
        """Note that it may not be kept after all."""
        self.kept = False

    def suspect(self) -> None:
        """Do without it until it is known whether that is better."""
        self.kept, self._suspected = False, True

    def note_without(self, *, well: bool) -> None:
        """Note how it went without.

        Args:
            well: whether what had failed was done.
        """
        if self._suspected and well:
            self._again_at = self._clock.monotonic() + self._seconds
        self._suspected = False
