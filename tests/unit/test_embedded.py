"""The embedded broker alone: its file, its leases, time, trouble, and what it costs."""

import asyncio
import os
import re
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest

from shared.broker import Delivery, Send
from shared.broker import embedded_owners as owners
from shared.broker import embedded_schema as schema
from shared.broker.embedded import EmbeddedBroker
from shared.broker.embedded_steward import EmbeddedSteward
from shared.clock import Clock
from shared.errors import BrokerUnavailable, ConfigError, DeliveryLost, Refused
from shared.queues import Tier
from tests.clock import ManualClock

TIERS = (Tier("5m", 300.0), Tier("2h", 7200.0))
PATIENCE = 30.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "queue.db"


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def opened(path: Path, stack: AsyncExitStack) -> Callable[..., Awaitable[EmbeddedBroker]]:
    async def open_one(clock: Clock | None = None, patience: float = 5.0) -> EmbeddedBroker:
        broker = EmbeddedBroker(path, tiers=TIERS, name="test", clock=clock, patience=patience)
        async with asyncio.timeout(PATIENCE):
            await broker.open()
        stack.push_async_callback(broker.close)
        return broker

    return open_one


Open = Callable[..., Awaitable[EmbeddedBroker]]


def send(number: int, queue: str = "incoming", body: bytes = b"body") -> Send:
    return Send(queue, body, f"id-{number}", {"account": "sales"})


async def take(broker: EmbeddedBroker, count: int = 1, queue: str = "incoming") -> list[Delivery]:
    deliveries = broker.consume(queue, count)
    async with asyncio.timeout(PATIENCE):
        return [await anext(deliveries) for _ in range(count)]


async def eventually(true: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while not await true():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"waited in vain for {what}")


async def has_depth(broker: EmbeddedBroker, queue: str, depth: int) -> None:
    async def true() -> bool:
        return (await broker.depths([queue]))[queue] == depth

    await eventually(true, f"{depth} messages in {queue}")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the queue file as another process in a long transaction would."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size: to SQLite, the disk takes no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# The file


async def test_only_the_owner_may_read_mail(path: Path, opened: Open) -> None:
    broker = await opened()
    await broker.publish(send(1))

    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()}

    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert modes == {
        "queue.db": 0o600,
        "queue.db-wal": 0o600,
        "queue.db-shm": 0o600,
        "queue.db.owners": 0o700,
    }


def test_a_commit_is_on_the_disk_when_it_returns(path: Path) -> None:
    db = schema.connect(path, 1)

    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    db.close()


async def test_a_closed_broker_leaves_the_file_alone(path: Path, opened: Open) -> None:
    broker = await opened()
    await broker.publish(send(1))

    await broker.close()

    assert sorted(p.name for p in path.parent.iterdir()) == ["queue.db", "queue.db.owners"]
    assert list(path.with_name("queue.db.owners").iterdir()) == []


async def test_many_may_make_the_same_file_at_once(opened: Open) -> None:
    brokers = await asyncio.gather(*(opened() for _ in range(8)))

    await asyncio.gather(*(b.publish(send(n)) for n, b in enumerate(brokers)))

    assert await brokers[0].depths(["incoming"]) == {"incoming": 8}


def _a_directory(path: Path) -> None:
    path.mkdir(parents=True)


def _no_directory(path: Path) -> None:
    path.parent.write_text("a file where the directory should be")


