"""``run --once`` without its servers: it ends, whatever stages, accounts and destinations do."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from services.drain import STUCK_AFTER, Drained, drain
from services.wiring import Assembly, Resources
from shared import wire
from shared.broker import Delivery, Send
from shared.broker.embedded.broker import EmbeddedBroker
from shared.broker.embedded.steward import EmbeddedSteward
from shared.log import MailLog
from shared.log_lines import LogLines
from shared.message import Envelope, Fetched, Inline, Parsed, Summary
from shared.outcome import Answer, Busy, Done, Forward, Outcome, Retry
from shared.queues import INCOMING, PARSED, POLL, retry_queue
from shared.settings.load import load
from shared.spool import Spool
from shared.stage import Compute, Perform, Stage, alone
from shared.state import State
from tests.clock import ManualClock
from tests.ids import id_of, name_of

CONFIG = """
data_dir = "{data}"
retry = {{ tiers = ["50ms", "1h"] }}
delivery = {{ url = "maildir://{data}/{{mailbox}}" }}
"""
ACCOUNT = """
[[account]]
name = "{name}"
host = "localhost"
username = "x"
password = "x"
mailbox = "x@corp.example"
"""
MAIL = Fetched(Inline(b"Subject: x\r\n\r\n"), "u1", "pop:110")
PARSED_MAIL = Parsed(MAIL.raw, "u1", "pop:110", Summary(), None, (), 0, ())


class Broker(EmbeddedBroker):
    """The embedded broker, of which a consumer can break, or end."""

    breaks: dict[str, Exception | None]
    never_empty: frozenset[str] = frozenset()
    """Queues into which something has come back whenever one looks."""

    async def depths(self, queues: Iterable[str]) -> Mapping[str, int]:
        found = await super().depths(queues)
        return {name: depth or (name in self.never_empty) for name, depth in found.items()}

    async def drained(self, queues: Iterable[str]) -> bool:
        return not self.never_empty.intersection(queues) and await super().drained(queues)

    async def consume(self, queue: str, prefetch: int) -> AsyncGenerator[Sequence[Delivery], None]:
        if queue in self.breaks:
            if (error := self.breaks[queue]) is not None:
                raise error
            return
        async for deliveries in super().consume(queue, prefetch):
            yield deliveries


async def _no_state() -> State:
    raise AssertionError("none of these stages asks for it")


class Plant:
    """Stages of the tests' own between real queues."""

    def __init__(self, folder: Path, *accounts: str) -> None:
        self.file = folder / "queue.db"
        config = folder / "connector.toml"
        text = CONFIG.format(data=folder) + "".join(ACCOUNT.format(name=a) for a in accounts)
        config.write_text(text)
        config.chmod(0o600)
        self.settings = load(config, {})
        self.clock = ManualClock()
        self.said = StringIO()
        self.interrupted = asyncio.Event()
        self.broker = Broker(self.file, tiers=self.settings.retry.tiers, name="test")
        self.broker.breaks = {}
        self.log = MailLog("run", lines=LogLines(self.said))
        self.arrived: list[str] = []

    async def put(self, *ids: str, queue: str = INCOMING) -> None:
        for id_ in ids:
            envelope = Envelope(
                id_of(id_), "sales", MAIL if queue == INCOMING else PARSED_MAIL, 1.0
            )
            await self.broker.publish(Send(queue, wire.encode(envelope), id_))

    async def fetch(self, jobs: Sequence[Envelope[Any]], answer: Answer) -> None:
        """Poll an account: one message each."""
        for place, job in enumerate(jobs):
            await self.put(job.account)
            answer(place, Done(job.account, "polled"))

    def parse(self, _: Envelope[Any]) -> Outcome:
        return Forward.to(PARSED_MAIL)

    def deliver(self, envelope: Envelope[Any]) -> Outcome:
        self.arrived.append(name_of(envelope.id))
        return Done("250 ok")

    @property
    def resources(self) -> Resources:
        spool = Spool(str(self.file.parent / "spool"))
        return Resources(
            self.settings, self.broker, _no_state, spool, self.log, self.clock, "here", "0"
        )

    def stages(self, **handles: Compute | Perform) -> list[Stage]:
        """Return the stages, the fetcher first, each with the handler given or its own."""
        own: dict[str, Compute | Perform] = {
            "fetch": self.fetch,
            "parse": self.parse,
            "deliver": self.deliver,
        }
        fetch, parse, deliver = (own | handles).values()
        return [
            Stage("fetcher", POLL, Fetched, INCOMING, fetch, 2, alone),
            Stage("parser", INCOMING, Fetched, PARSED, parse, 8, alone),
            Stage("deliverer", PARSED, Parsed, None, deliver, 8, alone),
        ]

    async def drained(self, **handles: Compute | Perform) -> Drained:
        """Run until all is drained."""
        assemblies = [Assembly(stage) for stage in self.stages(**handles)]
        async with asyncio.timeout(30):
            return await drain(self.resources, assemblies, self.interrupted, grace=0.05)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.said.getvalue().splitlines()]

    def left(self) -> dict[str, list[str]]:
        """Return what is in the queues, by their names."""
        steward = EmbeddedSteward(self.file, self.settings.retry.tiers)
        found: dict[str, list[str]] = {}
        for stored in steward.everything():
            found.setdefault(stored.queue, []).append(stored.message_id)
        steward.close()
        return found


