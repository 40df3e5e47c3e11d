"""Places at a server: how many connections it takes, and who waits for one."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable

from services.fetcher.server_slots import (
    CONNECTIONS,
    LONGEST,
    PATIENCE,
    RECOVERY,
    REMEMBERED,
    SOON,
    ServerSlots,
)
from shared.ledger import Quirk
from tests.clock import ManualClock
from tests.unit.fetcher.pop3_session import everything_runs


async def stand(places: ServerSlots, server: str, due: float = 0.0, **how: bool) -> bool:
    """Stand in line; return whether it was served, and not sent away."""
    turn = places.line_up(server, due, **how)
    return turn is not None and await places.wait(server, turn)


def test_there_are_so_many_places_at_each_server() -> None:
    places = ServerSlots(2, ManualClock())
    assert [places.take(server) for server in "aaab"] == [True, True, False, True]
    places.give_back("a", 1.0)
    assert places.take("a")


def test_a_provider_that_takes_fewer_has_fewer_places() -> None:
    clock = ManualClock()
    places = ServerSlots(8, clock, {"a": 2, "b": 20})
    assert [places.take("a") for _ in range(3)] == [True, True, False]
    assert [places.limit(server) for server in "abc"] == [2, 8, 8]
    places.learn("a", Quirk(CONNECTIONS, 5, clock.now() + REMEMBERED))
    assert places.limit("a") == 2


async def test_what_a_server_refuses_lowers_its_limit_and_time_raises_it_again() -> None:
    clock = ManualClock()
    places = ServerSlots(8, clock)
    for _ in range(8):
        assert places.take("a")
    until = clock.now() + REMEMBERED
    assert [places.note_refused("a") for _ in range(2)] == [
        Quirk(CONNECTIONS, 7, until),
        Quirk(CONNECTIONS, 6, until),
    ]
    places.give_back("a", 1.0)
    places.give_back("a", 1.0)
    assert not places.take("a")
    await clock.advance(RECOVERY)
    assert places.limit("a") == 7
    await clock.advance(5 * RECOVERY)
    assert places.limit("a") == 8
    assert places.limit("b") == 8


def test_a_crowd_that_is_not_ours_does_not_lower_the_limit() -> None:
    places = ServerSlots(8, ManualClock())
    assert places.take("a")
    assert places.note_refused("a") is None
    assert places.limit("a") == 8


def test_what_another_process_has_learnt_counts() -> None:
    clock = ManualClock()
    places = ServerSlots(8, clock)
    places.learn("a", Quirk(CONNECTIONS, 1, clock.now() + REMEMBERED))
    assert [places.take("a") for _ in range(2)] == [True, False]


async def test_whoever_waits_gets_the_next_place_in_turn() -> None:
    places = ServerSlots(1, ManualClock())
    came: list[str] = []

    async def wait(name: str) -> None:
        await stand(places, "a")
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


async def test_a_place_that_nobody_waits_for_any_more_goes_to_the_next_one() -> None:
    places = ServerSlots(1, ManualClock())
    assert places.take("a")
    gone = places.line_up("a", 1.0)
    assert gone is not None
    waiting = asyncio.create_task(places.wait("a", gone))
    next_one = asyncio.create_task(stand(places, "a", 2.0, insists=True))
    await everything_runs()
    places.give_back("a", 1.0)
    waiting.cancel()  # it has just got it
    await everything_runs()
    assert next_one.done()
    assert not places.take("a")


async def test_who_was_slow_holds_up_nobody_behind_it() -> None:
    places = ServerSlots(2, ManualClock())
    assert places.take("a", slow=True)
    slow = asyncio.create_task(stand(places, "a", 1.0, slow=True))
    await everything_runs()
    assert places.take("a")
    brisk = asyncio.create_task(stand(places, "a", 2.0))
    await everything_runs()
    places.give_back("a", 1.0)
    await everything_runs()
    assert (slow.done(), brisk.done()) == (False, True)
    places.give_back("a", 1.0, slow=True)
    await everything_runs()
    assert slow.done()


def crowded(took: float) -> ServerSlots:
    """Return slots, two at the server, whose polls take so long, and both of them taken."""
    places = ServerSlots(2, ManualClock())
    for _ in range(40):
        assert places.take("a")
        places.give_back("a", took)
    assert places.take("a")
    assert places.take("a")
    return places


async def test_who_is_due_for_longest_is_served_first_and_the_last_ones_are_sent_away() -> None:
    places = crowded(30.0)
    assert [places.line_up("a", due) is not None for due in (50.0, 20.0, 60.0, 10.0)] == [True] * 4
    assert places.line_up("a", 70.0) is None
    served: list[float] = []

    async def wait(due: float) -> None:
        if await stand(places, "a", due):
            served.append(due)

    waiting = [asyncio.create_task(wait(due)) for due in (40.0, 30.0)]
    await everything_runs()
    for _ in range(4):
        places.give_back("a", 30.0)
        await everything_runs()
    assert served == [30.0, 40.0]
    assert all(task.done() for task in waiting)


async def test_no_one_waits_for_long_where_another_process_may_have_a_place(
    forward: Callable[[float], None],
) -> None:
    places = crowded(1.0)
    waiting = asyncio.create_task(stand(places, "a"))
    insisting = asyncio.create_task(stand(places, "a", insists=True))
    await everything_runs()
    forward(PATIENCE)
    async with asyncio.timeout(20):
        assert not await waiting
    assert not insisting.done()
    places.give_back("a", 1.0)
    assert await insisting


async def test_those_who_are_sent_away_come_again_one_after_the_other() -> None:
    places = crowded(6.0)
    turns = [places.again_in("a") for _ in range(100)]
    assert all(SOON <= turn <= LONGEST for turn in turns)
    steps = [round(b - a) for a, b in itertools.pairwise(turns)]
    assert Counter(steps).most_common(1)[0][0] == 3
    assert max(Counter(round(turn) for turn in turns).values()) < 10


async def test_those_that_are_due_more_often_get_no_more_than_the_others() -> None:
    places, now = ServerSlots(2, ManualClock()), itertools.count()
    polled: Counter[str] = Counter()

    async def poll(name: str, pause: int) -> None:
        while True:
            due = float(next(now))
            while not places.take("host") and not await stand(places, "host", due):
                await asyncio.sleep(0)
            polled[name] += 1
            await everything_runs()
            places.give_back("host", 0.5)
            for _ in range(pause):
                await asyncio.sleep(0)

    often = [asyncio.create_task(poll(f"often {n}", 1)) for n in range(6)]
    tasks = [*often, asyncio.create_task(poll("seldom", 20))]
    for _ in range(100):
        await everything_runs()
    for task in tasks:
        task.cancel()
    assert polled["seldom"] > max(polled.values()) / 2
