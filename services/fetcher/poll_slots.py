"""Slots for the polls of this process, so that slow servers cost nobody else a turn.

A poll begins in a main slot, and leaves it, for one beside them, once it has waited for its server
for a moment: whoever is still waited for, at the greeting or later, holds no main slot. It is not
disturbed by that. An account of which a poll was slow or hung begins the next one in one of a few
slots of their own, until one is brisk again. In each pool a server has a share, never all of it.

What is known of accounts ends with the process: in the next one they are found out as quickly.
Known limit: where more than ``BESIDE`` servers hang at once, the main slots fill up with the rest
until they are given up.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, NamedTuple

from services.fetcher.pop3.deadlines import WaitMeter
from services.fetcher.server_slots import LONGEST, SOON
from shared.clock import Clock

MAIN: Final = 40
MAIN_SHARE: Final = 32
"""Main slots, and how many of them one server may have."""

SLOW: Final = 8
SLOW_SHARE: Final = 4
"""The same for accounts that were slow or hung when they were polled last."""

BESIDE: Final = 256
BESIDE_SHARE: Final = 192
"""The same for polls that have left their main slot: a session that waits costs little."""

BRISK: Final = 1.0
"""Seconds that a poll may be behind (see ``WaitMeter``) and keep its main slot."""

HUNG: Final = 10.0
"""Seconds from which on it counts as slow the next time."""

MOMENT: Final = 30.0
"""Seconds for which a poll waits for a slot; after that it comes later."""

AGAIN: Final = 20.0
"""Seconds for which a slot for slow accounts is taken, about."""


class _Waiter(NamedTuple):
    server: str
    granted: asyncio.Future[None]


class SlotPool:
    """Slots, of which each server may have a share.

    Args:
        slots: how many there are.
        share: how many of them one server may have.
    """

    def __init__(self, slots: int, share: int) -> None:
        self._slots = slots
        self._share = share
        self._taken: Counter[str] = Counter()
        self._waiting: deque[_Waiter] = deque()
        self._next_turn = 0.0

    def take(self, server: str) -> bool:
        """Take a slot; return whether there was one."""
        free = self._taken.total() < self._slots and self.has_room(server)
        if free:
            self._taken[server] += 1
        return free

    def has_room(self, server: str) -> bool:
        """Return whether a server has less than its share."""
        return self._taken[server] < self._share

    async def wait(self, server: str) -> None:
        """Take a slot, once there is one; whoever came first is served first."""
        turn = _Waiter(server, asyncio.get_running_loop().create_future())
        self._waiting.append(turn)
        self._serve()
        try:
            await turn.granted
        except asyncio.CancelledError:
            if turn.granted.done() and not turn.granted.cancelled():
                self.give_back(server)
            raise

    def give_back(self, server: str) -> None:
        """Give a slot back."""
        self._taken[server] -= 1
        if not self._taken[server]:
            del self._taken[server]
        self._serve()

    def again_in(self, now: float) -> float:
        """Return in how many seconds to come again, for one who found no slot.

        Args:
            now: monotonic seconds.
        """
        self._next_turn = max(self._next_turn, now) + AGAIN / self._slots
        return min(max(SOON, self._next_turn - now), LONGEST)

    def _serve(self) -> None:
        passed: list[_Waiter] = []
        while self._waiting and self._taken.total() < self._slots:
            turn = self._waiting.popleft()
            if turn.granted.done():
                continue
            if self.take(turn.server):
                turn.granted.set_result(None)
            else:
                passed.append(turn)
        self._waiting.extendleft(reversed(passed))


class PollSlot:
    """The slot of one poll; it moves to another pool by itself.

    Args:
        pool: in which it has a slot.
        beside: the pool that it leaves for; None to stay.
        server: its server.
        left: called once it has left its pool, or at once if it is to stay.

    Attributes:
        pace: told of every wait for the server.
    """

    def __init__(
        self, pool: SlotPool, beside: SlotPool | None, server: str, left: Callable[[], None]
    ) -> None:
        self._pool = pool
        self._beside = beside
        self._server = server
        self._loop = asyncio.get_running_loop()
        self.pace = WaitMeter()
        self._left = left
        self._timer: asyncio.TimerHandle | None = None
        if beside is None:
            left()
        else:
            self._timer = self._loop.call_later(BRISK, self._look)

    @property
    def hung(self) -> bool:
        """Whether its server was slow, or hung."""
        return max(self.pace.worst, self.pace.behind()) >= HUNG

    def leave(self) -> None:
        """Give the slot back."""
        if self._timer is not None:
            self._timer.cancel()
        self._pool.give_back(self._server)

    def _look(self) -> None:
        behind, beside = self.pace.behind(), self._beside
        if behind < BRISK or beside is None or not beside.take(self._server):
            self._timer = self._loop.call_later(max(BRISK / 4, BRISK - behind), self._look)
            return
        self._pool.give_back(self._server)
        self._pool, self._timer = beside, None
        self._left()


class PollSlots:
    """The slots of this process, and who was slow.

    Args:
        clock: the time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._main = SlotPool(MAIN, MAIN_SHARE)
        self._slow = SlotPool(SLOW, SLOW_SHARE)
        self._beside = SlotPool(BESIDE, BESIDE_SHARE)
        self._hung: set[str] = set()

    def was_slow(self, account: str) -> bool:
        """Return whether an account was slow, or hung, when it was polled last."""
        return account in self._hung

    async def enter(
        self, account: str, server: str, left: Callable[[], None], *, insist: bool
    ) -> PollSlot | float:
        """Take a slot for a poll.

        Args:
            account: which is polled.
            server: its server.
            left: called once it holds no main slot (see ``PollSlot``).
            insist: wait for a slot for as long as it takes.

        Returns:
            Its slot; or seconds after which to come again.
        """
        slow = self.was_slow(account)
        pool = self._slow if slow else self._main
        if not insist and (slow or not pool.has_room(server)):
            there = pool.take(server)
        else:
            there = await self._wait_for_slot(pool, server, None if insist else MOMENT)
        if not there:
            return pool.again_in(self._clock.monotonic())
        return PollSlot(pool, None if slow else self._beside, server, left)

    async def _wait_for_slot(self, pool: SlotPool, server: str, patience: float | None) -> bool:
        try:
            async with asyncio.timeout(patience):
                await pool.wait(server)
        except TimeoutError:
            return False
        return True

    def leave(self, account: str, slot: PollSlot) -> bool:
        """Give a slot back; return whether the account begins to count as slow."""
        slot.leave()
        before = self.was_slow(account)
        if slot.hung:
            self._hung.add(account)
        else:
            self._hung.discard(account)
        return slot.hung and not before
