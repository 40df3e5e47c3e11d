"""The line for a place: in order, with an end, and no place is lost in it."""

import asyncio

import pytest

from services.deliverer.slots import Slots


async def line_up(slots: Slots, count: int) -> list[asyncio.Task[None]]:
    """Return tasks that wait for a place, in this order."""
    waiting = [asyncio.create_task(slots.take()) for _ in range(count)]
    await asyncio.sleep(0)
    return waiting


async def test_a_place_goes_to_who_has_waited_longest() -> None:
    slots = Slots(1, 30.0)
    await slots.take()
    first, second = await line_up(slots, 2)
    slots.give()
    await first
    assert not second.done()
    slots.give()
    await second


async def test_waiting_has_an_end_and_the_line_goes_on() -> None:
    slots = Slots(1, 0.01)
    await slots.take()
    for late in await line_up(slots, 3):
        with pytest.raises(TimeoutError):
            await late
    (later,) = await line_up(slots, 1)
    with pytest.raises(TimeoutError):
        await later
    slots.give()
    await slots.take()


async def test_who_gives_up_waiting_is_passed_over() -> None:
    slots = Slots(1, 30.0)
    await slots.take()
    first, second = await line_up(slots, 2)
    first.cancel()
    await asyncio.sleep(0)
    slots.give()
    await second


async def test_a_place_given_to_one_who_is_cancelled_that_moment_goes_on() -> None:
    slots = Slots(1, 30.0)
    await slots.take()
    first, second = await line_up(slots, 2)
    slots.give()
    first.cancel()
    await second
    assert first.cancelled()
    slots.give()
    await slots.take()