def _garbage(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database, whatever it is called. " * 100)


def _another_program(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")
    db.close()


def _newer(path: Path) -> None:
    schema.connect(path, 1).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    db.close()


@pytest.mark.parametrize(
    ("prepare", "what"),
    [
        (_a_directory, "directory"),
        (_no_directory, "exists|directory"),
        (_garbage, "not a queue file"),
        (_another_program, "another program"),
        (_newer, "newer version"),
    ],
)
async def test_a_file_that_cannot_be_ours_is_for_the_user(
    path: Path, prepare: Callable[[Path], None], what: str
) -> None:
    prepare(path)

    with pytest.raises(ConfigError, match=what) as error:
        await EmbeddedBroker(path, tiers=TIERS, name="test").open()
    assert error.value.where == str(path)
    with pytest.raises(ConfigError, match=what):
        EmbeddedSteward(path, TIERS).declare()


async def test_a_file_that_may_not_be_written_is_for_the_user(path: Path) -> None:
    schema.connect(path, 1).close()
    path.chmod(0o400)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match="Permission denied"):
            await EmbeddedBroker(path, tiers=TIERS, name="test").open()
    finally:
        if is_root:
            os.seteuid(0)


async def test_the_file_does_not_grow_with_what_passes_through(path: Path, opened: Open) -> None:
    broker = await opened()

    async def fill_and_drain() -> int:
        await broker.publish(*(send(n, body=bytes(5000)) for n in range(300)))
        await asyncio.gather(*map(broker.settle, await take(broker, 300)))
        with sqlite3.connect(path) as db:
            (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.close()
        return int(pages)

    first, *later = [await fill_and_drain() for _ in range(5)]

    assert max(later) <= first * 1.1


def test_a_steward_looks_at_a_file_that_is_not_there_without_making_it(path: Path) -> None:
    steward = EmbeddedSteward(path, TIERS)

    assert set(steward.depths().values()) == {None}
    assert list(steward.browse("incoming")) == []
    assert steward.move("incoming.failed", ["id-1"], None) == 0
    assert not path.exists()

    steward.declare()
    assert set(steward.depths().values()) == {0}
    steward.close()


async def test_what_the_steward_drops_or_moves_leaves_nothing_behind(
    path: Path, opened: Open
) -> None:
    broker = await opened()
    await broker.publish(send(1, "quarantine"), send(2, "quarantine"), send(3, "pickup.retry.5m"))
    steward = EmbeddedSteward(path, TIERS)

    assert steward.drop("quarantine", ["id-1"]) == 1
    assert steward.move("quarantine", ["id-2"], "incoming") == 1
    assert steward.move("pickup.retry.5m", ["id-3"], None) == 1

    steward.close()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT message_id FROM message").fetchall() == [("id-2",), ("id-3",)]
    db.close()
    assert [d.message_id for d in await take(broker)] == ["id-2"]
    assert [d.message_id for d in await take(broker, queue="pickup")] == ["id-3"]


# Trouble


async def test_open_waits_for_a_file_that_is_locked(path: Path, opened: Open) -> None:
    schema.connect(path, 1).close()
    broker = EmbeddedBroker(path, tiers=TIERS, name="test", patience=0.01)
    with locked(path):
        opening = asyncio.create_task(broker.open())
        given_up = EmbeddedBroker(path, tiers=TIERS, name="test", patience=0.01)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(given_up.open(), 0.05)
        assert not opening.done()

    async with asyncio.timeout(PATIENCE):
        await opening
    await broker.publish(send(1))
    await broker.close()


async def test_a_locked_file_fails_the_operation_and_no_more(path: Path, opened: Open) -> None:
    broker = await opened(patience=0.01)
    waiting = asyncio.create_task(take(broker, queue="parsed"))
    await broker.publish(send(1))
    (delivery,) = await take(broker)

    with locked(path):
        with pytest.raises(BrokerUnavailable, match="locked"):
            await broker.settle(delivery, send(1, "parsed"))
        assert not broker.connected
        assert "locked" in str(broker.blocked)

    async def recovered() -> bool:
        return broker.connected and broker.blocked is None

    await eventually(recovered, "the broker to recover")
    await broker.settle(delivery, send(1, "parsed"))
    (arrived,) = await waiting
    assert arrived.message_id == "id-1"


async def test_a_full_disk_fails_the_operation_and_no_more(opened: Open) -> None:
    broker = await opened()
    await broker.publish(send(1))
    (delivery,) = await take(broker)

    with files_up_to(1 << 20):
        with pytest.raises(BrokerUnavailable, match=r"the disk"):
            await broker.settle(delivery, send(1, "parsed", bytes(3 << 20)))
        assert broker.blocked is not None

    await broker.settle(delivery, send(1, "parsed", bytes(3 << 20)))
    assert len((await take(broker, queue="parsed"))[0].body) == 3 << 20
    assert await broker.depths(["incoming", "parsed"]) == {"incoming": 0, "parsed": 0}


async def test_a_broker_that_is_not_open_says_so(opened: Open, path: Path) -> None:
    closed = await opened()
    await closed.close()
    for broker in (closed, EmbeddedBroker(path, tiers=TIERS, name="test")):
        assert not broker.connected
        with pytest.raises(BrokerUnavailable, match="not open"):
            await broker.publish(send(1))
        with pytest.raises(BrokerUnavailable, match="not open"):
            await anext(broker.consume("incoming", 1))


async def test_a_broker_can_be_opened_again(opened: Open) -> None:
    broker = await opened()
    await broker.publish(send(1))
    await broker.close()

    await broker.open()

    assert (await take(broker))[0].message_id == "id-1"


async def test_closing_ends_the_consumers(opened: Open) -> None:
    broker = await opened()

    async def consume() -> list[Delivery]:
        return [delivery async for delivery in broker.consume("incoming", 5)]

    consuming = asyncio.create_task(consume())
    await broker.publish(send(1))
    await has_depth(broker, "incoming", 0)

    await broker.close()

    assert [d.message_id for d in await consuming] == ["id-1"]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (send(1, "parsed", bytes(16 * 1024 * 1024 + 1)), "over the limit"),
        (Send("parsed", b"", "\udc80", {}), "not text"),
        (send(1, "no-such-queue"), "no queue"),
    ],
)
async def test_what_is_refused_takes_its_whole_publish_along_and_nobody_else(
    opened: Open, bad: Send, why: str
) -> None:
    broker = await opened()

    bad_one, good_one = await asyncio.gather(
        broker.publish(send(1), bad), broker.publish(send(2)), return_exceptions=True
    )

    assert isinstance(bad_one, Refused)
    assert why in str(bad_one)
    assert good_one is None
    assert [d.message_id for d in await take(broker)] == ["id-2"]
    assert await broker.depths(["incoming", "parsed"]) == {"incoming": 0, "parsed": 0}


