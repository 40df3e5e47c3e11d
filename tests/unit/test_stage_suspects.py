"""The runner and what was handed out again: suspects are tried elsewhere and hold up nobody."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from shared import wire
from shared.broker import HANDED_OUT, Delivery, Send
from shared.broker.embedded.broker import EmbeddedBroker
from shared.broker.embedded.steward import EmbeddedSteward
from shared.log import MailLog
from shared.log_lines import LogLines
from shared.message import Envelope, Poll, poll_id
from shared.outcome import Answer, Done, Outcome, Retry
from shared.queues import PICKUP, POLL
from shared.runner import RENEW, Runner
from shared.settlement import Consequence, RetryPolicy, Settlement
from shared.spool import Spool
from shared.stage import Stage
from shared.trial import NotStarted, TakeHeaders, hand_outs
from shared.trial.suspects import SUSPECT
from tests.clock import ManualClock
from tests.deliveries import singly
from tests.ids import id_of, name_of
from tests.unit.stage_bench import MAIL, TIERS, at_work


async def hand_out(folder: Path, *ids: str, times: int = SUSPECT) -> None:
    """Put messages, and have them handed out without a settlement until they are suspects."""
    for turn in range(times):
        broker = EmbeddedBroker(folder / "queue.db", tiers=TIERS, name="dies")
        await broker.open()
        if turn == 0:
            envelopes = [Envelope(id_of(i), "sales", MAIL, 1.0) for i in ids]
            await broker.publish(*(Send(PICKUP, wire.encode(e), e.id) for e in envelopes))
        deliveries = singly(broker.consume(PICKUP, len(ids)))
        async with asyncio.timeout(20):
            for _ in ids:
                await anext(deliveries)
        await broker.close()


class Apart:
    """A process that tries suspects, with what it was given; it says nothing until it may."""

    def __init__(self) -> None:
        self.ended: str | None = None
        self.taken = list[tuple[str, int]]()
        self.counted = list[int]()
        self.go_on = asyncio.Event()

    async def start(self) -> "Apart":
        return self

    async def handle(self, delivery: Delivery, _: TakeHeaders) -> Settlement:
        self.taken.append((name_of(delivery.message_id), hand_outs(delivery)))
        self.counted.append(delivery.redeliveries)
        await self.go_on.wait()
        return Settlement((Consequence("delivered", "250 ok"),))

    async def close(self) -> None:
        """End."""


async def test_suspects_are_tried_elsewhere_and_keep_nobody_waiting(tmp_path: Path) -> None:
    await hand_out(tmp_path, "s1", "s2", "s3")
    begun, apart = list[str](), Apart()

    def handle(envelope: Envelope[Any]) -> Outcome:
        begun.append(name_of(envelope.id))
        return Done("250 ok")

    async with at_work(tmp_path, handle, start=apart.start) as bench:
        await bench.put("neighbour", "s1")  # the second is a copy of a suspect
        await bench.events("delivered", 1)
        apart.go_on.set()
        await bench.events("delivered", 5)
    assert begun == ["neighbour"]
    assert Counter(apart.taken) == Counter(
        [("s1", SUSPECT), ("s2", SUSPECT), ("s3", SUSPECT), ("s1", 0)]
    )


async def test_suspects_that_wait_when_the_stage_stops_stay_in_the_queue(tmp_path: Path) -> None:
    await hand_out(tmp_path, "s1", "s2")

    async def never() -> Apart:
        raise NotStarted("no memory")

    async with at_work(tmp_path, lambda _: Done("250 ok"), start=never) as bench:
        await bench.put("neighbour")
        await bench.events("delivered", 1)
        assert "no memory" in bench.said.getvalue()
    steward = EmbeddedSteward(tmp_path / "queue.db", TIERS)
    assert {name_of(message.message_id) for message in steward.browse(PICKUP)} == {"s1", "s2"}
    steward.close()


async def test_what_is_tried_again_stays_a_suspect(tmp_path: Path) -> None:
    """It may not have been handled: the claim of the process that crashed with it still ran."""
    await hand_out(tmp_path, "a", times=SUSPECT - 1)
    async with at_work(tmp_path, lambda _: Retry("claimed"), start=Apart().start) as bench:
        await bench.put("b")
        await bench.until("pickup.retry.1h", 2)
        found = {name_of(m.message_id): m.headers for m in bench.steward.browse("pickup.retry.1h")}
    assert found["a"][HANDED_OUT] == SUSPECT - 1
    assert HANDED_OUT not in found["b"]


async def test_what_comes_near_the_limit_of_its_queue_is_put_back_and_still_a_suspect(
    tmp_path: Path,
) -> None:
    """Put back as a new entry: the broker counts anew."""
    await hand_out(tmp_path, "a", times=RENEW)
    apart = Apart()
    async with at_work(tmp_path, lambda _: Done(""), start=apart.start):
        async with asyncio.timeout(20):
            while not apart.taken:
                await asyncio.sleep(0.005)
        apart.go_on.set()
    assert (apart.taken, apart.counted) == ([("a", RENEW)], [0])


async def test_poll_jobs_that_were_handed_out_again_wait_for_no_other(
    tmp_path: Path, clock: ManualClock
) -> None:
    """The broker went away twice: no account is what crashes its process for that."""
    names = ("sales", "info", "office")
    jobs = [Envelope(poll_id(name), name, Poll(), 1.0) for name in names]
    for turn in range(SUSPECT):
        broker = EmbeddedBroker(tmp_path / "queue.db", tiers=TIERS, name="dies")
        await broker.open()
        if turn == 0:
            await broker.publish(*(Send(POLL, wire.encode(job), job.id) for job in jobs))
        deliveries = singly(broker.consume(POLL, len(jobs)))
        for _ in jobs:
            await anext(deliveries)
        await broker.close()
    begun, never = set[str](), asyncio.Event()

    async def perform(envelopes: Sequence[Envelope[Any]], _: Answer) -> None:
        begun.update(envelope.account for envelope in envelopes)
        await never.wait()

    broker = EmbeddedBroker(tmp_path / "queue.db", tiers=TIERS, name="test")
    await broker.open()
    stage = Stage("fetcher", POLL, Poll, None, perform, 8)
    spool = Spool(str(tmp_path / "spool"))
    log = MailLog("fetcher", lines=LogLines(StringIO()))
    stop = asyncio.Event()
    running = asyncio.create_task(
        Runner(stage, broker, RetryPolicy(TIERS, 60.0), log, clock, spool).run(stop, grace=0.01)
    )
    async with asyncio.timeout(20):
        while begun != set(names):  # and the clock stands still: nobody waits for his turn
            await asyncio.sleep(0.005)
    stop.set()
    await running
    await broker.close()
