"""Waiting in our own line: more messages than a slow server takes, and none of them has failed."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from services.deliverer.deliver import WAITING, Deliverer
from services.deliverer.destinations import courier_for
from services.deliverer.servers.courier import STILL
from services.deliverer.servers.fair_share import HORIZON, PER_CONNECTION, DeliverySlots
from shared.ledger import Claim
from shared.outcome import Busy, Done, Outcome
from shared.spool import Spool
from shared.state import State
from tests.clock import ManualClock
from tests.ledger import claim_one
from tests.servers.smtp import HANG, smtp_server
from tests.unit.deliverer.content import ANNA, until
from tests.unit.deliverer.stories import envelope

MESSAGES = 200
CONNECTIONS = 4


class Given:
    """Messages given to a deliverer, and what it answered so far."""

    def __init__(self, deliverer: Deliverer, count: int, to: str = "slow", name: str = "m") -> None:
        mails = [replace(envelope(ANNA, to=to), id=f"{name}{n}") for n in range(count)]
        self.found: dict[int, Outcome | Exception] = {}
        self.task = asyncio.create_task(deliverer.handle(mails, self.found.__setitem__))

    def kinds(self) -> set[str]:
        return {type(outcome).__name__ for outcome in self.found.values()}


async def test_a_server_that_hangs_keeps_a_few_messages_and_is_no_failure_of_the_others(
    ledger: State, other: State, spool: Spool, clock: ManualClock
) -> None:
    slots = DeliverySlots(MESSAGES)
    async with smtp_server() as slow, smtp_server() as quick:
        slow.rule = lambda key, _: HANG if key == "END" else None
        couriers = {
            name: courier_for(name, server.url, clock=clock, connections=CONNECTIONS, slots=slots)
            for name, server in (("slow", slow), ("quick", quick))
        }
        deliverer = Deliverer(couriers, ledger, spool, clock)
        given = Given(deliverer, MESSAGES)
        await until(lambda: len(slow.received) == CONNECTIONS)
        kept = CONNECTIONS * (PER_CONNECTION + 1)
        while len(given.found) < MESSAGES - kept:
            await clock.advance(1.0)
            await asyncio.sleep(0.01)
        assert given.kinds() == {"Busy"}
        assert not deliverer.breakers["slow"].open
        assert clock.monotonic() < HORIZON
        assert await claim_one(other, f"m{MESSAGES - 1}", "slow") == Claim(
            frozenset(), replay=False
        )
        late = Given(
            deliverer, 10, name="late"
        )  # there is no room for more, and that is known at once
        await late.task
        assert late.kinds() == {"Busy"}
        fine = Given(deliverer, 10, "quick")
        await fine.task
        assert fine.kinds() == {"Done"}
        given.task.cancel()
        await asyncio.wait({given.task})
        await deliverer.close()


async def test_nobody_waits_for_minutes_behind_one_that_is_not_answered_for(
    ledger: State, spool: Spool, clock: ManualClock
) -> None:
    async with smtp_server() as server:
        server.answer("END", HANG)
        courier = courier_for("slow", server.url, clock=clock, connections=1)
        deliverer = Deliverer({"slow": courier}, ledger, spool, clock)
        given = Given(deliverer, 3)
        await until(lambda: len(server.received) == 1)
        for _ in range(int(STILL) - 10):
            await clock.advance(1.0)
        assert given.found == {}
        for _ in range(11):
            await clock.advance(1.0)
        await until(lambda: len(given.found) == 2)
        assert given.kinds() == {"Busy"}
        given.task.cancel()
        await asyncio.wait({given.task})
        await deliverer.close()


async def test_one_wait_for_a_server_that_says_nothing_is_enough(
    ledger: State, spool: Spool, clock: ManualClock
) -> None:
    """What comes after it does not wait anew, and is delivered if the server greets at last."""
    async with smtp_server(most=0) as mute:
        courier = courier_for("mute", mute.url, clock=clock, connections=CONNECTIONS)
        deliverer = Deliverer({"mute": courier}, ledger, spool, clock)
        first = Given(deliverer, MESSAGES, "mute")
        await until(lambda: mute.connections == CONNECTIONS)
        await _pass(clock, STILL - 10, lambda: False)
        assert len(first.found) < MESSAGES
        await _pass(clock, 12, first.task.done)
        assert first.kinds() == {"Busy", "Retry"}
        assert any("said nothing for 120 seconds" in str(found) for found in first.found.values())
        assert deliverer.breakers["mute"].open
        await clock.advance(deliverer.breakers["mute"].remaining())
        again = Given(deliverer, 10, "mute", "again")
        await _pass(clock, 3, again.task.done)
        assert again.kinds() == {"Retry"}
        assert mute.connections == CONNECTIONS
        mute.most = CONNECTIONS
        mute.left.set()
        await until(lambda: mute.open == CONNECTIONS)
        await clock.advance(deliverer.breakers["mute"].remaining())
        late = Given(deliverer, 1, "mute", "late")
        await until(late.task.done)
        assert late.kinds() == {"Done"}
        await deliverer.close()


async def _pass(clock: ManualClock, seconds: float, until_: Callable[[], bool]) -> None:
    """Let so many seconds pass, or fewer."""
    for _ in range(round(seconds)):
        await clock.advance(1.0)
        await asyncio.sleep(0.01)
        if until_():
            return


async def test_of_many_messages_for_a_slow_server_none_fails_and_all_arrive(
    ledger: State, spool: Spool, clock: ManualClock
) -> None:
    """Those that are put aside come back, as the queue would bring them, until all have arrived."""
    async with smtp_server() as server:
        courier = courier_for(
            "slow", server.url, clock=clock, connections=CONNECTIONS, slots=DeliverySlots(MESSAGES)
        )
        deliverer = Deliverer({"slow": courier}, ledger, spool, clock)
        outcomes = list[Outcome | Exception]()
        left, rounds = MESSAGES, 0
        slow = asyncio.create_task(_passing(clock))
        while left:
            given = Given(deliverer, left)
            await given.task
            outcomes += given.found.values()
            left = sum(isinstance(outcome, Busy) for outcome in given.found.values())
            rounds += 1
        slow.cancel()
        assert {type(outcome) for outcome in outcomes} <= {Done, Busy}
        assert rounds < 20
        assert not deliverer.breakers["slow"].open
        await deliverer.close()


async def _passing(clock: ManualClock) -> None:
    while True:
        await asyncio.sleep(0.002)
        await clock.advance(1.0)


async def test_a_server_that_is_down_is_told_of_to_all_who_wait_and_opens_the_breaker(
    ledger: State, spool: Spool, clock: ManualClock
) -> None:
    async with smtp_server() as server:
        pass
    courier = courier_for("slow", server.url, clock=clock, connections=CONNECTIONS)
    deliverer = Deliverer({"slow": courier}, ledger, spool, clock)
    given = Given(deliverer, MESSAGES)
    await given.task
    assert given.kinds() == {"Retry"}
    assert deliverer.breakers["slow"].open
    await deliverer.close()


async def test_it_is_said_once_in_a_while_that_messages_wait_and_why(
    ledger: State, spool: Spool, clock: ManualClock
) -> None:
    said: list[tuple[str, object]] = []

    def report(what: str, /, **about: object) -> None:
        said.append((what, about["why"]))

    async with smtp_server() as mute:
        mute.rule = lambda key, _: HANG if key == "GREETING" else None
        courier = courier_for("slow", mute.url, clock=clock, connections=CONNECTIONS)
        deliverer = Deliverer({"slow": courier}, ledger, spool, clock, report=report)
        given = Given(deliverer, MESSAGES)
        while "Busy" not in given.kinds():
            await clock.advance(1.0)
            await asyncio.sleep(0.01)
        given.task.cancel()
        await asyncio.wait({given.task})
        await deliverer.close()
    ((what, why),) = said
    assert what == WAITING
    assert "has accepted no connection so far" in str(why)