# Leases


async def test_only_what_was_seen_counts_as_handed_out(opened: Open) -> None:
    broker = await opened()
    await broker.publish(*map(send, range(4)))
    deliveries = broker.consume("incoming", 4)
    await anext(deliveries)
    await has_depth(broker, "incoming", 0)
    await deliveries.aclose()
    unseen = broker.consume("incoming", 2)
    assert (await anext(unseen)).redeliveries == 0
    await broker.close()

    again = await take(await opened(), 4)

    assert [(d.message_id, d.redeliveries) for d in again] == [
        ("id-0", 1),
        ("id-1", 1),
        ("id-2", 0),
        ("id-3", 0),
    ]


async def test_two_consumers_that_wait_take_turns(opened: Open) -> None:
    broker = await opened()
    consumers = [broker.consume("incoming", 5) for _ in range(2)]
    waiting = [asyncio.create_task(anext(consumer)) for consumer in consumers]
    await asyncio.sleep(0)
    await broker.depths([])  # both wait by now

    for number in range(2):
        await broker.publish(send(number))

    async with asyncio.timeout(PATIENCE):
        got = await asyncio.gather(*waiting)
    assert sorted(d.message_id for d in got) == ["id-0", "id-1"]


async def test_a_delivery_is_lost_when_its_broker_closes(opened: Open) -> None:
    broker = await opened()
    await broker.publish(send(1))
    (delivery,) = await take(broker)
    await broker.close()
    with pytest.raises(DeliveryLost):
        await broker.settle(delivery, send(1, "parsed"))

    await broker.open()
    with pytest.raises(DeliveryLost):
        await broker.settle(delivery, send(1, "parsed"))

    (again,) = await take(broker)
    assert again.redeliveries == 1
    assert await broker.depths(["parsed"]) == {"parsed": 0}


async def test_a_delivery_of_another_broker_is_not_ours(opened: Open) -> None:
    here, there = await opened(), await opened()
    await here.publish(send(1))
    (delivery,) = await take(here)

    with pytest.raises(DeliveryLost):
        await there.settle(delivery)

    await here.settle(delivery, send(1, "parsed"))
    assert await here.depths(["parsed"]) == {"parsed": 1}


