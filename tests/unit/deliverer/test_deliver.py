"""The story of a delivery: a real ledger, a real spool, and couriers that do as they are told."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from services.deliverer.batch import CLAIMED_ELSEWHERE
from services.deliverer.courier import Result
from services.deliverer.deliver import LONGEST_PAUSE, UNRECORDED, Deliverer, Deliveries
from shared.errors import SpoolMissing, SpoolUnavailable, Unreachable
from shared.ledger import Claim, DeliveryKey
from shared.message import Addressed, Envelope, Inline, Spooled
from shared.outcome import DeadLetter, Done, Outcome, Retry, Split
from shared.spool import Spool
from shared.state import State
from shared.state.deliveries import lease_of
from tests.clock import ManualClock
from tests.ledger import claim_one
from tests.unit.deliverer.letters import ANNA, BERT, CARL, MESSAGE, PREFIX
from tests.unit.deliverer.stories import FULL, UNKNOWN, Away, Told, envelope
from tests.unit.state.values import forbid


async def answers(
    deliverer: Deliverer, mails: Sequence[Envelope[Addressed]]
) -> list[Outcome | Exception]:
    """Have messages delivered in one call; return the answer for each."""
    found: dict[int, Outcome | Exception] = {}

    def answer(place: int, answered: Outcome | Exception) -> None:
        assert place not in found
        found[place] = answered

    await deliverer.handle(mails, answer)
    return [found.pop(place) for place in range(len(mails))]


async def handled(deliverer: Deliverer, mail: Envelope[Addressed]) -> Outcome:
    """Have one message delivered; raise what kept it from an outcome."""
    (outcome,) = await answers(deliverer, [mail])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@pytest.fixture
def courier() -> Told:
    return Told()


@pytest.fixture
def deliverer(courier: Told, ledger: State, spool: Spool, clock: ManualClock) -> Deliverer:
    return Deliverer({"local": courier}, ledger, spool, clock, threshold=2)


async def claimed(ledger: Deliveries) -> Claim:
    claim = await claim_one(ledger, "3f9a", "local")
    assert claim is not None
    return claim


async def test_a_message_is_delivered_and_recorded(
    deliverer: Deliverer, courier: Told, ledger: State
) -> None:
    assert await handled(deliverer, envelope(ANNA, BERT)) == Done("250 2.0.0 taken")
    ((letter, data, recipients),) = courier.letters
    assert (letter.prefix + data, recipients) == (PREFIX + MESSAGE, [ANNA, BERT])
    assert (letter.id, letter.data, letter.replay) == ("3f9a", MESSAGE, False)
    assert letter.size == len(PREFIX + MESSAGE)
    assert (await claimed(ledger)).delivered == {ANNA, BERT}


async def test_a_message_for_nobody_is_no_delivery(
    deliverer: Deliverer, courier: Told, ledger: State
) -> None:
    mail = envelope(ANNA)
    mail = replace(mail, payload=replace(mail.payload, recipients=()))
    outcome = await handled(deliverer, mail)
    assert isinstance(outcome, DeadLetter)
    assert "no recipient" in outcome.reason
    assert courier.letters == []
    assert await claimed(ledger) == Claim(frozenset(), replay=False)


async def test_a_recipient_of_whom_nothing_is_told_is_tried_again(
    deliverer: Deliverer, courier: Told
) -> None:
    courier.forgets = BERT
    outcome = await handled(deliverer, envelope(ANNA, BERT))
    assert isinstance(outcome, Split)
    done, again = outcome.verdicts
    assert (type(done), type(again)) == (Done, Retry)
    assert isinstance(again, Retry) and again.payload is not None
    assert isinstance(again.payload, Addressed)
    assert again.payload.recipients == (BERT,)


async def test_a_message_delivered_before_is_suppressed(
    deliverer: Deliverer, courier: Told
) -> None:
    await handled(deliverer, envelope(ANNA))
    for _ in range(2):
        outcome = await handled(deliverer, envelope(ANNA))
        assert outcome == Done("had been delivered before", event="suppressed")
    assert len(courier.letters) == 1


async def test_only_those_who_do_not_have_it_get_it(deliverer: Deliverer, courier: Told) -> None:
    await handled(deliverer, envelope(ANNA))
    await handled(deliverer, envelope(ANNA, BERT, BERT))
    assert [recipients for *_, recipients in courier.letters] == [[ANNA], [BERT]]


async def test_another_destination_is_another_delivery(
    courier: Told, ledger: State, spool: Spool, clock: ManualClock
) -> None:
    archive = Told()
    deliverer = Deliverer({"local": courier, "archive": archive}, ledger, spool, clock)
    await handled(deliverer, envelope(ANNA))
    await handled(deliverer, envelope(ANNA, to="archive"))
    assert len(archive.letters) == 1


async def test_temporary_and_permanent(deliverer: Deliverer, courier: Told) -> None:
    courier.results = {ANNA: FULL}
    assert await handled(deliverer, envelope(ANNA)) == Retry("452 4.2.2 mailbox full")
    courier.results = {ANNA: UNKNOWN}
    assert await handled(deliverer, envelope(ANNA)) == DeadLetter("550 5.1.1 no such user")
    courier.results = {}
    assert await handled(deliverer, envelope(ANNA)) == Done("250 2.0.0 taken")


async def test_each_recipient_goes_its_own_way(deliverer: Deliverer, courier: Told) -> None:
    courier.results = {BERT: FULL, CARL: UNKNOWN}
    whole = envelope(ANNA, BERT, CARL)
    outcome = await handled(deliverer, whole)
    assert outcome == Split(
        (
            Done("250 2.0.0 taken"),
            Retry("452 4.2.2 mailbox full", payload=replace(whole.payload, recipients=(BERT,))),
            DeadLetter("550 5.1.1 no such user", replace(whole.payload, recipients=(CARL,))),
        )
    )
    courier.results = {}
    assert isinstance(await handled(deliverer, whole), Done)
    assert courier.letters[-1][2] == [BERT, CARL]


async def test_different_replies_name_whom_they_are_about(
    deliverer: Deliverer, courier: Told
) -> None:
    courier.results = {ANNA: UNKNOWN, BERT: Result("permanent", "552 5.3.4 too big"), CARL: UNKNOWN}
    outcome = await handled(deliverer, envelope(ANNA, BERT, CARL))
    assert isinstance(outcome, DeadLetter)
    assert outcome.payload is None
    assert outcome.reason == (f"{ANNA}, {CARL}: 550 5.1.1 no such user; {BERT}: 552 5.3.4 too big")


async def test_a_destination_that_is_not_configured_yet_is_waited_for(
    deliverer: Deliverer,
) -> None:
    outcome = await handled(deliverer, envelope(ANNA, to="archive"))
    assert isinstance(outcome, Retry)
    assert "configure [destinations.archive] with a url" in outcome.reason


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
    assert len(courier.letters) == 1


async def test_a_claim_of_the_dead_is_a_replay(
    deliverer: Deliverer, courier: Told, tmp_path: Path, clock: ManualClock
) -> None:
    dead = await State.open(f"sqlite:///{tmp_path}/state.db", owner="dead", clock=clock)
    await claimed(dead)
    await dead.close()
    await clock.advance(60)
    assert await handled(deliverer, envelope(ANNA)) == Done("250 2.0.0 taken")
    assert courier.letters[0][0].replay


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
    assert courier.letters == []


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
        while not courier.letters:
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
    assert len(courier.letters) == 1


async def test_what_is_claimed_no_longer_is_left_to_the_other(
    courier: Told, ledger: State, spool: Spool, clock: ManualClock
) -> None:
    away = Away(ledger)
    deliverer = Deliverer({"local": courier}, away, spool, clock)
    away.out = {"holds"}
    outcome = await handled(deliverer, envelope(ANNA))
    assert isinstance(outcome, Retry) and outcome.after == CLAIMED_ELSEWHERE
    assert courier.letters == []


async def test_an_error_is_not_hidden_by_a_ledger_that_is_away(
    courier: Told, ledger: State, spool: Spool, clock: ManualClock
) -> None:
    away = Away(ledger)
    deliverer = Deliverer({"local": courier}, away, spool, clock)
    away.out = {"unclaim"}
    courier.error = RuntimeError("a defect")
    with pytest.raises(RuntimeError, match="a defect"):
        await handled(deliverer, envelope(ANNA))


async def test_a_dead_destination_is_left_alone_and_others_are_not(
    courier: Told, ledger: State, spool: Spool, clock: ManualClock
) -> None:
    archive = Told()
    couriers = {"local": courier, "archive": archive}
    away = Away(ledger)
    deliverer = Deliverer(couriers, away, spool, clock, threshold=2)
    courier.error = Unreachable("mail:25", "no connection")
    for _ in range(2):
        assert await handled(deliverer, envelope(ANNA)) == Retry("mail:25: no connection")
    courier.error = None
    away.out = {"claim"}  # it is not even asked
    outcome = await handled(deliverer, envelope(ANNA))
    away.out = set()
    assert isinstance(outcome, Retry)
    assert outcome.after == deliverer.breakers["local"].remaining() > 0
    assert outcome.reason == "destination local is not tried for a while: mail:25: no connection"
    assert courier.letters == []
    assert isinstance(await handled(deliverer, envelope(ANNA, to="archive")), Done)
    await clock.advance(outcome.after)
    assert await handled(deliverer, envelope(ANNA)) == Done("250 2.0.0 taken")
    assert deliverer.breakers["local"].remaining() == 0


async def test_after_the_cooldown_one_message_alone_is_the_probe(
    courier: Told, ledger: State, spool: Spool, clock: ManualClock
) -> None:
    deliverer = Deliverer({"local": courier}, ledger, spool, clock, threshold=1)
    courier.error = Unreachable("mail:25", "no connection")
    await handled(deliverer, envelope(ANNA))
    await clock.advance(deliverer.breakers["local"].remaining())
    courier.error, courier.gate = None, asyncio.Event()
    tries = [
        asyncio.create_task(handled(deliverer, replace(envelope(ANNA), id=f"{i}")))
        for i in range(5)
    ]
    done, _ = await asyncio.wait(tries, return_when=asyncio.FIRST_COMPLETED)
    while len(done) < 4:
        await asyncio.sleep(0.001)
        done = {task for task in tries if task.done()}
    courier.gate.set()
    outcomes = await asyncio.gather(*tries)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Done", *["Retry"] * 4]


async def test_lost_after_the_dot_counts_as_unreachable(
    deliverer: Deliverer, courier: Told
) -> None:
    courier.results = {ANNA: Result("temporary", "lost: it may have arrived", lost=True)}
    for _ in range(2):
        assert await handled(deliverer, envelope(ANNA)) == Retry("lost: it may have arrived")
    assert deliverer.breakers["local"].open


async def put(spool: Spool, key: str, data: bytes) -> None:
    blob = await spool.create()
    await blob.write(data)
    await blob.commit(key)


async def test_a_large_message_comes_from_the_spool(
    deliverer: Deliverer, courier: Told, spool: Spool
) -> None:
    await put(spool, "3f9a", MESSAGE * 1000)
    raw = Spooled("3f9a", len(MESSAGE) * 1000, MESSAGE[:10])
    assert await handled(deliverer, envelope(raw=raw)) == Done("250 2.0.0 taken")
    ((letter, data, _),) = courier.letters
    assert letter.data is None
    assert letter.size == len(PREFIX) + raw.size
    assert data == MESSAGE * 1000


@pytest.mark.parametrize("skip", [1, len(MESSAGE) - 1, 300_000])
async def test_lines_that_the_prefix_has_are_not_delivered_twice(
    deliverer: Deliverer, courier: Told, spool: Spool, skip: int
) -> None:
    text = MESSAGE * 10_000
    await put(spool, "3f9a", text)
    for raw in (Inline(text), Spooled("3f9a", len(text), MESSAGE[:10])):
        mail = envelope(raw=raw)
        mail = replace(mail, id=str(raw), payload=replace(mail.payload, skip=skip))
        assert await handled(deliverer, mail) == Done("250 2.0.0 taken")
        letter, data, _ = courier.letters[-1]
        assert data == text[skip:]
        assert letter.size == len(PREFIX) + len(text) - skip


async def test_a_message_missing_from_the_spool_is_no_fault_of_the_destination(
    deliverer: Deliverer, courier: Told, spool: Spool
) -> None:
    await put(spool, "another", MESSAGE)
    raw = Spooled("3f9a", len(MESSAGE), MESSAGE[:10])
    with pytest.raises(SpoolMissing, match="the spool has no blob '3f9a'"):
        await handled(deliverer, envelope(raw=raw))
    assert deliverer.breakers["local"].remaining() == 0
    await put(spool, "3f9a", MESSAGE)
    assert isinstance(await handled(deliverer, envelope(raw=raw)), Done)


@pytest.mark.parametrize("data", [MESSAGE[:-1], MESSAGE + b"x", b""])
async def test_a_blob_of_another_size_is_not_delivered(
    deliverer: Deliverer, courier: Told, spool: Spool, data: bytes
) -> None:
    await put(spool, "3f9a", data)
    with pytest.raises(SpoolUnavailable, match=f"has {len(data)} bytes, and should have"):
        await handled(deliverer, envelope(raw=Spooled("3f9a", len(MESSAGE), b"")))
    assert courier.letters == []


async def test_closing_lets_go_of_every_destination(deliverer: Deliverer, courier: Told) -> None:
    await handled(deliverer, envelope(ANNA))
    await deliverer.close()
    assert courier.letters == []


async def test_of_many_each_has_its_own_outcome(
    deliverer: Deliverer, courier: Told, other: State
) -> None:
    """Handled in one call: taken, refused, had before, in other hands, unreadable, twice."""
    courier.results = {BERT: UNKNOWN, CARL: FULL}
    mails = [
        replace(envelope(*recipients, raw=raw), id=id_)
        for id_, recipients, raw in (
            ("taken", (ANNA,), None),
            ("refused", (BERT,), None),
            ("full", (CARL,), None),
            ("before", (ANNA,), None),
            ("elsewhere", (ANNA,), None),
            ("unreadable", (ANNA,), Spooled("ab12", 5, b"")),
            ("taken", (ANNA,), None),
        )
    ]
    await handled(deliverer, mails[3])
    courier.letters.clear()
    assert await claim_one(other, "elsewhere", "local") is not None
    *outcomes, twice = await answers(deliverer, mails)
    unreadable = outcomes.pop()
    assert isinstance(unreadable, SpoolUnavailable)  # the spool has not been made
    assert outcomes == [
        Done("250 2.0.0 taken"),
        DeadLetter(UNKNOWN.reply),
        Retry(FULL.reply),
        Done("had been delivered before", event="suppressed"),
        Retry("another process is delivering this message", after=CLAIMED_ELSEWHERE),
    ]
    assert twice == outcomes[-1]
    assert [letter.id for letter, _, _ in courier.letters] == ["taken", "refused", "full"]
    for id_ in ("refused", "full", "unreadable"):
        assert await claim_one(other, id_, "local") == Claim(frozenset(), replay=False)
    delivered = await claim_one(other, "taken", "local")
    assert delivered is not None
    assert delivered.delivered == {ANNA}


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
    assert [letter.id for letter, _, _ in courier.letters] == ["one", "two", "poison", "three"]
    for id_ in outcomes:
        claim = await claim_one(other, id_, "local")
        assert claim == Claim(frozenset({ANNA}), replay=False)


async def test_what_is_small_and_for_one_destination_is_delivered_together(
    deliverer: Deliverer,
) -> None:
    assert deliverer.lane(envelope(ANNA)) == deliverer.lane(envelope(BERT)) == "local"
    assert deliverer.lane(envelope(ANNA, raw=Spooled("large", 5, b""))) is None
    assert deliverer.lane(envelope(ANNA, to="archive")) == "archive"
