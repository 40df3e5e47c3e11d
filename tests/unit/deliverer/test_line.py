"""The line for a connection: in order, with an end, and nobody is lost in it."""

import asyncio

from services.deliverer.line import Line


def line(patience: float = 30.0) -> tuple[Line[str], list[str]]:
    """Return a line, and those who waited too long in it."""
    late = list[str]()
    return Line(patience, late.append), late


async def test_who_has_waited_longest_is_next() -> None:
    waiting, late = line()
    waiting.join(["anna", "bert"])
    waiting.join(["carl"])
    assert len(waiting) == 3
    assert [waiting.next() for _ in range(4)] == ["anna", "bert", "carl", None]
    assert late == []


async def test_waiting_has_an_end_and_the_line_goes_on() -> None:
    waiting, late = line(0.01)
    for several in (["anna", "bert"], ["carl"]):
        waiting.join(several)
        async with asyncio.timeout(10):
            while len(waiting):
                await asyncio.sleep(0.001)
    assert late == ["anna", "bert", "carl"]


async def test_each_waits_as_long() -> None:
    loop, left = asyncio.get_running_loop(), list[int]()

    def late(who: str) -> None:
        if who == "anna":
            waiting.join(["bert"])
            loop.call_soon(lambda: left.append(len(waiting)))

    waiting = Line[str](0.01, late)
    waiting.join(["anna"])
    async with asyncio.timeout(10):
        while not left or len(waiting):
            await asyncio.sleep(0.001)
    assert left == [1]


async def test_the_timer_is_for_those_who_are_still_there() -> None:
    waiting, late = line(0.02)
    waiting.join(["anna"])
    assert waiting.next() == "anna"
    async with asyncio.timeout(10):
        while not late:
            waiting.join(["bert"])
            await asyncio.sleep(0.001)
    assert set(late) == {"bert"}


async def test_who_leaves_is_passed_over() -> None:
    waiting, late = line()
    waiting.join(["anna", "bert", "carl"])
    waiting.leave(lambda who: who == "bert")
    assert [waiting.next() for _ in range(3)] == ["anna", "carl", None]
    assert late == []