async def test_what_a_frozen_owner_holds_is_taken_over_in_the_end(opened: Open) -> None:
    clock = ManualClock()
    frozen, other = await opened(clock), await opened(clock)
    await frozen.publish(send(1), send(2))
    deliveries = frozen.consume("incoming", 5)
    delivery = await anext(deliveries)
    await has_depth(frozen, "incoming", 0)

    await clock.advance(owners.FROZEN_AFTER - 1)
    taking = asyncio.create_task(take(other, 2))
    await has_depth(other, "incoming", 0)
    assert not taking.done()
    await clock.advance(2)

    again = await taking
    assert [(d.message_id, d.redeliveries) for d in again] == [("id-1", 1), ("id-2", 1)]
    with pytest.raises(DeliveryLost):
        await frozen.settle(delivery, send(1, "parsed"))
    await other.settle(again[0], send(1, "parsed"))
    await other.settle(again[1])
    await frozen.publish(send(3))
    after = await anext(deliveries)
    assert after.message_id == "id-3"  # and not id-2, which it had before it froze
    await frozen.settle(after)
    assert await frozen.depths(["incoming", "parsed"]) == {"incoming": 0, "parsed": 1}


HOLDER = """
import asyncio, os, sys
from pathlib import Path
from shared.broker.embedded import EmbeddedBroker
from shared.queues import Tier

async def main():
    broker = EmbeddedBroker(Path(sys.argv[1]), tiers=[Tier("5m", 300.0)], name="holder")
    await broker.open()
    delivery = await anext(broker.consume("incoming", 1))
    child = os.fork()
    if child:
        print(child, flush=True)
    while True:
        await asyncio.sleep(3600)

asyncio.run(main())
"""


async def test_a_forked_child_does_not_keep_a_dead_owner_alive(path: Path, opened: Open) -> None:
    broker = await opened()
    await broker.publish(send(1))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    child = int(await asyncio.to_thread(holder.stdout.readline))
    try:
        holder.kill()
        holder.wait()
        holder.stdout.close()

        (delivery,) = await take(broker)

        assert delivery.redeliveries == 1
        os.kill(child, 0)  # the child lives, and holds nothing
    finally:
        os.kill(child, signal.SIGKILL)
    owners_left = list(path.with_name("queue.db.owners").iterdir())
    assert len(owners_left) == 1


# Time


async def test_a_message_waits_out_its_tier_by_the_clock(opened: Open) -> None:
    clock = ManualClock()
    broker = await opened(clock)
    await broker.publish(send(1, "incoming.retry.2h"), send(2, "incoming.retry.5m"))
    taking = asyncio.create_task(take(broker, 2))

    await clock.advance(299)
    await has_depth(broker, "incoming.retry.5m", 1)
    await clock.advance(2)
    await has_depth(broker, "incoming.retry.5m", 0)
    assert await broker.depths(["incoming.retry.2h"]) == {"incoming.retry.2h": 1}
    await clock.advance(7200)

    assert [d.message_id for d in await taking] == ["id-2", "id-1"]


async def test_what_fell_due_while_nobody_ran_comes_at_once(opened: Open) -> None:
    clock = ManualClock()
    broker = await opened(clock)
    await broker.publish(send(1, "incoming.retry.5m"))
    await broker.close()
    await clock.advance(301)

    (delivery,) = await take(await opened(clock))

    assert delivery.queue == "incoming"


async def test_a_clock_set_back_does_not_hold_up_retries(opened: Open) -> None:
    broker = await opened(ManualClock(1_700_000_000.0))
    await broker.publish(send(1, "incoming.retry.5m"))
    await broker.close()

    (delivery,) = await take(await opened(ManualClock(1_700_000_000.0 - 3600.0)))

    assert delivery.message_id == "id-1"


async def test_a_clock_set_back_a_little_changes_nothing(opened: Open) -> None:
    clock = ManualClock(1_700_000_000.0)
    broker = await opened(clock)
    await broker.publish(send(1, "incoming.retry.5m"))
    await broker.close()
    earlier = ManualClock(1_700_000_000.0 - 30.0)
    other = await opened(earlier)

    await other.publish(send(2, "parsed.retry.5m"))
    await earlier.advance(301)  # the second is due, the first has 29 seconds to go
    (delivery,) = await take(other, queue="parsed")

    assert delivery.message_id == "id-2"
    assert await other.depths(["incoming.retry.5m"]) == {"incoming.retry.5m": 1}


