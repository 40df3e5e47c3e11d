"""Messages that are delivered together, each told of by itself: a real ledger, a slow courier."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import pytest

from services.deliverer.courier import CourierResult, DeliveryRequest
from services.deliverer.deliver import Deliverer
from shared.errors import SpoolUnavailable, Unreachable
from shared.ledger import Claim
from shared.message import Inline
from shared.outcome import DeadLetter, Done, Outcome
from shared.spool import Spool
from shared.state import State
from shared.state.leases import LEASE_SECONDS
from tests.clock import ManualClock
from tests.ledger import claim_one
from tests.unit.deliverer.content import ANNA, MESSAGE, until
from tests.unit.deliverer.stories import TAKEN, UNKNOWN, Away, envelope


class Slow:
    """A courier that tells of messages when it is told to, and is never done before."""

    def __init__(self) -> None:
        self.tell: dict[str, Callable[[CourierResult], None]] = {}
        self.over = asyncio.Event()

    async def deliver(self, requests: Sequence[DeliveryRequest]) -> None:
        self.tell = {request.mail_object.content.id: request.tell for request in requests}
        del requests
        await self.over.wait()

    async def probe(self, recipients: Sequence[str]) -> None:
        raise NotImplementedError

    def told(self, id_: str, delivered: CourierResult) -> None:
        self.tell.pop(id_)(delivered)

    async def close(self) -> None:
        self.over.set()


class Held(Inline):
    """A message of which one can tell whether it is in memory still."""


class Answers:
    """Messages being delivered in one call, and the answers so far."""

    def __init__(self, deliverer: Deliverer, *ids: str) -> None:
        self.found: dict[str, Outcome | Exception] = {}
        mails = [replace(envelope(ANNA, raw=Held(MESSAGE)), id=id_) for id_ in ids]
        self.texts = [weakref.ref(mail.payload.raw) for mail in mails]

        def answer(place: int, answered: Outcome | Exception) -> None:
            assert ids[place] not in self.found
            self.found[ids[place]] = answered

        self.task = asyncio.create_task(deliverer.handle(mails, answer))


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
async def patient(
    slow: Slow, ledger: State, spool: Spool, clock: ManualClock
) -> AsyncIterator[Deliverer]:
    yield Deliverer({"local": slow}, ledger, spool, clock, threshold=3)
    await slow.close()


async def test_each_is_recorded_answered_for_and_let_go_of_while_others_take_their_time(
    patient: Deliverer, slow: Slow, other: State
) -> None:
    taken = {ANNA: TAKEN}
    under_way = Answers(patient, "a", "b", "c", "d")
    await until(lambda: bool(slow.tell))
    slow.told("c", taken)
    slow.told("a", {ANNA: UNKNOWN})
    await until(lambda: len(under_way.found) == 2)
    assert under_way.found == {"c": Done(TAKEN.reply), "a": DeadLetter(UNKNOWN.reply)}
    assert await claim_one(other, "c", "local") == Claim(frozenset({ANNA}), replay=False)
    assert await claim_one(other, "b", "local") is None
    slow.told("b", taken)
    await until(lambda: "b" in under_way.found)
    slow.told("d", SpoolUnavailable("away"))
    slow.over.set()
    await under_way.task
    assert isinstance(under_way.found["d"], SpoolUnavailable)


async def test_what_was_delivered_does_not_wait_in_memory_for_the_rest(
    patient: Deliverer, slow: Slow
) -> None:
    under_way = Answers(patient, "a", "b", "c")
    await until(lambda: bool(slow.tell))
    for id_ in ("a", "b"):  # of the last answer, its variables still hold the message
        slow.told(id_, {ANNA: TAKEN})
        await until(lambda id_=id_: id_ in under_way.found)  # type: ignore[misc]
    gc.collect()
    assert [text() is None for text in under_way.texts] == [True, False, False]
    slow.told("c", {ANNA: TAKEN})
    slow.over.set()
    await under_way.task


async def test_of_those_cancelled_what_was_delivered_is_recorded_and_the_rest_is_marked(
    patient: Deliverer, slow: Slow, other: State, clock: ManualClock
) -> None:
    under_way = Answers(patient, "a", "b")
    await until(lambda: bool(slow.tell))
    slow.told("a", {ANNA: TAKEN})
    under_way.task.cancel()  # before anybody could take note
    with pytest.raises(asyncio.CancelledError):
        await under_way.task
    assert under_way.found == {}
    assert await claim_one(other, "a", "local") == Claim(frozenset({ANNA}), replay=False)
    await clock.advance(LEASE_SECONDS + 1)
    assert await claim_one(other, "b", "local") == Claim(frozenset(), replay=True)


async def test_a_ledger_that_is_away_keeps_nothing_from_being_cancelled(
    slow: Slow, ledger: State, other: State, spool: Spool, clock: ManualClock
) -> None:
    away = Away(ledger)
    deliverer = Deliverer({"local": slow}, away, spool, clock)
    under_way = Answers(deliverer, "a", "b")
    await until(lambda: bool(slow.tell))
    away.out = {"finish"}
    slow.told("a", {ANNA: TAKEN})
    under_way.task.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await under_way.task
    await clock.advance(LEASE_SECONDS + 1)
    assert await claim_one(other, "b", "local") == Claim(frozenset(), replay=True)


async def test_each_of_many_counts_for_the_breaker_and_one_alone_is_the_probe(
    patient: Deliverer, slow: Slow, clock: ManualClock
) -> None:
    down = Unreachable("mail:25", "no connection")
    first = Answers(patient, "a", "b", "c")
    await until(lambda: bool(slow.tell))
    for id_ in "abc":
        slow.told(id_, down)
    slow.over.set()
    await first.task
    assert patient.breakers["local"].open
    await clock.advance(patient.breakers["local"].remaining())
    slow.tell, slow.over = {}, asyncio.Event()
    again = Answers(patient, "a", "b", "c")
    await until(lambda: bool(slow.tell))
    assert list(slow.tell) == ["a"]
    await until(lambda: set(again.found) == {"b", "c"})
    again.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await again.task
    assert patient.breakers["local"].remaining() == 0  # it found out nothing: another may try
