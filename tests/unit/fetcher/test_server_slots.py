"""Places at a server: how many connections it takes, and who waits for one."""

import asyncio
import itertools
from collections import Counter

import pytest

from services.fetcher.server_slots import CONNECTIONS, GRACE, RECOVERY, REMEMBERED, ServerSlots
from shared.ledger import Quirk
from tests.clock import ManualClock
from tests.unit.fetcher.pop3_session import everything_runs


def test_there_are_so_many_places_at_each_server() -> None:
    places = ServerSlots(2, ManualClock())
    assert [places.take(server, "x") for server in "aaab"] == [True, True, False, True]
    places.give_back("a", 1.0)
    assert places.take("a", "x")


def test_a_provider_that_takes_fewer_has_fewer_places() -> None:
    clock = ManualClock()
    places = ServerSlots(8, clock, {"a": 2, "b": 20})
    assert [places.take("a", "x") for _ in range(3)] == [True, True, False]
    assert [places.limit(server) for server in "abc"] == [2, 8, 8]
    places.learn("a", Quirk(CONNECTIONS, 5, clock.now() + REMEMBERED))
    assert places.limit("a") == 2


async def test_what_a_server_refuses_lowers_its_limit_and_time_raises_it_again() -> None:
    clock = ManualClock()
    places = ServerSlots(8, clock)
    for _ in range(8):
        assert places.take("a", "x")
    until = clock.now() + REMEMBERED
    assert [places.note_refused("a") for _ in range(2)] == [
        Quirk(CONNECTIONS, 7, until),
        Quirk(CONNECTIONS, 6, until),
    ]
    places.give_back("a", 1.0)
    places.give_back("a", 1.0)
    assert not places.take("a", "x")
    await clock.advance(RECOVERY)
    assert places.limit("a") == 7
    await clock.advance(5 * RECOVERY)
    assert places.limit("a") == 8
    assert places.limit("b") == 8


def test_a_crowd_that_is_not_ours_does_not_lower_the_limit() -> None:
    places = ServerSlots(8, ManualClock())
    assert places.take("a", "x")
    assert places.note_refused("a") is None
    assert places.limit("a") == 8


def test_what_another_process_has_learnt_counts() -> None:
    clock = ManualClock()
    places = ServerSlots(8, clock)
    places.learn("a", Quirk(CONNECTIONS, 1, clock.now() + REMEMBERED))
    assert [places.take("a", "x") for _ in range(2)] == [True, False]


async def test_whoever_waits_gets_the_next_place_in_turn() -> None:
    places = ServerSlots(1, ManualClock())
    came: list[str] = []

    async def wait(name: str) -> None:
        await places.wait("a")
        came.append(name)

    await wait("first")
    tasks = [asyncio.create_task(wait(name)) for name in ("second", "gone", "third")]
    await everything_runs()
    tasks[1].cancel()
    await everything_runs()
    for names in (["first", "second"], ["first", "second", "third"]):
        places.give_back("a", 1.0)
        await everything_runs()
        assert came == names


async def test_those_who_are_sent_away_come_again_one_after_the_other() -> None:
    clock = ManualClock()
    places = ServerSlots(2, clock)
    for _ in range(40):
        assert places.take("a", "x")
        places.give_back("a", 60.0)  # a poll takes a minute there
    turns = [places.again_in("a", f"account {number}") for number in range(10)]
    assert all(29 < later - earlier < 31 for earlier, later in itertools.pairwise(turns))
    await clock.advance(3_600)
    assert places.again_in("a", "late") == pytest.approx(turns[0])
    assert places.again_in("b", "late") == 1.0


async def test_nobody_is_sent_away_for_ever_by_accounts_that_are_due_more_often() -> None:
    clock = ManualClock()
    places = ServerSlots(2, clock)
    polled: Counter[str] = Counter()
    due = dict.fromkeys(("a", "b", "c", "d", "e"), 0.0)
    for _ in range(100):
        taken = []
        for name in sorted(name for name, at in due.items() if at <= clock.monotonic()):
            if places.take("host", name):
                taken.append(name)
                due[name] = clock.monotonic()  # it is due again at once
            else:
                due[name] = clock.monotonic() + places.again_in("host", name)
        polled.update(taken)
        for _ in taken:
            places.give_back("host", 0.5)
        await clock.advance(0.5)
    assert min(polled[name] for name in due) > max(polled.values()) / 2


async def test_a_place_is_kept_for_no_one_who_does_not_come() -> None:
    clock = ManualClock()
    places = ServerSlots(1, clock)
    assert places.take("host", "a")
    wait = places.again_in("host", "gone")
    places.give_back("host", wait)
    assert not places.take("host", "a")
    await clock.advance(wait + GRACE + 0.1)
    assert places.take("host", "a")