@asynccontextmanager
async def opened(folder: Path, *accounts: str) -> AsyncGenerator[Plant, None]:
    plant = Plant(folder, *accounts)
    await plant.broker.open()
    try:
        yield plant
    finally:
        await plant.broker.close()


async def test_all_that_is_fetched_is_delivered_and_it_ends(tmp_path: Path) -> None:
    async with opened(tmp_path, "a", "b", "c") as plant:
        await plant.put("from before")
        assert await plant.drained() == Drained(waiting=0, broken=False)
    assert sorted(plant.arrived) == ["a", "b", "c", "from before"]


async def test_one_account_that_raises_what_it_should_not_stops_no_other(tmp_path: Path) -> None:
    async with opened(tmp_path, "a", "bad", "worse", "c") as plant:

        async def fetch(jobs: Sequence[Envelope[Any]], answer: Answer) -> None:
            if jobs[0].account == "bad":
                raise KeyError("no such thing")
            if jobs[0].account == "worse":
                answer(0, ValueError("a value"))
                return
            await plant.fetch(jobs, answer)

        assert await plant.drained(fetch=fetch) == Drained(waiting=0, broken=False)
    assert sorted(plant.arrived) == ["a", "c"]
    said = {e["account"]: e["reason"] for e in plant.events() if e["event"] == "account failed"}
    assert said == {
        "bad": "unexpected error: KeyError: 'no such thing'",
        "worse": "unexpected error: ValueError: a value",
    }
    assert plant.log.counts["accounts_failed"] == 2


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (RuntimeError("it broke"), "RuntimeError: it broke"),
        (None, "its queue can no longer be consumed"),
    ],
)
async def test_a_stage_that_ends_by_itself_ends_the_run_and_loses_nothing(
    tmp_path: Path, error: Exception | None, why: str
) -> None:
    async with opened(tmp_path, "a") as plant:
        plant.broker.breaks = {PARSED: error}
        await plant.put("x")
        drained = await plant.drained()
    assert drained == Drained(waiting=0, broken=True)
    (told,) = [e for e in plant.events() if e["event"].startswith("a stage ended unexpectedly")]
    assert (told["which"], told["why"]) == ("deliverer", why)
    # The parser may have passed it on by then, under the id of its envelope.
    assert {"x", id_of("x")} & {id_ for ids in plant.left().values() for id_ in ids}


async def test_a_settlement_that_raises_what_it_should_not_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as plant:

        async def raises(*_: object) -> list[Exception | None]:
            raise TypeError("a defect")

        monkeypatch.setattr(plant.broker, "settle_all", raises)
        await plant.put("x", queue=PARSED)
        drained = await plant.drained()
    assert drained.broken
    assert plant.left() == {PARSED: ["x"]}


async def test_what_hangs_is_given_up_when_nothing_has_moved_for_long(tmp_path: Path) -> None:
    async with opened(tmp_path) as plant:
        handed = asyncio.Event()

        async def hang(_: Sequence[Envelope[Any]], __: Answer) -> None:
            handed.set()
            await asyncio.Event().wait()

        await plant.put("x", queue=PARSED)
        draining = asyncio.create_task(plant.drained(deliver=hang))
        await handed.wait()
        await plant.clock.advance(STUCK_AFTER - 60)
        assert not draining.done()
        await plant.clock.advance(120)
        assert (await draining).broken
    (told,) = [e for e in plant.events() if e["event"].startswith("no progress any more")]
    assert told["in_hand"] == "1"
    assert plant.left() == {PARSED: ["x"]}


async def test_what_does_not_end_though_it_is_told_to_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.drain.FAREWELL", 0.05)
    async with opened(tmp_path) as plant:
        handed, gone = asyncio.Event(), asyncio.Event()

        async def hang(_: Sequence[Envelope[Any]], __: Answer) -> None:
            handed.set()
            while not gone.is_set():
                with suppress(asyncio.CancelledError):
                    await gone.wait()

        await plant.put("x", queue=PARSED)
        draining = asyncio.create_task(plant.drained(deliver=hang))
        await handed.wait()
        plant.interrupted.set()
        assert await draining == Drained(waiting=0, broken=False, hung=True)
        gone.set()
    assert plant.left() == {PARSED: ["x"]}


