"""What a deliverer claims and records: a real ledger, also one that is away."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from services.deliverer.batch import CLAIMED_ELSEWHERE
from services.deliverer.courier import PutAside, Result
from services.deliverer.deliver import LONGEST_PAUSE, UNRECORDED, Deliverer
from shared.errors import SpoolUnavailable
from shared.ledger import Claim, DeliveryKey
from shared.message import Requeue
from shared.outcome import DeadLetter, Done, Retry
from shared.spool import Spool
from shared.state import State
from shared.state.deliveries import lease_of
from tests.clock import ManualClock
from tests.ledger import claim_one
from tests.unit.deliverer.content import ANNA, BERT
from tests.unit.deliverer.handling import answers, claimed, handled
from tests.unit.deliverer.stories import Away, Told, envelope
from tests.unit.state.values import forbid


async def test_two_copies_at_once_are_one_delivery(
    deliverer: Deliverer, courier: Told, other: State, spool: Spool, clock: ManualClock
) -> None:
    courier.gate = asyncio.Event()
    first = asyncio.create_task(handled(deliverer, envelope(ANNA)))
    await courier.started.wait()
    elsewhere = Deliverer({"local": courier}, other, spool, clock)
    for deliverer_ in (deliverer, elsewhere):
        outcome = await handled(deliverer_, envelope(ANNA))
        assert isinstance(outcome, Retry)
        assert outcome.after == CLAIMED_ELSEWHERE
    courier.gate.set()
    assert await first == Done("250 2.0.0 taken")
    assert len(courier.taken) == 1


async def test_a_claim_of_the_dead_is_a_replay(
    deliverer: Deliverer, courier: Told, tmp_path: Path, clock: ManualClock
) -> None:
    dead = await State.open(f"sqlite:///{tmp_path}/state.db", owner="dead", clock=clock)
    await claimed(dead)
    await dead.close()
    await clock.advance(60)
    assert await handled(deliverer, envelope(ANNA)) == Done("250 2.0.0 taken")
    assert courier.taken[0][0].replay


@pytest.mark.parametrize("error", [PutAside("no room"), SpoolUnavailable("away")])
async def test_a_replay_that_came_to_nothing_is_one_again(
    deliverer: Deliverer, courier: Told, tmp_path: Path, clock: ManualClock, error: Exception
) -> None:
    """Put aside by a full line, it would be sent once more without being looked for."""
    dead = await State.open(f"sqlite:///{tmp_path}/state.db", owner="dead", clock=clock)
    await claimed(dead)
    await dead.close()
    await clock.advance(60)
    courier.error = error
    await answers(deliverer, [envelope(ANNA)])
    courier.error = None
    assert await handled(deliverer, envelope(ANNA)) == Done("250 2.0.0 taken")
    assert courier.taken[-1][0].replay
    assert await handled(deliverer, envelope(ANNA)) == Done(
        "had been delivered before", event="suppressed"
    )


@pytest.mark.parametrize(
    "error", [RuntimeError("a defect"), asyncio.CancelledError()], ids=["defect", "cancelled"]
)
async def test_an_error_is_passed_on_and_the_claim_given_back(
    deliverer: Deliverer, courier: Told, ledger: State, error: Exception
) -> None:
    courier.error = error
    with pytest.raises(type(error)):
        await handled(deliverer, envelope(ANNA))
    assert (await claimed(ledger)) == Claim(frozenset(), replay=False)


async def test_without_a_ledger_nothing_is_delivered(
    courier: Told, ledger: State, spool: Spool, clock: ManualClock
) -> None:
    away = Away(ledger)
    deliverer = Deliverer({"local": courier}, away, spool, clock)
    away.out = {"claim"}
    outcome = await handled(deliverer, envelope(ANNA))
    assert outcome == Retry("the delivery ledger is unavailable: the database is locked")
    assert courier.taken == []


async def test_a_delivery_that_cannot_be_recorded_stays_in_hand_until_it_can(
    courier: Told, ledger: State, other: State, spool: Spool, clock: ManualClock
) -> None:
    away, told = Away(ledger), []

    def report(what: str, /, **about: object) -> None:
        told.append(what)

    deliverer = Deliverer({"local": courier}, away, spool, clock, report=report)
    away.out = {"finish", "unclaim"}
    delivering = asyncio.create_task(handled(deliverer, envelope(ANNA)))
    async with asyncio.timeout(10):
        while not courier.taken:
            await asyncio.sleep(0.001)
    async with asyncio.timeout(10):
        while not told:
            await asyncio.sleep(0.001)
    await clock.advance(3 * LONGEST_PAUSE)
    assert set(told) == {UNRECORDED}
    assert not delivering.done()  # settled now, it would come to others, and out of a dead claim
    away.out = set()
    async with asyncio.timeout(10):
        while not delivering.done():
            await clock.advance(LONGEST_PAUSE)
            await asyncio.sleep(0.001)
    assert await delivering == Done("250 2.0.0 taken")
    assert (await claimed(other)).delivered == {ANNA}
    assert len(courier.taken) == 1


async def test_what_is_claimed_no_longer_is_left_to_the_other(
    courier: Told, ledger: State, spool: Spool, clock: ManualClock
) -> None:
    away = Away(ledger)
    deliverer = Deliverer({"local": courier}, away, spool, clock)
    away.out = {"holds"}
    outcome = await handled(deliverer, envelope(ANNA))
    assert isinstance(outcome, Retry) and outcome.after == CLAIMED_ELSEWHERE
    assert courier.taken == []


async def test_an_error_is_not_hidden_by_a_ledger_that_is_away(
    courier: Told, ledger: State, spool: Spool, clock: ManualClock
) -> None:
    away = Away(ledger)
    deliverer = Deliverer({"local": courier}, away, spool, clock)
    away.out = {"unclaim"}
    courier.error = RuntimeError("a defect")
    with pytest.raises(RuntimeError, match="a defect"):
        await handled(deliverer, envelope(ANNA))


async def test_what_the_ledger_does_not_take_fails_alone(
    deliverer: Deliverer, courier: Told, other: State, tmp_path: Path
) -> None:
    """One that cannot be claimed, and one whose reply cannot be recorded, among others."""
    url = f"sqlite:///{tmp_path}/state.db"
    forbid(url, "lease", "name", lease_of(DeliveryKey("bad", "local")))
    forbid(url, "delivered", "receipt", "250 poison")
    courier.results = {BERT: Result("delivered", "250 poison")}
    ids = ["one", "bad", "two", "poison", "three"]
    mails = [replace(envelope(BERT if i == "poison" else ANNA), id=i) for i in ids]
    outcomes = dict(zip(ids, await answers(deliverer, mails), strict=True))
    bad = outcomes.pop("bad")
    assert isinstance(bad, DeadLetter)
    assert "could not be recorded" in bad.reason
    assert outcomes.pop("poison") == Done("250 poison")
    assert set(outcomes.values()) == {Done("250 2.0.0 taken")}
    assert [content.id for content, _, _ in courier.taken] == ["one", "two", "poison", "three"]
    for id_ in outcomes:
        claim = await claim_one(other, id_, "local")
        assert claim == Claim(frozenset({ANNA}), replay=False)


async def test_a_courier_is_told_of_each_message_that_was_tried_before(
    deliverer: Deliverer, courier: Told
) -> None:
    first = envelope(ANNA)
    tried = [first, replace(first, attempt=1), replace(first, requeue=Requeue())]
    await answers(deliverer, [replace(each, id=f"{n}") for n, each in enumerate(tried)])
    assert [content.replay for content, _, _ in courier.taken] == [False, True, True]
