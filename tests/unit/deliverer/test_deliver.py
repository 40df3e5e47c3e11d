"""The story of a delivery, with couriers that do as they are told: what becomes of whom."""

import asyncio
from dataclasses import replace

from services.deliverer.batch import CLAIMED_ELSEWHERE
from services.deliverer.courier import Result
from services.deliverer.deliver import Deliverer
from shared.errors import SpoolUnavailable, Unreachable
from shared.ledger import Claim
from shared.message import Addressed, Spooled
from shared.outcome import DeadLetter, Done, Retry, Split
from shared.spool import Spool
from shared.state import State
from tests.clock import ManualClock
from tests.ledger import claim_one
from tests.unit.deliverer.content import ANNA, BERT, CARL, MESSAGE, PREFIX
from tests.unit.deliverer.handling import answers, claimed, handled
from tests.unit.deliverer.stories import FULL, UNKNOWN, Away, Told, envelope


async def test_a_message_is_delivered_and_recorded(
    deliverer: Deliverer, courier: Told, ledger: State
) -> None:
    assert await handled(deliverer, envelope(ANNA, BERT)) == Done("250 2.0.0 taken")
    ((content, data, recipients),) = courier.taken
    assert (content.prefix + data, recipients) == (PREFIX + MESSAGE, [ANNA, BERT])
    assert (content.id, content.data, content.replay) == ("3f9a", MESSAGE, False)
    assert content.size == len(PREFIX + MESSAGE)
    assert (await claimed(ledger)).delivered == {ANNA, BERT}


async def test_a_message_for_nobody_is_no_delivery(
    deliverer: Deliverer, courier: Told, ledger: State
) -> None:
    mail = envelope(ANNA)
    mail = replace(mail, payload=replace(mail.payload, recipients=()))
    outcome = await handled(deliverer, mail)
    assert isinstance(outcome, DeadLetter)
    assert "no recipient" in outcome.reason
    assert courier.taken == []
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
    assert len(courier.taken) == 1


async def test_only_those_who_do_not_have_it_get_it(deliverer: Deliverer, courier: Told) -> None:
    await handled(deliverer, envelope(ANNA))
    await handled(deliverer, envelope(ANNA, BERT, BERT))
    assert [recipients for *_, recipients in courier.taken] == [[ANNA], [BERT]]


async def test_another_destination_is_another_delivery(
    courier: Told, ledger: State, spool: Spool, clock: ManualClock
) -> None:
    archive = Told()
    deliverer = Deliverer({"local": courier, "archive": archive}, ledger, spool, clock)
    await handled(deliverer, envelope(ANNA))
    await handled(deliverer, envelope(ANNA, to="archive"))
    assert len(archive.taken) == 1


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
    assert courier.taken[-1][2] == [BERT, CARL]


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
    assert courier.taken == []
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


async def test_closing_lets_go_of_every_destination(deliverer: Deliverer, courier: Told) -> None:
    await handled(deliverer, envelope(ANNA))
    await deliverer.close()
    assert courier.taken == []


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
    courier.taken.clear()
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
    assert [content.id for content, _, _ in courier.taken] == ["taken", "refused", "full"]
    for id_ in ("refused", "full", "unreadable"):
        assert await claim_one(other, id_, "local") == Claim(frozenset(), replay=False)
    delivered = await claim_one(other, "taken", "local")
    assert delivered is not None
    assert delivered.delivered == {ANNA}


async def test_what_is_small_and_for_one_destination_is_delivered_together(
    deliverer: Deliverer,
) -> None:
    assert deliverer.lane(envelope(ANNA)) == deliverer.lane(envelope(BERT)) == "local"
    assert deliverer.lane(envelope(ANNA, raw=Spooled("large", 5, b""))) is None
    assert deliverer.lane(envelope(ANNA, to="archive")) == "archive"
