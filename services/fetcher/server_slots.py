"""Slots: how many sessions may be open to one server at a time, in this process.

Providers limit connections per client. What a server refuses lowers the limit, which is remembered;
an hour without a refusal raises it by one. Whoever finds no slot stands in line, where those that
are due for longest are served first: so no slot is idle while somebody wants it, and those that are
due more often get no more of them.

Several fetcher processes have slots and lines of their own. A line is therefore short: who would
wait in it for long is told when to come again, to whichever process has a slot then. How long it
has been due goes along in the schedule, and so does its place in any line. Known limit: who comes
again may find a slot that was idle for seconds.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Final, NamedTuple

from shared.clock import Clock
from shared.ledger import Quirk

CONNECTIONS: Final = "connections"
"""The quirk of a server that takes only so many connections."""

REMEMBERED: Final = 7 * 86_400.0
RECOVERY: Final = 3_600.0
"""Seconds for which a limit that was learnt is remembered, and after which it is one higher."""

SOON: Final = 1.0
LONGEST: Final = 45.0
"""Seconds after which to come again for a slot, at the least and at the most."""

PATIENCE: Final = 60.0
"""Seconds for which one waits in line at the most; longer than to come again, so that a slot finds
somebody in line while there are others."""

LINE: Final = 1_000
"""Polls that stand in line at one server, at the most: a few KB each."""


class Turn(NamedTuple):
    """A place in line. They are in order: by when who has it was due, then by who came first.

    Attributes:
        due: since when, in seconds since 1970.
        number: of its coming.
        slow: whether the account was slow when it was polled last.
        insists: whether it is sent away for nobody.
        granted: whether it is its turn, or it was sent away.
    """

    due: float
    number: int
    slow: bool
    insists: bool
    granted: asyncio.Future[bool]


@dataclass(slots=True)
class _Server:
    """What is known of one server.

    Attributes:
        taken: slots in use.
        slow: how many of them by accounts that were slow when they were polled last.
        learnt: what it was seen to take, None if it never refused.
        took: how long a poll takes, about.
        line: who waits for a slot.
        away: seconds by which those who are sent away come one after the other.
    """

    taken: int = 0
    slow: int = 0
    learnt: Quirk | None = None
    took: float = 1.0
    line: list[Turn] = field(default_factory=list)
    away: float = 0.0


class ServerSlots:
    """Slots at servers, by ``host:port``.

    Args:
        most: slots at one server, at the most.
        clock: the time.
        fewer: the same for servers that take fewer.
    """

    def __init__(self, most: int, clock: Clock, fewer: Mapping[str, int] | None = None) -> None:
        self._most = most
        self._fewer = fewer or {}
        self._clock = clock
        self._servers: dict[str, _Server] = {}
        self._numbers = count()

    def learn(self, server: str, quirk: Quirk | None) -> None:
        """Take note of what was learnt of a server before."""
        if quirk is not None:
            self._of(server).learnt = quirk

    def limit(self, server: str) -> int:
        """Return how many slots a server has."""
        learnt, most = self._of(server).learnt, min(self._most, self._fewer.get(server, self._most))
        if learnt is None:
            return most
        since = learnt.until - REMEMBERED
        recovered = max(0.0, self._clock.now() - since) // RECOVERY
        return max(1, min(most, learnt.value + int(recovered)))

    def take(self, server: str, *, slow: bool = False) -> bool:
        """Take a slot; return whether there was one.

        Args:
            server: where.
            slow: whether the account was slow when it was polled last. Such ones have half of the
                slots.
        """
        self._serve(server)  # a limit may have risen by itself
        of = self._of(server)
        there = self._has_slot(server, slow)
        if there:
            of.taken += 1
            of.slow += slow
        return there

    def line_up(
        self, server: str, due: float, *, slow: bool = False, insists: bool = False
    ) -> Turn | None:
        """Stand in line for a slot; return the place, None where there is none.

        Args:
            server: where.
            due: since when, in seconds since 1970. Who is in line and was due later may have to go.
            slow: as for ``take``; the others do not wait for such ones.
            insists: wait for as long as it takes, and let nobody go for it.
        """
        line, granted = self._of(server).line, asyncio.get_running_loop().create_future()
        turn = Turn(due, next(self._numbers), slow, insists, granted)
        line[:] = [other for other in line if not other.granted.done()]  # who has gone
        waiting = [other for other in line if not other.insists]
        if not insists and len(waiting) >= self._places(server):
            last = waiting[-1]
            if last < turn:
                return None
            line.remove(last)
            last.granted.set_result(False)
        insort(line, turn)
        self._serve(server)
        return turn

    async def wait(self, server: str, turn: Turn) -> bool:
        """Wait for one's turn; return whether it has come, and the slot is taken.

        It has not where one who was due for longer came and found the line full, or it takes too
        long: another process may have a slot.
        """
        try:
            async with asyncio.timeout(None if turn.insists else PATIENCE):
                return await self._until_granted(server, turn)
        except TimeoutError:
            return False

    async def _until_granted(self, server: str, turn: Turn) -> bool:
        try:
            return await turn.granted
        except asyncio.CancelledError:
            if turn.granted.done() and not turn.granted.cancelled() and turn.granted.result():
                self._free(server, turn.slow)
            raise

    def give_back(self, server: str, took: float, *, slow: bool = False) -> None:
        """Give a slot back.

        Args:
            server: where it was.
            took: seconds for which it was in use.
            slow: as it was taken.
        """
        of = self._of(server)
        of.took += (took - of.took) / 8
        self._free(server, slow)

    def again_in(self, server: str) -> float:
        """Return in how many seconds to come again, for one who is sent away."""
        of = self._of(server)
        of.away = (of.away + of.took / self.limit(server)) % LONGEST
        return max(SOON, of.away)

    def _free(self, server: str, slow: bool) -> None:
        of = self._of(server)
        of.taken -= 1
        of.slow -= slow
        self._serve(server)

    def _serve(self, server: str) -> None:
        of, passed = self._of(server), list[Turn]()
        while of.line and self._has_slot(server, slow=False):
            turn = of.line.pop(0)
            if turn.granted.done():
                continue
            if self._has_slot(server, turn.slow):
                of.taken += 1
                of.slow += turn.slow
                turn.granted.set_result(True)
            else:
                passed.append(turn)
        of.line[:0] = passed

    def _places(self, server: str) -> int:
        """Return how many may stand in line: so many that each is served before long."""
        of, limit = self._of(server), self.limit(server)
        return max(limit, min(LINE, int(PATIENCE * limit / max(of.took, 0.01))))

    def _has_slot(self, server: str, slow: bool) -> bool:
        of, limit = self._of(server), self.limit(server)
        return of.taken < limit and not (slow and of.slow >= max(1, limit // 2))

    def note_refused(self, server: str) -> Quirk | None:
        """Note that a server refused a connection of ours as one too many.

        Returns:
            What it is to be remembered by; None where it had no other of ours, so that it is
            somebody else's crowd.
        """
        of = self._of(server)
        if of.taken < _ALONE:
            return None
        until = self._clock.now() + REMEMBERED
        value = max(1, min(self.limit(server), of.taken) - 1)
        of.learnt = Quirk(CONNECTIONS, value, until)
        return of.learnt

    def _of(self, server: str) -> _Server:
        return self._servers.setdefault(server, _Server())


_ALONE: Final = 2
"""Slots taken, the refused one among them, from which on it is our own crowd."""
