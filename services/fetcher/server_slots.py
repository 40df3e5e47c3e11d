"""Slots: how many sessions may be open to one server at a time, in this process.

Providers limit connections per client. What a server refuses lowers the limit, which is remembered;
an hour without a refusal raises it by one. Whoever finds no slot is told when to come again, each
a little later, so that accounts of a crowded server neither wait in the way of others nor come all
at once; about that moment a slot is kept for it, or those that are due more often would have them
all. Several fetcher processes have slots of their own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final

from shared.clock import Clock
from shared.ledger import Quirk

CONNECTIONS: Final = "connections"
"""The quirk of a server that takes only so many connections."""

REMEMBERED: Final = 7 * 86_400.0
RECOVERY: Final = 3_600.0
"""Seconds for which a limit that was learnt is remembered, and after which it is one higher."""

SOON: Final = 1.0
LONGEST: Final = 600.0
"""Seconds after which to come again for a slot, at the least and at the most."""

GRACE: Final = 5.0
"""Seconds by which one who comes again may be late, and find a slot kept."""


@dataclass(slots=True)
class _Server:
    """What is known of one server.

    Attributes:
        taken: slots in use.
        slow: how many of them by accounts that were slow when they were polled last.
        learnt: what it was seen to take, None if it never refused.
        took: how long a poll takes, about.
        line: who was sent away, in turn, and when each is to come again (monotonic).
    """

    taken: int = 0
    slow: int = 0
    learnt: Quirk | None = None
    took: float = 1.0
    line: dict[str, float] = field(default_factory=dict)
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


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

    def take(self, server: str, account: str, *, slow: bool = False) -> bool:
        """Take a slot; return whether there was one.

        Args:
            server: where.
            account: for whom. Those who were sent away before it and come again about now go first.
            slow: whether it was slow when it was polled last. Such ones have half of the slots.
        """
        of, limit = self._of(server), self.limit(server)
        kept = self._expected(of, account)
        if of.taken + kept >= limit or (slow and of.slow >= max(1, limit // 2)):
            return False
        of.line.pop(account, None)
        of.taken += 1
        of.slow += slow
        return True

    async def wait(self, server: str) -> None:
        """Take a slot, once there is one."""
        of = self._of(server)
        while of.taken >= self.limit(server):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            of.waiting.append(turn)
            await turn
        of.taken += 1

    def give_back(self, server: str, took: float, *, slow: bool = False) -> None:
        """Give a slot back.

        Args:
            server: where it was.
            took: seconds for which it was in use.
            slow: as it was taken.
        """
        of = self._of(server)
        of.taken -= 1
        of.slow -= slow
        of.took += (took - of.took) / 8
        for _ in range(self.limit(server) - of.taken):
            while of.waiting and of.waiting[0].done():
                of.waiting.popleft()
            if of.waiting:
                of.waiting.popleft().set_result(None)

    def again_in(self, server: str, account: str, *, slow: bool = False) -> float:
        """Return in how many seconds to come again, for one who found no slot.

        Args:
            server: where.
            account: who.
            slow: as for ``take``. Then no slot is kept, for one in the other half would not do.
        """
        of, now = self._of(server), self._clock.monotonic()
        self._forget_missing(of)
        before = len(list(takewhile(lambda name: name != account, of.line)))
        wait = min(max(SOON, (before + 1) * of.took / self.limit(server)), LONGEST)
        if not slow:
            of.line[account] = now + wait
        return wait

    def _expected(self, of: _Server, account: str) -> int:
        """Return how many come again about now who were sent away before this one."""
        self._forget_missing(of)
        before = takewhile(lambda one: one[0] != account, of.line.items())
        return sum(at <= self._clock.monotonic() + SOON for _, at in before)

    def _forget_missing(self, of: _Server) -> None:
        """Keep no slot for who has not come: another process polls it, or nobody any more."""
        late = self._clock.monotonic() - GRACE
        for name in [name for name, at in of.line.items() if at < late]:
            del of.line[name]

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
