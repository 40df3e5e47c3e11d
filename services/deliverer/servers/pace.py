"""How much one server is asked to take at a time, learnt from what it answers.

Postfix's queue manager is the model (its SCHEDULER_README): a refusal makes us ask for less at
once, and what goes well lets it grow again, slowly. Two things are learnt. A server that lets in no
more connections while others live gets as many as it took; one more is tried after a while, and
after a longer one each time that this is refused. A server that says that it takes only so much in
a while gets half the connections, a pause, and a gap between two messages; pauses double until it
takes one again, and the gap shrinks with each that it takes. It is remembered for as long as the
process lives. It trusts its caller to say only what the server said, and sends nothing itself.
"""

from __future__ import annotations

from typing import Final

from shared.clock import Clock

FIRST_HOLD: Final = 10.0
LONGEST_HOLD: Final = 600.0
"""Seconds for which no more connections are tried than were taken; doubled by each try in vain."""

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 300.0
"""Seconds for which nothing is sent after a server said that it was too much; doubled each time."""

FIRST_GAP: Final = 0.1
LONGEST_GAP: Final = 60.0
"""Seconds between the beginnings of two messages; doubled when even that was too much."""

EASE: Final = 0.98
"""What the gap is multiplied by with each message that is taken."""

LEAST_GAP: Final = 0.05
"""A gap that is smaller is none."""

MOMENT: Final = 0.001
"""A wait of so many seconds is none."""


class Pace:
    """The pace of one server.

    Args:
        clock: the time.
        connections: how many there may be at the most.

    Attributes:
        steady: there is neither a pause nor a gap.
    """

    def __init__(self, clock: Clock, connections: int) -> None:
        self.steady = True
        self._clock = clock
        self._connections = self._limit = connections
        self._hold = FIRST_HOLD
        self._grow_at = 0.0
        self._grown = False  # since the last refusal
        self._pause = self._gap = 0.0
        self._next_at = 0.0  # the earliest moment of the next message
        self._slowed_at = float("-inf")

    @property
    def limit(self) -> int:
        """How many connections may be tried now."""
        if self._limit < self._connections:
            now = self._clock.monotonic()
            if now >= self._grow_at:
                self._limit += 1
                self._grow_at = now + self._hold
                self._grown = True
        return self._limit

    def note_refused(self, taken: int) -> None:
        """Note that the server lets in no more connections.

        Args:
            taken: how many it has, or may still let in.
        """
        if self._grown:  # it was a try, and in vain
            self._hold = min(2 * self._hold, LONGEST_HOLD)
            self._grown = False
        elif taken >= self._limit:
            return  # one of those that had begun before
        self._limit = max(1, min(taken, self._limit))
        self._grow_at = self._clock.monotonic() + self._hold

    def note_accepted(self, taken: int) -> None:
        """Note that the server has let in one more connection, and how many it has now."""
        if self._grown and taken >= self._limit:
            self._hold = FIRST_HOLD

    def forget(self) -> None:
        """Allow all connections again: it was no limit that kept them away, but an outage."""
        self._limit, self._hold, self._grown = self._connections, FIRST_HOLD, False

    def slow_down(self, begun: float) -> None:
        """Note that the server takes no more messages for a while.

        Args:
            begun: when that one was begun of which it said so (monotonic). Of those that were under
                way when it said so first, this is nothing new.
        """
        now = self._clock.monotonic()
        if begun <= self._slowed_at:
            return
        self._slowed_at = now
        if not self._pause:  # else it has taken none since: nothing tells how fast would do
            self._limit = max(1, self._limit // 2)
            self._grow_at = now + self._hold
            self._gap = min(max(2 * self._gap, FIRST_GAP), LONGEST_GAP)
        self._pause = min(max(2 * self._pause, FIRST_PAUSE), LONGEST_PAUSE)
        self._next_at = now + self._pause
        self.steady = False

    def note_taken(self) -> None:
        """Note that the server has taken a message, while the pace is not steady."""
        self._pause = 0.0
        self._gap *= EASE
        if self._gap < LEAST_GAP:
            self._gap = 0.0
            self.steady = True

    def pause_left(self) -> float:
        """Return for how many seconds nothing is to be sent."""
        return max(0.0, self._next_at - self._clock.monotonic())

    def take_turn(self) -> float:
        """Begin a message and return 0; where none may begin yet, return the seconds to wait."""
        now = self._clock.monotonic()
        seconds = self._next_at - now
        if seconds > MOMENT:
            return seconds
        self._next_at = now + self._gap
        return 0.0