async def test_what_is_slow_and_moves_is_not_given_up(tmp_path: Path) -> None:
    async with opened(tmp_path) as plant:
        steps: asyncio.Queue[None] = asyncio.Queue()

        async def slow(envelopes: Sequence[Envelope[Any]], answer: Answer) -> None:
            for place, envelope in enumerate(envelopes):
                await steps.get()
                answer(place, plant.deliver(envelope))

        await plant.put("x", "y", "z", queue=PARSED)
        draining = asyncio.create_task(plant.drained(deliver=slow))
        for count in range(1, 4):
            await plant.clock.advance(STUCK_AFTER - 60)
            steps.put_nowait(None)
            while plant.log.counts["delivered"] < count:  # time must not outrun what is done
                await asyncio.sleep(0.01)
        assert await draining == Drained(waiting=0, broken=False)


async def test_messages_that_wait_for_a_retry_are_counted_and_not_their_tries(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as plant:
        tries: list[str] = []

        def deliver(envelope: Envelope[Any]) -> Outcome:
            tries.append(name_of(envelope.id))
            return (
                plant.deliver(envelope)
                if name_of(envelope.id) == "y"
                else Retry("later", after=3600)
            )

        await plant.put("x", "y", "z", queue=PARSED)
        assert await plant.drained(deliver=deliver) == Drained(waiting=2, broken=False)
        await plant.put("x2", queue=PARSED)
        assert await plant.drained(deliver=deliver) == Drained(waiting=3, broken=False)


def refusing(tries: Counter[str], takes: float) -> Perform:
    """Return what puts every message off.

    Args:
        tries: how often each was tried, counted here.
        takes: seconds for each.
    """

    async def refuse(envelopes: Sequence[Envelope[Any]], answer: Answer) -> None:
        for place, envelope in enumerate(envelopes):
            tries[name_of(envelope.id)] += 1
            await asyncio.sleep(takes)
            answer(place, Retry("later"))

    return refuse


async def tries_of_a_run(
    folder: Path, count: int, never_empty: bool = False
) -> tuple[Counter[str], Drained]:
    """Put messages, and have a run refuse all there are; return how often each was tried.

    A retry tier is shorter than it takes to try them all.
    """
    async with opened(folder) as plant:
        tries: Counter[str] = Counter()
        await plant.put(*(f"m{n}" for n in range(count)), queue=PARSED)
        tier = retry_queue(PARSED, plant.settings.retry.tiers[0])
        while (await plant.broker.depths([tier]))[tier]:  # of a run before
            await asyncio.sleep(0.01)
        plant.broker.never_empty = frozenset((PARSED,) if never_empty else ())
        return tries, await plant.drained(deliver=refusing(tries, takes=0.01))


async def test_what_is_refused_is_not_tried_again_in_the_same_run(tmp_path: Path) -> None:
    for put in (100, 0):  # the second run has what is due from the first
        tries, drained = await tries_of_a_run(tmp_path, put)
        assert set(tries.values()) == {1}
        assert (len(tries), drained) == (100, Drained(waiting=100, broken=False))


async def test_it_ends_though_what_was_refused_comes_back_without_a_break(tmp_path: Path) -> None:
    tries, drained = await tries_of_a_run(tmp_path, 100, never_empty=True)
    assert set(tries.values()) == {1}
    assert (len(tries), drained.broken) == (100, False)


async def test_what_waits_for_room_is_delivered_in_the_same_run(tmp_path: Path) -> None:
    async with opened(tmp_path) as plant:
        once: set[str] = set()

        def deliver(envelope: Envelope[Any]) -> Outcome:
            if envelope.id not in once:
                once.add(envelope.id)
                return Busy("many are before it")
            return plant.deliver(envelope)

        await plant.put("x", "y", queue=PARSED)
        draining = asyncio.create_task(plant.drained(deliver=deliver))
        async with asyncio.timeout(30):
            while plant.log.counts["delivered"] < 2:
                await asyncio.sleep(0.01)
        await plant.clock.advance(5)
        assert await draining == Drained(waiting=0, broken=False)


async def test_a_destination_that_never_has_room_is_not_waited_for_for_ever(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as plant:
        await plant.put("x", "y", queue=PARSED)
        draining = asyncio.create_task(plant.drained(deliver=lambda _: Busy("it has no room")))
        async with asyncio.timeout(30):
            while not draining.done():
                await plant.clock.advance(1)
                await asyncio.sleep(0.02)
        assert await draining == Drained(waiting=2, broken=False)


async def test_an_interrupt_ends_it(tmp_path: Path) -> None:
    async with opened(tmp_path, "a") as plant:
        polling = asyncio.Event()

        async def hang(_: Sequence[Envelope[Any]], __: Answer) -> None:
            polling.set()
            await asyncio.Event().wait()

        draining = asyncio.create_task(plant.drained(fetch=hang))
        await polling.wait()
        plant.interrupted.set()
        assert await draining == Drained(waiting=0, broken=False)
