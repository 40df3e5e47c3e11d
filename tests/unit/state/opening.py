"""How the suite opens its states: several on one database, each with a clock of its own."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from shared.ledger import Claim
from shared.state import State, new_owner
from tests.clock import ManualClock

ELSEWHERE = "othermachine/0123456789ab:{}:4711:00000000"
"""An owner of another machine, whose death nobody here can prove."""

HOUR = 3600.0
DAY = 24 * HOUR
FRESH = Claim(frozenset(), replay=False)

Opener = Callable[..., Awaitable[State]]


class Opening:
    """A subclass brings a fixture ``url``: an empty database."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    async def open_state(self, url: str, clock: ManualClock) -> AsyncIterator[Opener]:
        async with contextlib.AsyncExitStack() as stack:

            async def opener(owner: str | None = None, at: ManualClock | None = None) -> State:
                state = await State.open(url, owner=owner or new_owner(), clock=at or clock)
                stack.push_async_callback(state.close)
                return state

            yield opener

    @pytest.fixture
    async def one(self, open_state: Opener) -> State:
        return await open_state()

    @pytest.fixture
    async def two(self, open_state: Opener) -> State:
        return await open_state()
