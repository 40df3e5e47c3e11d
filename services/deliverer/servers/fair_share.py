"""How much mail may wait for one server: what it takes in half a minute, and its fair share.

All destinations share what a deliverer may have in hand. A server that hangs would use up all of
it, and keep mail from others that could take it; so what it will not come to soon is put aside, and
comes back when it may. Waiting is no failure: a line that moves is never cut short, as what was put
aside would not be back before the line is at its end, and the server idle. One that moves so slowly
that it lasts for more than half a minute is cut to that; and where several are slow, each to its
share.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sized
from typing import Final

from shared.clock import Clock

HORIZON: Final = 30.0
"""Seconds of work that may wait in a line; as long as the shortest retry tier, unless configured
otherwise, after which what was put aside is back."""

CROWDED: Final = HORIZON / 4
"""Seconds of work above which a line is to have no more than its share of the slots."""

FIRST_LOOK: Final = 0.5
"""Seconds after which a line that does not move at all may have half of the slots, if they are
taken: mail for another server cannot get in until it is known how this one does."""

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at how a line moves."""

WINDOW: Final = 10
"""How many of them tell how fast a server is now."""

PER_CONNECTION: Final = 4
"""What may always wait, for each connection: it keeps a slow server busy."""

IN_HAND: Final = 512
"""Messages that a deliverer has in hand at the most, over all destinations."""


class DeliverySlots:
    """The messages that a deliverer may have in hand, shared by its waiting lines.

    Args:
        total: how many.
    """

    def __init__(self, total: int = IN_HAND) -> None:
        self.total = total
        self.lines: list[Sized] = []

    @property
    def taken(self) -> bool:
        """Whether three quarters of them are taken by what waits."""
        return 4 * sum(map(len, self.lines)) >= 3 * self.total

    @property
    def share(self) -> int:
        """The share of a line, where mail waits in others too: one more is left for a newcomer."""
        waiting = sum(1 for line in self.lines if len(line))
        return self.total // (waiting + 1) if waiting > 1 else self.total


class FairShare:
    """The share of one line.

    Args:
        slots: what it is a share of.
        line: what waits.
        connections: how many messages are sent at a time, at the most.
        clock: the time.

    Attributes:
        done: how many messages the server is done with, counted by the caller.
    """

    def __init__(self, slots: DeliverySlots, line: Sized, connections: int, clock: Clock) -> None:
        self.done = 0
        self._slots = slots
        self._line = line
        self._least = PER_CONNECTION * connections
        self._clock = clock
        self._looks: deque[tuple[float, int]] = deque(maxlen=WINDOW + 1)
        self._aside: deque[tuple[float, int]] = deque()  # when they are back, and how many
        slots.lines.append(line)

    def begin(self) -> None:
        """Note that mail begins to wait where none did."""
        self._looks.clear()
        self.look()

    def look(self) -> None:
        """Note how far the server has come; to be called every second while any mail waits."""
        self._looks.append((self._clock.monotonic(), self.done))

    def surplus(self, at_work: int) -> int:
        """Return how much of what waits is to be put aside.

        Args:
            at_work: how many messages are being sent.
        """
        waiting, rate = len(self._line), self._rate(at_work)
        if waiting <= self._least:
            return 0
        if rate is None:
            return waiting - self._slots.total // 2 if self._is_in_the_way() else 0
        allowed = rate * HORIZON
        if waiting > rate * CROWDED:
            allowed = min(allowed, self._slots.share)
        return max(0, waiting - max(self._least, int(allowed)))

    def _is_in_the_way(self) -> bool:
        """Return whether it does not move, has more than half of the slots, and few are left."""
        since, done = self._looks[0]
        return (
            self.done == done
            and self._clock.monotonic() - since >= FIRST_LOOK
            and 2 * len(self._line) > self._slots.total
            and self._slots.taken
        )

    def note_put_aside(self, count: int, at_work: int) -> float:
        """Note that so many are put aside; return the seconds of work that are before them.

        Before a server is known for a while, nobody can say.
        """
        now = self._clock.monotonic()
        while self._aside and self._aside[0][0] <= now:
            self._aside.popleft()
        rate = self._rate(at_work) if len(self._looks) > WINDOW else None
        before = len(self._line) + sum(number for _, number in self._aside)
        seconds = before / rate if rate else 0.0
        self._aside.append((now + max(seconds, HORIZON), count))
        return seconds

    def _rate(self, at_work: int) -> float | None:
        """Return how many messages the server takes in a second, at the best; None if not known.

        What is under way counts as taken: a server that takes long over each is no standstill.
        """
        since, done = self._looks[0]
        seconds = self._clock.monotonic() - since
        if seconds < 2 * LOOK_EVERY:
            return None
        return (self.done - done + at_work) / seconds
