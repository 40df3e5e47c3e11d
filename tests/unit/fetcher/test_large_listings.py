"""Very large listings take turns, and small ones wait for none."""

import asyncio
import math
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from services.fetcher import large_listings as turns
from services.fetcher.large_listings import ListingTurns
from services.fetcher.pop3.session import Pop3Session
from tests.unit.fetcher.desk import Desk, some
from tests.unit.fetcher.pop3_session import MAIL, login


@pytest.fixture(autouse=True)
def _large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MIDDLING", 5)
    monkeypatch.setattr(turns, "LARGE", 10)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0)


async def test_a_large_listing_waits_for_another_and_a_small_one_does_not(desk: Desk) -> None:
    both = ListingTurns()
    async with some(20).serving() as large, some(9).serving() as small:
        async with both.turn() as before:
            await before.take(10)
            waits = asyncio.create_task(desk.poll(large, keep=math.inf, turns=both))
            await until(lambda: "UIDL" in large.commands)
            session = await Pop3Session.open(login(small))
            async with both.turn() as turn:
                assert (await session.surveyor.survey(take_turn=turn.take)).count == 9
            await session.quit()
            assert not any(command.startswith("RETR") for command in large.commands)
        happened = await waits
    assert happened["accounts_failed"] == 0
    assert sorted(desk.raws()) == sorted(MAIL[:20])
    async with both.turn() as after, asyncio.timeout(5):
        assert await after.take(10), "it was given back"


async def test_a_turn_is_given_back_where_the_server_fails_and_done_without_after_a_while() -> None:
    both = ListingTurns()
    with pytest.raises(ConnectionError):
        async with both.turn() as first:
            assert await first.take(10)
            raise ConnectionError
    async with both.turn() as first, asyncio.timeout(5):
        await first.take(10)
        async with both.turn(patience=0.01) as second:
            assert await second.take(10)
            assert not await second.take(11), "once is enough"
        waits = asyncio.create_task(taken(both))
        await asyncio.sleep(0)
        assert not waits.done(), "it is still the first one's"
    async with asyncio.timeout(5):
        await waits


async def taken(turns: ListingTurns) -> None:
    async with turns.turn() as turn:
        await turn.take(10)


async def test_of_those_that_are_not_small_some_have_their_turn_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "SEVERAL", 2)
    both = ListingTurns()
    async with asyncio.timeout(5), AsyncExitStack() as stack:
        first, second, third = [await stack.enter_async_context(both.turn()) for _ in range(3)]
        assert not await first.take(4)
        assert await first.take(5)
        assert await second.take(20)
        waits = asyncio.create_task(third.take(9))
        await asyncio.sleep(0)
        assert not await first.take(6)
        assert not waits.done()
        await first.__aexit__(None, None, None)
        assert await waits
