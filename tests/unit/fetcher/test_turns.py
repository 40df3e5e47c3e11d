"""Very large listings take turns, and small ones wait for none."""

import asyncio
import math
from collections.abc import Callable

import pytest

from services.fetcher import turns
from services.fetcher.session import Session
from services.fetcher.turns import Turn, Turns
from tests.unit.fetcher.desk import Desk, some
from tests.unit.fetcher.pop3_session import MAIL, login


@pytest.fixture(autouse=True)
def _large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LARGE", 10)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0)


async def test_a_large_listing_waits_for_another_and_a_small_one_does_not(desk: Desk) -> None:
    both = Turns()
    async with some(20).serving() as large, some(9).serving() as small:
        async with both.turn() as before:
            await before.take(10)
            waits = asyncio.create_task(desk.poll(large, keep=math.inf, turns=both))
            await until(lambda: "UIDL" in large.commands)
            session = await Session.open(login(small))
            async with both.turn() as turn:
                assert (await session.survey(turn=turn)).count == 9
            await session.quit()
            assert not any(command.startswith("RETR") for command in large.commands)
        happened = await waits
    assert happened["accounts_failed"] == 0
    assert sorted(desk.raws()) == sorted(MAIL[:20])
    async with both.turn() as after, asyncio.timeout(5):
        assert await after.take(10), "it was given back"


async def test_a_turn_is_given_back_where_the_server_fails_and_done_without_after_a_while() -> None:
    lock = asyncio.Lock()
    with pytest.raises(ConnectionError):
        async with Turn(lock) as first:
            assert not await first.take(9)
            assert not lock.locked()
            assert await first.take(10)
            assert lock.locked()
            raise ConnectionError
    assert not lock.locked()
    async with Turn(lock) as first:
        await first.take(10)
        async with Turn(lock, patience=0.01) as second:
            assert await second.take(10)
            assert not await second.take(11), "once is enough"
        assert lock.locked()
