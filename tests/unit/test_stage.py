"""The runner over a real embedded broker: what becomes of a delivery, whatever the handler does."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest

from shared import wire
from shared.broker import Send
from shared.broker.embedded.broker import EmbeddedBroker
from shared.broker.embedded.steward import EmbeddedSteward
from shared.clock import SystemClock
from shared.errors import SpoolMissing, SpoolUnavailable
from shared.log import MailLog
from shared.message import Addressed, Envelope, Spooled
from shared.outcome import Answer, Busy, DeadLetter, Done, Forward, Outcome, Retry, Split
from shared.queues import PICKUP, QUARANTINE, Tier, plan
from shared.runner import Runner
from shared.settlement import RetryPolicy, Settlement, SettlementRules
from shared.spool import Spool
from shared.stage import Stage
from tests.ids import id_of, name_of
from tests.unit.stage_bench import MAIL, TIERS, at_work


async def test_done_leaves_nothing_behind(tmp_path: Path) -> None:
    async with at_work(tmp_path, lambda _: Done("250 ok")) as bench:
        await bench.put("a", "b")
        await bench.events("delivered", 2)
        assert all(not list(bench.steward.browse(q.name)) for q in plan(TIERS))


async def test_what_a_handler_raises_is_a_retry_of_that_message_alone(tmp_path: Path) -> None:
    def handle(envelope: Envelope[Any]) -> Outcome:
        if name_of(envelope.id) == "bad":
            raise ZeroDivisionError("a defect")
        return Done("250 ok")

    async with at_work(tmp_path, handle) as bench:
        await bench.put("bad", "good", "also good")
        await bench.until("pickup.retry.1h", 1)
        await bench.events("delivered", 2)
        (kept,) = bench.steward.browse("pickup.retry.1h")
        assert name_of(kept.message_id) == "bad"
        assert kept.headers["reason"] == "ZeroDivisionError in the deliverer: a defect"


@pytest.mark.parametrize(
    ("error", "what", "said"),
    [
        (SpoolMissing("id1"), "missing", "blob missing"),
        (SpoolUnavailable("the disk is full"), "unavailable", "spool unavailable"),
    ],
)
async def test_what_the_spool_does_not_give_is_a_retry_no_defect_and_an_alarm(
    tmp_path: Path, error: Exception, what: str, said: str
) -> None:
    async def handle(envelope: Envelope[Any]) -> Outcome:
        raise error

    async with at_work(tmp_path, handle) as bench:
        await bench.put("a")
        counted = f'spool_failures_total{{stage="deliverer",what="{what}"}}'
        assert f"{counted} 0.0" in bench.log.metrics.text().decode()
        await bench.until("pickup.retry.1h", 1)
        assert bench.log.counts["crashed"] == 0
        assert f"{counted} 1.0" in bench.log.metrics.text().decode()
        (kept,) = bench.steward.browse("pickup.retry.1h")
        assert kept.headers["reason"] == str(error)
    (line,) = [e for e in map(json.loads, bench.said.getvalue().splitlines()) if e["event"] == said]
    assert line["level"] == "error"
    assert (line["id"], line["account"], line["why"]) == (id_of("a"), "sales", str(error))


async def test_bytes_that_are_no_envelope_go_to_quarantine_as_they_are(tmp_path: Path) -> None:
    async with at_work(tmp_path, lambda _: Done("250 ok")) as bench:
        await bench.broker.publish(Send(PICKUP, b"\xc1 not ours", "m1"))
        await bench.put("good")
        await bench.until(QUARANTINE, 1)
        await bench.events("delivered", 1)
        (kept,) = bench.steward.browse(QUARANTINE)
        assert kept.body == b"\xc1 not ours"
        assert (kept.headers["stage"], kept.headers["inbox"]) == ("deliverer", PICKUP)


async def test_a_newer_schema_waits_unharmed_for_a_newer_worker(tmp_path: Path) -> None:
    body = msgpack.packb([wire.SCHEMA + 1, "whatever", "comes"])
    async with at_work(tmp_path, lambda _: Done("250 ok")) as bench:
        await bench.broker.publish(Send(PICKUP, body, "m1"))
        await bench.until("pickup.retry.1h", 1)
        (kept,) = bench.steward.browse("pickup.retry.1h")
        assert kept.body == body


async def test_stopping_finishes_what_is_in_hand_and_takes_nothing_more(tmp_path: Path) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def handle(envelope: Envelope[Any]) -> Outcome:
        inside.set()
        await go_on.wait()
        return Done("250 ok")

    async with at_work(tmp_path, handle, concurrency=1) as bench:
        await bench.put("in hand", "waiting")
        await inside.wait()
        bench.stop.set()
        await asyncio.sleep(0)
        go_on.set()
        await bench.events("delivered", 1)
        async with asyncio.timeout(20):
            while (await bench.broker.depths([PICKUP]))[PICKUP] != 1:
                await asyncio.sleep(0.005)
    assert bench.log.counts["delivered"] == 1


async def test_a_split_settles_every_part_and_no_blob_has_two_owners(tmp_path: Path) -> None:
    large = replace(MAIL, raw=Spooled(id_of("a"), 5, b""), recipients=("b@x", "c@x"))

    def handle(envelope: Envelope[Any]) -> Outcome:
        return Split(
            (
                Done("250 ok"),
                Retry("451", payload=replace(large, recipients=("b@x",))),
                DeadLetter("550", replace(large, recipients=("c@x",))),
            )
        )

    async with at_work(tmp_path, handle) as bench:
        blob = await bench.spool.create()
        await blob.write(b"12345")
        await blob.commit(id_of("a"))
        await bench.put("a", payload=large)
        await bench.until("pickup.failed", 1)
        await bench.until("pickup.retry.1h", 1)
        kept = [
            wire.decode(next(iter(bench.steward.browse(q))).body, Addressed).payload.raw
            for q in ("pickup.failed", "pickup.retry.1h")
        ]
        keys = {raw.key for raw in kept if isinstance(raw, Spooled)}
        assert len(keys) == 2
        for key in keys:
            assert b"".join([c async for c in bench.spool.chunks(key)]) == b"12345"


async def test_the_blob_goes_with_the_last_envelope_that_refers_to_it(tmp_path: Path) -> None:
    async with at_work(tmp_path, lambda _: Done("250 ok")) as bench:
        blob = await bench.spool.create()
        await blob.write(b"12345")
        await blob.commit(id_of("a"))
        await bench.put("a", payload=replace(MAIL, raw=Spooled(id_of("a"), 5, b"")))
        await bench.events("delivered", 1)
        async with asyncio.timeout(20):
            while True:
                try:
                    _ = [c async for c in bench.spool.chunks(id_of("a"))]
                except SpoolMissing:
                    break
                await asyncio.sleep(0.005)


async def test_a_full_or_missing_outbox_holds_the_delivery_back(tmp_path: Path) -> None:
    """The policy names a tier that the broker does not have: it refuses, nothing is acked away."""
    broker = EmbeddedBroker(tmp_path / "queue.db", tiers=TIERS, name="test")
    await broker.open()
    log = MailLog("deliverer")
    stage = Stage("deliverer", PICKUP, Addressed, None, lambda _: Retry("451"), 8)
    policy = RetryPolicy((Tier("7m", 420),), 86_400)
    spool = Spool(str(tmp_path / "spool"))
    runner = Runner(stage, broker, policy, log, SystemClock(), spool)
    stop = asyncio.Event()
    await broker.publish(Send(PICKUP, wire.encode(Envelope(id_of("a"), "sales", MAIL, 1.0)), "a"))
    running = asyncio.create_task(runner.run(stop, grace=0.01))
    async with asyncio.timeout(20):
        while runner.in_hand == 0:
            await asyncio.sleep(0.005)
    stop.set()
    await running
    await broker.close()
    steward = EmbeddedSteward(tmp_path / "queue.db", TIERS)
    assert [m.message_id for m in steward.browse(PICKUP)] == ["a"]
    assert log.counts["retrying"] == 0
    steward.close()


async def test_messages_of_a_lane_are_handled_together_and_wait_for_no_other(
    tmp_path: Path,
) -> None:
    """Lanes are the first letters of ids here; what begins with x has none. b1 takes its time."""
    begun, hold = list[list[str]](), asyncio.Event()

    async def perform(envelopes: Sequence[Envelope[Any]], answer: Answer) -> None:
        begun.append([name_of(envelope.id) for envelope in envelopes])
        for place in reversed(range(len(envelopes))):
            id_ = name_of(envelopes[place].id)
            if id_ == "b1":
                await hold.wait()
            answer(place, KeyError("a defect") if id_ == "a2" else Done("250 ok"))

    def lane(envelope: Envelope[Any]) -> str | None:
        id_ = name_of(envelope.id)
        return None if id_.startswith("x") else id_[0]

    async with at_work(tmp_path, perform, lane=lane) as bench:
        await bench.put("a1", "b1", "a2", "x1", "b2", "x2", "a3")
        await bench.events("delivered", 5)
        assert sorted(begun) == [["a1", "a2", "a3"], ["b1", "b2"], ["x1"], ["x2"]]
        await bench.until("pickup.retry.1h", 1)
        hold.set()
        await bench.events("delivered", 6)
        (kept,) = bench.steward.browse("pickup.retry.1h")
        assert (name_of(kept.message_id), bench.log.counts["crashed"]) == ("a2", 1)


@pytest.mark.parametrize("defect", [SpoolUnavailable("the disk is away"), None])
async def test_what_a_handler_of_a_lane_does_not_answer_for_is_retried(
    tmp_path: Path, defect: Exception | None
) -> None:
    async def perform(envelopes: Sequence[Envelope[Any]], answer: Answer) -> None:
        answer(1, Done("250 ok"))
        if defect is not None:
            raise defect

    async with at_work(tmp_path, perform, lane=lambda _: "one") as bench:
        await bench.put("a", "b", "c")
        await bench.until("pickup.retry.1h", 2)
        await bench.events("delivered", 1)
        assert bench.log.counts["delivered"] == 1
        reason = str(next(bench.steward.browse("pickup.retry.1h")).headers["reason"])
        assert (str(defect) if defect else "it did not say what became of") in reason


async def test_a_message_of_which_nothing_could_be_said_is_answered_for_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = SettlementRules.settlement, [MemoryError(), MemoryError()]

    def settlement(*arguments: Any) -> Settlement:
        if failures:
            raise failures.pop()
        return real(*arguments)

    monkeypatch.setattr(SettlementRules, "settlement", settlement)

    async def perform(_: Sequence[Envelope[Any]], answer: Answer) -> None:
        answer(0, Done("250 ok"))

    async with at_work(tmp_path, perform, lane=lambda _: "one") as bench:
        await bench.put("a")
        await bench.until("pickup.retry.1h", 1)


def test_a_policy_needs_a_tier() -> None:
    with pytest.raises(ValueError, match="tier"):
        RetryPolicy((), 1.0)


async def test_an_outcome_that_cannot_be_carried_out_is_a_retry(tmp_path: Path) -> None:
    """Forward from the last stage, which has no outbox: a defect, and no reason to lose mail."""
    async with at_work(tmp_path, lambda e: Forward.to(e.payload)) as bench:
        await bench.put("a")
        await bench.until("pickup.retry.1h", 1)
        assert bench.log.counts["crashed"] == 1


@pytest.mark.parametrize("nothing", [Split(()), Forward.to()])
async def test_an_outcome_of_which_nothing_follows_does_not_lose_the_message(
    tmp_path: Path, nothing: Outcome
) -> None:
    async with at_work(tmp_path, lambda _: nothing) as bench:
        await bench.put("a")
        await bench.until("pickup.retry.1h", 1)
        assert "does not say what is to become" in bench.said.getvalue()


async def test_what_there_is_no_room_for_waits_as_it_is(tmp_path: Path) -> None:
    """Neither is a try counted, nor does it come closer to being given up."""
    async with at_work(tmp_path, lambda _: Busy("many are before it")) as bench:
        await bench.put("a")
        await bench.until("pickup.retry.1h", 1)
        (waits,) = bench.steward.browse("pickup.retry.1h")
        kept = wire.decode(waits.body, Addressed)
        assert (kept.attempt, kept.first_failure) == (0, None)
        assert waits.headers["reason"] == "many are before it"
        await bench.events("waiting", 1)
        assert (bench.log.counts["waiting"], bench.log.counts["retrying"]) == (1, 0)
