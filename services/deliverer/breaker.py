"""Keeps away from a destination that is down, and finds out when it is back.

One for each destination, so that a dead one delays nobody else. It opens after so many failures in
a row; after a cooldown it lets one probe through. While probes fail the cooldown grows, up to a
limit; any success closes it. A try that fails says nothing new where another has succeeded since it
began: a destination that takes mail is not down, whatever it does to some. Known limit: each
process finds out by itself.
"""

from __future__ import annotations

from shared.clock import Clock


class Breaker:
    """Tells whether a destination may be tried.

    Args:
        clock: the time.
        threshold: failures in a row that open it.
        cooldown: seconds from opening to the first probe; doubled with each probe that fails.
        longest: the limit of that.

    Attributes:
        why: what the last failure was, for those that are not tried on account of it.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        threshold: int = 5,
        cooldown: float = 15.0,
        longest: float = 300.0,
    ) -> None:
        self.why = ""
        self._clock = clock
        self._threshold = threshold
        self._first = self._cooldown = cooldown
        self._longest = longest
        self._failures = 0
        self._successes = 0
        self._probe_at = 0.0  # the earliest moment of the next probe, while open
        self._probing = False

    @property
    def open(self) -> bool:
        """Whether the destination counts as down."""
        return self._failures >= self._threshold

    def remaining(self) -> float:
        """Return for how many seconds to keep away; 0 if the destination may be tried now."""
        if not self.open:
            return 0.0
        if self._probing:
            return self._cooldown
        return max(0.0, self._probe_at - self._clock.monotonic())

    def permit(self) -> Permit:
        """Begin a try of the destination, while ``remaining`` is 0, and return it.

        The first one to begin while the breaker is open is the probe.
        """
        probe = self.open
        self._probing = self._probing or probe
        return Permit(self, probe=probe, successes=self._successes)

    def note_end(self, down: str | None, *, probe: bool, successes: int) -> None:
        """Note the end of a try; see ``Permit.end``."""
        if probe:
            self._probing = False
        if down is not None:
            if probe or successes == self._successes:
                self._note_failure(probe, down)
        else:
            self._successes += 1
            self._failures = 0
            self._cooldown = self._first

    def note_abandoned(self, *, probe: bool) -> None:
        """Note the end of a try that found out nothing."""
        if probe:
            self._probing = False

    def _note_failure(self, probe: bool, why: str) -> None:
        self._failures += 1
        self.why = why
        if probe:
            self._cooldown = min(self._cooldown * 2, self._longest)
        if probe or self._failures == self._threshold:
            self._probe_at = self._clock.monotonic() + self._cooldown


class Permit:
    """A try of a destination that has begun; one call of one of its methods ends it."""

    __slots__ = ("_breaker", "_probe", "_successes")

    def __init__(self, breaker: Breaker, *, probe: bool, successes: int) -> None:
        self._breaker = breaker
        self._probe = probe
        self._successes = successes  # that there had been when it began

    def end(self, down: str | None) -> None:
        """Tell what the try found out.

        Args:
            down: how the destination could not be reached or went away, None if it did not.
        """
        self._breaker.note_end(down, probe=self._probe, successes=self._successes)

    def abandon(self) -> None:
        """Tell that it was given up, and says nothing about the destination."""
        self._breaker.note_abandoned(probe=self._probe)
