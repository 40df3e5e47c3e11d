"""A runner at work on a real embedded broker, for tests of what becomes of a delivery."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, cast

from shared import wire
from shared.broker import Send
from shared.broker.embedded.broker import EmbeddedBroker
from shared.broker.embedded.steward import EmbeddedSteward
from shared.clock import Clock, SystemClock
from shared.log import MailLog
from shared.log_lines import LogLines
from shared.message import Addressed, Envelope, Inline, Summary
from shared.metrics import Metrics
from shared.outcome import Answer, Outcome
from shared.queues import PICKUP, Tier
from shared.runner import Runner
from shared.settlement import RetryPolicy
from shared.spool import Spool
from shared.stage import Compute, Perform, Stage, alone
from shared.trial import Start
from tests.ids import id_of

TIERS = (Tier("1h", 3600),)

MAIL = Addressed(
    Inline(b"Subject: x\r\n\r\nbody\r\n"),
    "u1",
    "pop:110",
    Summary("a@example.net", "x"),
    "a@example.net",
    ("sales@corp.example",),
    "default",
    b"X: y\r\n",
)
Handle = Compute | Perform | Callable[[Envelope[Any]], Awaitable[Outcome]]


@dataclass
class Bench:
    """A stage at work on the queue ``pickup``."""

    broker: EmbeddedBroker
    steward: EmbeddedSteward
    spool: Spool
    log: MailLog
    said: StringIO
    stop: asyncio.Event

    async def put(self, *ids: str, payload: Addressed = MAIL) -> None:
        envelopes = [Envelope(id_of(i), "sales", payload, 1.0) for i in ids]
        await self.broker.publish(*(Send(PICKUP, wire.encode(e), e.id) for e in envelopes))

    async def until(self, queue: str, count: int) -> None:
        async with asyncio.timeout(20):
            while len(list(self.steward.browse(queue))) != count:
                await asyncio.sleep(0.005)

    async def events(self, name: str, count: int) -> None:
        async with asyncio.timeout(20):
            while self.log.counts[name] < count:
                await asyncio.sleep(0.005)
        for _ in range(10):  # whoever waits for what is told goes on, perhaps to sleep again
            await asyncio.sleep(0)


def one_by_one(handle: Handle) -> Compute | Perform:
    """Return what a stage has: one that does I/O is given the messages of a lane."""
    if not inspect.iscoroutinefunction(handle):
        return cast(Compute, handle)

    wait = cast(Callable[[Envelope[Any]], Awaitable[Outcome]], handle)

    async def perform(envelopes: Sequence[Envelope[Any]], answer: Answer) -> None:
        for place, envelope in enumerate(envelopes):
            answer(place, await wait(envelope))

    return perform


@asynccontextmanager
async def at_work(
    folder: Path,
    handle: Handle,
    concurrency: int = 8,
    clock: Clock | None = None,
    lane: Callable[[Envelope[Any]], str | None] = alone,
    start: Start | None = None,
) -> AsyncIterator[Bench]:
    broker = EmbeddedBroker(folder / "queue.db", tiers=TIERS, name="test")
    spool = Spool(str(folder / "spool"))
    said = StringIO()
    log = MailLog("deliverer", metrics=Metrics(served=True), lines=LogLines(said))
    bench = Bench(
        broker,
        EmbeddedSteward(folder / "queue.db", TIERS),
        spool,
        log,
        said,
        asyncio.Event(),
    )
    await broker.open()
    whole = one_by_one(handle) if lane is alone else cast(Perform, handle)
    stage = Stage("deliverer", PICKUP, Addressed, None, whole, concurrency, lane)
    policy = RetryPolicy(TIERS, 86_400)
    runner = Runner(stage, broker, policy, log, clock or SystemClock(), spool, start=start)
    running = asyncio.create_task(runner.run(bench.stop, grace=5))
    try:
        yield bench
    finally:
        bench.stop.set()
        await running
        bench.steward.close()
        await broker.close()
