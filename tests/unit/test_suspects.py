"""Which suspects are tried with whom, and who is given up; in processes a test ends at will."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

import pytest

from shared.broker import HANDED_OUT, Delivery
from shared.log import MailLog
from shared.log_lines import LogLines
from shared.message import Addressed
from shared.outcome import Done
from shared.queues import PICKUP, QUARANTINE
from shared.settlement import Consequence, Settlement
from shared.stage import Stage
from shared.trial import Ended, NotHandedOver, NotStarted, TakeHeaders, hand_outs, kept_headers
from shared.trial.isolated import CRASHES
from shared.trial.side_by_side import FIRST_MOMENTS, IDLE
from shared.trial.starter import LONGEST_PAUSE, PAUSE, TRIES, WARN_AFTER
from shared.trial.suspects import ABREAST, SUSPECT, Suspects
from tests.clock import ManualClock

DONE = Settlement((Consequence("delivered", "250 ok"),))


def delivery(name: str, redeliveries: int = SUSPECT, **headers: int) -> Delivery:
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    return Delivery(PICKUP, b"body", name, {"account": "sales", **told}, redeliveries, None)


@dataclass(eq=False)
class Process:
    """A process with what it has in hand, which says nothing until it is told to."""

    hand: dict[str, asyncio.Future[Settlement]] = field(default_factory=dict)
    ended: str | None = None
    closed: bool = False

    async def handle(self, delivery: Delivery, tell: TakeHeaders) -> Settlement:
        tell({"subject": f"about {delivery.message_id}"})
        answer: asyncio.Future[Settlement] = asyncio.get_running_loop().create_future()
        self.hand[delivery.message_id] = answer
        try:
            return await answer
        finally:
            del self.hand[delivery.message_id]

    async def close(self) -> None:
        self.closed = True

    def answer(self, *names: str) -> None:
        for name in names or tuple(self.hand):
            self.hand[name].set_result(DONE)

    def end(self, how: str = "signal 11 (SIGSEGV)") -> None:
        self.ended = how
        for answer in self.hand.values():
            answer.set_exception(Ended(how))


@dataclass
class Court:
    """Suspects, the processes that were started for them, and what they were settled as."""

    clock: ManualClock
    processes: list[Process] = field(default_factory=list)
    settled: dict[str, Settlement] = field(default_factory=dict)
    put_off: list[str] = field(default_factory=list)
    fails: int = 0
    said: StringIO = field(default_factory=StringIO)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    suspects: Suspects = field(init=False)

    def __post_init__(self) -> None:
        stage = Stage("deliverer", PICKUP, Addressed, None, lambda _: Done(""), 8)
        log = MailLog("deliverer", lines=LogLines(self.said))
        self.suspects = Suspects(
            stage,
            self.start,
            self._settle,
            lambda delivery: self.put_off.append(delivery.message_id),
            self._spawn,
            self._watch,
            self.clock,
            log,
        )

    async def start(self) -> Process:
        await asyncio.sleep(0)
        if self.fails:
            self.fails -= 1
            raise NotStarted("exit status 3")
        self.processes.append(Process())
        return self.processes[-1]

    def _settle(self, delivery: Delivery, follows: Settlement) -> None:
        self.settled[delivery.message_id] = follows

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        return task

    def _watch(self, task: asyncio.Task[None]) -> None:
        assert task.cancelled() or task.exception() is None

    async def take(self, *names: str) -> None:
        for name in names:
            self.suspects.take(delivery(name))
        await self.turn()

    async def turn(self, seconds: float = 0.0) -> None:
        await self.clock.advance(0.0)  # what has happened just now comes first
        await self.clock.advance(seconds)

    @property
    def live(self) -> list[Process]:
        return [
            process for process in self.processes if process.ended is None and not process.closed
        ]

    def holding(self, *names: str) -> Process:
        """Return the one process that has these in hand, and nothing else."""
        (found,) = (p for p in self.live if set(p.hand) == set(names))
        return found

    def quarantined(self) -> dict[str, str]:
        steps = {name: follows.steps[0] for name, follows in self.settled.items()}
        return {n: s.reason for n, s in steps.items() if s.send and s.send.queue == QUARANTINE}

    async def until(self, true: Callable[[], bool]) -> None:
        """Let sound ones be answered, and time pass, until something is so."""
        async with asyncio.timeout(20):
            while not true():
                await self.turn(FIRST_MOMENTS / 4)


@pytest.fixture
async def court(clock: ManualClock) -> AsyncIterator[Court]:
    court = Court(clock)
    yield court
    court.suspects.stop()
    await court.suspects.close()
    for task in court.tasks:
        task.cancel()
    assert all(process.closed for process in court.processes)


async def test_many_are_tried_side_by_side_and_none_waits_for_one_that_hangs(court: Court) -> None:
    names = [f"m{n}" for n in range(2 * ABREAST)]
    await court.take(*names)
    (process,) = court.processes
    assert set(process.hand) == set(names[:ABREAST])
    process.answer("m0")
    await court.turn()
    assert set(process.hand) == set(names[1 : ABREAST + 1])
    await court.turn(FIRST_MOMENTS)
    assert set(process.hand) == set(names[1:])
    process.answer()
    await court.turn()
    assert set(court.settled) == set(names)


async def test_a_process_waits_a_while_for_others_and_ends(court: Court) -> None:
    await court.take("a")
    court.holding("a").answer()
    await court.turn(IDLE / 2)
    await court.take("b")
    court.holding("b").answer()
    await court.turn(IDLE)
    assert [process.closed for process in court.processes] == [True], "one for both"
    await court.take("c")
    assert len(court.processes) == 2


async def test_one_that_crashes_is_found_among_many_and_the_others_go_on(court: Court) -> None:
    """Together at first; then one at a time; then by itself, until nobody can doubt it."""
    await court.take("a", "bad", "b")
    court.holding("a", "bad", "b").end()
    await court.turn()
    court.holding("a").answer()
    await court.turn()
    court.holding("bad").end()  # alone in its first moments
    await court.turn()
    for _ in range(CRASHES):
        await court.until(lambda: any("bad" in p.hand for p in court.live))
        assert "bad" not in court.quarantined()
        court.holding("bad").end()
        await court.turn()
    court.holding("b").answer()
    await court.turn(PAUSE)
    words = "it crashed its process 3 times, alone in it: signal 11 (SIGSEGV)"
    assert court.quarantined() == {"bad": words}
    assert (court.settled["a"], court.settled["b"]) == (DONE, DONE)
    (step,) = court.settled["bad"].steps
    assert step.send is not None
    assert step.send.body == b"body"
    assert step.send.headers.items() >= {
        ("account", "sales"),
        ("subject", "about bad"),
        ("inbox", PICKUP),
        ("stage", "deliverer"),
        (HANDED_OUT, SUSPECT),
    }


async def test_who_kills_a_process_has_no_sound_message_given_up(court: Court) -> None:
    await court.take("a", "b")
    for _ in range(2):
        for process in court.live:
            process.end("signal 9 (SIGKILL)")
        await court.turn(PAUSE)
    await court.until(lambda: any(p.hand for p in court.live))
    while len(court.settled) < 2:
        for process in court.live:
            process.answer()
        await court.turn(PAUSE)
    assert court.settled == {"a": DONE, "b": DONE}


async def test_two_crashes_in_a_row_are_not_three(court: Court) -> None:
    await court.take("a")
    for _ in range(CRASHES):  # the first was not by itself for certain: others may have been there
        court.holding("a").end()
        await court.turn(PAUSE)
    court.holding("a").answer()
    await court.turn()
    assert court.settled == {"a": DONE}


async def test_what_crashes_late_is_found_as_well_and_not_the_one_that_came_then(
    court: Court,
) -> None:
    await court.take("late")
    crashes = 0
    while "late" not in court.quarantined():
        assert crashes < 3 * CRASHES
        (process,) = (p for p in court.live if "late" in p.hand)
        await court.turn(FIRST_MOMENTS)
        await court.take(f"sound{crashes}")
        crashes += 1
        process.end()
        await court.turn(PAUSE)
        for other in court.live:
            for name in {*other.hand} - {"late"}:
                other.answer(name)
        await court.turn()
    assert set(court.quarantined()) == {"late"}
    assert {n for n in court.settled if n != "late"} == {f"sound{n}" for n in range(crashes)}


async def test_a_process_that_does_not_start_is_tried_again_and_charges_nobody(
    court: Court,
) -> None:
    court.fails = TRIES - 1
    await court.take("a")
    await court.turn(LONGEST_PAUSE)
    assert court.said.getvalue().count("does not start; they wait") == TRIES - 1
    court.holding("a").answer()
    await court.turn()
    assert court.settled == {"a": DONE}


async def test_where_no_process_starts_suspects_are_put_off_and_it_is_told(court: Court) -> None:
    court.fails = 1000
    await court.take("a", "b")
    await court.until(lambda: court.put_off == ["a", "b"])
    tried = court.fails
    assert not court.suspects.any
    await court.take("c")
    await court.turn()
    assert (court.put_off, court.fails) == (["a", "b", "c"], tried), "not tried for each"
    assert not court.suspects.warnings()
    await court.turn(WARN_AFTER)
    (said,) = court.suspects.warnings()
    assert "exit status 3" in said
    assert court.suspects.untried >= WARN_AFTER
    court.fails = 0
    await court.take("d")
    await court.turn()
    court.holding("d").answer()
    await court.turn()
    assert court.settled == {"d": DONE}
    assert not court.suspects.warnings()
    assert not court.suspects.untried


async def test_what_no_process_can_be_handed_is_put_off_and_not_given_up(court: Court) -> None:
    await court.take("a")
    while not court.put_off:
        process = court.holding("a")
        process.ended = "no memory"
        process.hand["a"].set_exception(NotHandedOver("no memory"))
        await court.turn(PAUSE)
    assert (court.put_off, court.settled) == (["a"], {})


async def test_a_copy_of_a_suspect_is_one_too(court: Court) -> None:
    """Fetched anew, as the fetcher died with it: it has never been handed out itself."""
    copy = delivery("a", redeliveries=0)
    assert not court.suspects.concerns(copy)
    await court.take("a")
    assert court.suspects.any
    assert court.suspects.concerns(copy)
    assert not court.suspects.concerns(delivery("b", redeliveries=SUSPECT - 1))
    court.holding("a").answer()
    await court.turn()
    assert not court.suspects.concerns(copy)

    await court.take("bad")
    while "bad" not in court.quarantined():
        court.holding("bad").end()
        await court.turn(PAUSE)
    assert court.suspects.concerns(delivery("bad", redeliveries=0))


async def test_what_waits_as_the_stage_ends_is_left_where_it_is(court: Court) -> None:
    names = [f"m{n}" for n in range(ABREAST + 3)]
    await court.take(*names)
    assert court.suspects.stop() == 3
    (process,) = court.processes
    process.answer("m0")
    await court.turn()
    process.end()
    await court.turn(PAUSE)
    assert court.settled == {"m0": DONE}
    assert len(court.processes) == 1


def test_hand_outs_are_counted_on_where_the_broker_begins_anew() -> None:
    again = delivery("a", 3, handed_out=10)
    assert hand_outs(again) == 13
    assert kept_headers(again) == {"account": "sales", HANDED_OUT: 13}
    for forged in (-5, "7", True, 2.5):
        assert hand_outs(again._replace(headers={HANDED_OUT: forged})) == 3
