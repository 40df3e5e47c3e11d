"""The pace of a server: less at once when it says so, and slowly more again."""

import pytest

from services.deliverer.servers.pace import (
    FIRST_GAP,
    FIRST_HOLD,
    FIRST_PAUSE,
    LONGEST_GAP,
    LONGEST_HOLD,
    LONGEST_PAUSE,
    Pace,
)
from tests.clock import ManualClock


@pytest.fixture
def pace(clock: ManualClock) -> Pace:
    return Pace(clock, 10)


async def test_a_server_gets_as_many_connections_as_it_took(pace: Pace) -> None:
    for coming in range(9, 1, -1):  # two are let in, and eight refused one by one
        pace.note_refused(coming)
    assert pace.limit == 2
    pace.note_refused(0)
    assert pace.limit == 1


async def test_one_more_is_tried_after_a_while_that_grows_while_it_is_refused(
    pace: Pace, clock: ManualClock
) -> None:
    pace.note_refused(2)
    waits = list[float]()
    for _ in range(8):
        begun = clock.monotonic()
        while pace.limit == 2:
            await clock.advance(1)
        assert pace.limit == 3
        waits.append(clock.monotonic() - begun)
        pace.note_refused(2)
    assert waits == [10, 20, 40, 80, 160, 320, LONGEST_HOLD, LONGEST_HOLD]


async def test_it_grows_step_by_step_where_the_server_lets_more_in(
    pace: Pace, clock: ManualClock
) -> None:
    pace.note_refused(2)
    limits = list[int]()
    for _ in range(9):
        await clock.advance(FIRST_HOLD)
        limits.append(pace.limit)
        pace.note_accepted(limits[-1])
    assert limits == [3, 4, 5, 6, 7, 8, 9, 10, 10]


async def test_a_server_that_was_away_has_no_limit(pace: Pace) -> None:
    pace.note_refused(1)
    pace.forget()
    assert pace.limit == 10


async def test_what_is_too_much_halves_the_connections_and_brings_a_pause_and_a_gap(
    pace: Pace, clock: ManualClock
) -> None:
    assert pace.steady
    pace.slow_down(clock.monotonic())
    assert (pace.limit, pace.steady) == (5, False)
    assert pace.take_turn() == FIRST_PAUSE
    await clock.advance(FIRST_PAUSE)
    assert [pace.take_turn(), pace.take_turn()] == [0.0, pytest.approx(FIRST_GAP)]
    await clock.advance(FIRST_GAP)
    assert pace.take_turn() == 0.0


async def test_those_under_way_when_it_became_too_much_tell_nothing_new(
    pace: Pace, clock: ManualClock
) -> None:
    earlier = clock.monotonic()
    await clock.advance(0.1)
    for _ in range(8):
        pace.slow_down(earlier)
    assert (pace.limit, pace.pause_left()) == (5, FIRST_PAUSE)


async def test_pauses_double_to_a_limit_while_nothing_is_taken(
    pace: Pace, clock: ManualClock
) -> None:
    pauses = list[float]()
    for _ in range(12):
        pace.slow_down(clock.monotonic())
        pauses.append(pace.pause_left())
        await clock.advance(pauses[-1])
    assert pauses[:4] == [0.5, 1, 2, 4]
    assert pauses[-1] == LONGEST_PAUSE
    pace.note_taken()
    pace.slow_down(clock.monotonic())
    assert pace.pause_left() == FIRST_PAUSE


async def test_gaps_double_to_a_limit_and_what_is_taken_eases_them(
    pace: Pace, clock: ManualClock
) -> None:
    gaps = list[float]()
    for _ in range(12):
        pace.slow_down(clock.monotonic())
        await clock.advance(FIRST_PAUSE)
        assert pace.take_turn() == 0.0
        gaps.append(pace.pause_left())
        await clock.advance(gaps[-1])
        pace.note_taken()
    assert gaps[:3] == pytest.approx([0.1, 0.2, 0.4], rel=0.1)
    assert gaps[-1] == LONGEST_GAP
    for _ in range(1_000):
        pace.note_taken()
    assert pace.steady
