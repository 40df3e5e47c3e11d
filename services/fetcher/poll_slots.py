"""Lanes: where the polls of this process sit, so that slow servers cost nobody else a place.

A poll begins in the main lane, and leaves it, for a place beside it, once it has waited for its
server for a moment: whoever is still waited for, at the greeting or later, holds no main place. It
is not disturbed by that. An account of which a poll was slow or hung begins the next one in a small
lane of their own, until one is brisk again. In each lane a server has a share, never all of it.

What is known of accounts ends with the process: in the next one they are found out as quickly.
Known limit: where more than ``BESIDE`` servers hang at once, the main lane fills up with the rest
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
"""Places of the main lane, and how many of them one server may have."""

SLOW: Final = 8
SLOW_SHARE: Final = 4
"""The same for accounts that were slow or hung when they were polled last."""

BESIDE: Final = 256
BESIDE_SHARE: Final = 192
"""The same for polls that have left the main lane: a session that waits costs little."""

BRISK: Final = 1.0
"""Seconds that a poll may be behind (see ``WaitMeter``) and keep its place in the main lane."""

HUNG: Final = 10.0
"""Seconds from which on it counts as slow the next time."""

MOMENT: Final = 30.0
"""Seconds for which a poll waits for a place; after that it comes later."""

AGAIN: Final = 20.0
"""Seconds for which a place in the slow lane is taken, about."""


class _Waiter(NamedTuple):
    server: str
    granted: asyncio.Future[None]


class SlotPool:
    """Places, of which each server may have a share.

    Args:
        places: how many there are.
        share: how many of them one server may have.
    """

    def __init__(self, places: int, share: int) -> None:
        self._places = places
        self._share = share
        self._taken: Counter[str] = Counter()
        self._waiting: deque[_Waiter] = deque()
        self._next_turn = 0.0

    def take(self, server: str) -> bool:
        """Take a place; return whether there was one."""
        free = self._taken.total() < self._places and self.has_room(server)
        if free:
            self._taken[server] += 1
        return free

    def has_room(self, server: str) -> bool:
        """Return whether a server has less than its share."""
        return self._taken[server] < self._share

    async def wait(self, server: str) -> None:
        """Take a place, once there is one; whoever came first is served first."""
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
        """Give a place back."""
        self._taken[server] -= 1
        if not self._taken[server]:
            del self._taken[server]
        self._serve()

    def turn(self, now: float) -> float:
        """Return in how many seconds to come again, for one who found no place.

        Args:
            now: monotonic seconds.
        """
        self._next_turn = max(self._next_turn, now) + AGAIN / self._places
        return min(max(SOON, self._next_turn - now), LONGEST)

    def _serve(self) -> None:
        passed: list[_Waiter] = []
        while self._waiting and self._taken.total() < self._places:
            turn = self._waiting.popleft()
            if turn.granted.done():
                continue
            if self.take(turn.server):
                turn.granted.set_result(None)
            else:
                passed.append(turn)
        self._waiting.extendleft(reversed(passed))


class PollSlot:
    """Where one poll sits; it moves by itself.

    Args:
        lane: in which it has a place.
        beside: the lane that it leaves for; None to stay.
        server: its server.
        left: called once it has left its lane, or at once if it is to stay.

    Attributes:
        pace: told of every wait for the server.
    """

    def __init__(
        self, lane: SlotPool, beside: SlotPool | None, server: str, left: Callable[[], None]
    ) -> None:
        self._lane = lane
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
        """Give the place back."""
        if self._timer is not None:
            self._timer.cancel()
        self._lane.give_back(self._server)

    def _look(self) -> None:
        behind, beside = self.pace.behind(), self._beside
        if behind < BRISK or beside is None or not beside.take(self._server):
            self._timer = self._loop.call_later(max(BRISK / 4, BRISK - behind), self._look)
            return
        self._lane.give_back(self._server)
        self._lane, self._timer = beside, None
        self._left()


class PollSlots:
    """The lanes of this process, and who was slow.

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
        """Take a place for a poll.

        Args:
            account: which is polled.
            server: its server.
            left: called once it sits in no main place (see ``PollSlot``).
            insist: wait for a place for as long as it takes.

        Returns:
            Where it sits; or seconds after which to come again.
        """
        slow = self.was_slow(account)
        lane = self._slow if slow else self._main
        if not insist and (slow or not lane.has_room(server)):
            there = lane.take(server)
        else:
            there = await self._wait_for_slot(lane, server, None if insist else MOMENT)
        if not there:
            return lane.turn(self._clock.monotonic())
        return PollSlot(lane, None if slow else self._beside, server, left)

    async def _wait_for_slot(self, lane: SlotPool, server: str, patience: float | None) -> bool:
        try:
            async with asyncio.timeout(patience):
                await lane.wait(server)
        except TimeoutError:
            return False
        return True

    def leave(self, account: str, slot: PollSlot) -> bool:
        """Give a place back; return whether the account begins to count as slow."""
        slot.leave()
        before = self.was_slow(account)
        if slot.hung:
            self._hung.add(account)
        else:
            self._hung.discard(account)
        return slot.hung and not before