# Cost


@contextmanager
def statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Collect the statements of every connection that is opened from now on."""
    seen: list[str] = []
    connect = schema.connect

    def traced(path: Path, patience: float) -> sqlite3.Connection:
        db = connect(path, patience)
        db.set_trace_callback(seen.append)
        return db

    with monkeypatch.context() as patch:
        patch.setattr(schema, "connect", traced)
        yield seen


async def test_all_that_waits_is_done_in_one_transaction(
    monkeypatch: pytest.MonkeyPatch, opened: Open
) -> None:
    with statements(monkeypatch) as seen:
        broker = await opened()
        await broker.publish(*map(send, range(100)))
        deliveries = await take(broker, 100)
        seen.clear()

        await asyncio.gather(*(broker.settle(d, send(0, "parsed")) for d in deliveries))

    assert seen.count("COMMIT") <= 2  # the one, and perhaps a chore


async def test_what_comes_in_during_a_commit_is_done_in_the_next(
    monkeypatch: pytest.MonkeyPatch, path: Path, opened: Open
) -> None:
    with statements(monkeypatch) as seen:
        broker = await opened()
        publishing = []
        with locked(path):
            for number in range(20):
                publishing.append(asyncio.create_task(broker.publish(send(number))))
                await asyncio.sleep(0)
                await asyncio.sleep(0)  # so that each is a batch of its own
            seen.clear()

        await asyncio.gather(*publishing)

    assert seen.count("COMMIT") <= 3  # the one that had to wait, the rest, and perhaps a chore


async def _everything(opened: Open, path: Path) -> None:
    """Do all that the broker and its steward ever do."""
    clock = ManualClock()
    broker = await opened(clock)
    await broker.publish(send(1), send(2), send(3, "incoming.retry.5m"), send(4, "quarantine"))
    first, _ = await take(broker, 2)
    await broker.settle(first, send(1, "parsed"))
    await clock.advance(301)
    await has_depth(broker, "incoming.retry.5m", 0)
    other = await opened(clock)
    waiting = asyncio.create_task(take(other, queue="pickup"))
    await asyncio.sleep(0)
    await other.depths([])  # it waits by now, and will look for itself
    await broker.publish(send(6, "pickup"))
    await other.settle((await waiting)[0])
    await clock.advance(owners.FROZEN_AFTER + 1)
    await other.publish(send(5))
    await has_depth(other, "incoming", 3)
    await broker.close()
    for _ in range(20):
        await take(other)
        await other.close()
        await other.open()
    steward = EmbeddedSteward(path, TIERS)
    for queue in ("quarantine", "pickup.retry.5m"):
        steward.move("incoming", ["id-5"], queue)
        steward.move(queue, ["id-5"], "incoming")
    steward.depths()
    list(steward.browse("incoming"))
    steward.drop("quarantine", ["id-4"])
    steward.close()


async def test_no_statement_looks_at_the_whole_backlog(
    monkeypatch: pytest.MonkeyPatch, path: Path, opened: Open
) -> None:
    with statements(monkeypatch) as seen:
        await _everything(opened, path)
    db = schema.connect(path, 1)
    distinct = {re.sub(r"\d+", "0", s): s for s in seen if s.split()[0] not in _NO_PLAN}

    plans = {s: _plan(db, s) for s in distinct.values()}

    db.close()
    whole = re.compile(r"SCAN (message|waiting|delayed|lease|[wmd])\b|TEMP B-TREE")
    assert {s: plan for s, plan in plans.items() if whole.search(plan)} == {}
    assert any("SELECT 1 FROM waiting" in statement for statement in plans)
    touched = " ".join(plans)
    for table in ("message", "waiting", "delayed", "lease", "owner", "queue"):
        for verb in ("INSERT INTO", "DELETE FROM"):
            assert f"{verb} {table}" in touched or (verb, table) == ("DELETE FROM", "queue")


_NO_PLAN = {"BEGIN", "COMMIT", "ROLLBACK", "PRAGMA", "--"}


def _plan(db: sqlite3.Connection, statement: str) -> str:
    return "; ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}"))
