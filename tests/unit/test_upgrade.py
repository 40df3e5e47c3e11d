"""What older and newer versions left behind, or put beside us, in today's hands.

The bodies and the two databases were written by version 0.1.0 and are kept as they were: they stand
for the messages that wait in somebody's queues during an update. A change that cannot read them is
a change that loses mail.
"""

import asyncio
import base64
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest

from shared import wire
from shared.broker import Send
from shared.broker.embedded import schema
from shared.broker.embedded.broker import EmbeddedBroker
from shared.broker.embedded.steward import EmbeddedSteward
from shared.clock import SystemClock
from shared.log import MailLog
from shared.message import Addressed, Poll
from shared.outcome import Done
from shared.queues import INCOMING, PICKUP, POLL, Tier
from shared.runner import Runner
from shared.settlement import RetryPolicy
from shared.spool import Spool
from shared.stage import Stage
from shared.state import State
from shared.state import schema as state_schema
from tests.clock import ManualClock
from tests.corpus.envelopes import BEGAN, ENVELOPES, ID
from tests.deliveries import singly
from tests.ledger import claim_one

OLD = Path(__file__).parent / "upgrade"
PATIENCE = 20.0

FIRST: dict[str, str] = {
    "poll": "mQGkcG9sbKpwb2xsLXNhbGVzpXNhbGVzy0HawNJwAAAAAMCQkaNkdWU=",
    "fetched": """
        mQGnZmV0Y2hlZNkgMGYxZTJkM2M0YjVhNjk3ODg3OTZhNWI0YzNkMmUxZjClc2FsZXPLQdrA0nAgAAAAwJGSp2Zl
        dGNoZXLLQdrA0nAgAACUxFVTdWJqZWN0OiA9P3V0Zi04P3E/Uj1DMz1BOWNsYW1hdGlvbj89DQpGcm9tOiBldmVs
        eW5lQGN1c3RvbWVyLmV4YW1wbGUNCg0KOC1iaXQ6IOkA/w0KpVVJRC0xuHBvcC5wcm92aWRlci5leGFtcGxlOjk5
        NZTZI8OJdmVseW5lIDxldmVseW5lQGN1c3RvbWVyLmV4YW1wbGU+s1LDqWNsYW1hdGlvbiBuwrogMTK1PDEyQGN1
        c3RvbWVyLmV4YW1wbGU+v1N1biwgMjIgTm92IDIwMjYgMjA6MDA6MDAgKzAwMDA=
    """,
    "fetched, spooled": """
        mQGnZmV0Y2hlZNkgMGYxZTJkM2M0YjVhNjk3ODg3OTZhNWI0YzNkMmUxZjClc2FsZXPLQdrA0nAgAAAAwJGSp2Zl
        dGNoZXLLQdrA0nAgAACUk7IwZjFlMmQzYzRiNWE2OTc4LTHOAAQAAMRJU3ViamVjdDogPT91dGYtOD9xP1I9QzM9
        QTljbGFtYXRpb24/PQ0KRnJvbTogZXZlbHluZUBjdXN0b21lci5leGFtcGxlDQoNCqVVSUQtMbhwb3AucHJvdmlk
        ZXIuZXhhbXBsZTo5OTWU2SPDiXZlbHluZSA8ZXZlbHluZUBjdXN0b21lci5leGFtcGxlPrNSw6ljbGFtYXRpb24g
        bsK6IDEytTwxMkBjdXN0b21lci5leGFtcGxlPr9TdW4sIDIyIE5vdiAyMDI2IDIwOjAwOjAwICswMDAw
    """,
    "parsed": """
        mQGmcGFyc2Vk2SAwZjFlMmQzYzRiNWE2OTc4ODc5NmE1YjRjM2QyZTFmMKVzYWxlc8tB2sDScCAAAALLQdrA0nFA
        AACSkqdmZXRjaGVyy0HawNJwIAAAkqZwYXJzZXLLQdrA0nBAAACYxFVTdWJqZWN0OiA9P3V0Zi04P3E/Uj1DMz1B
        OWNsYW1hdGlvbj89DQpGcm9tOiBldmVseW5lQGN1c3RvbWVyLmV4YW1wbGUNCg0KOC1iaXQ6IOkA/w0KpVVJRC0x
        uHBvcC5wcm92aWRlci5leGFtcGxlOjk5NZTZI8OJdmVseW5lIDxldmVseW5lQGN1c3RvbWVyLmV4YW1wbGU+s1LD
        qWNsYW1hdGlvbiBuwrogMTK1PDEyQGN1c3RvbWVyLmV4YW1wbGU+v1N1biwgMjIgTm92IDIwMjYgMjA6MDA6MDAg
        KzAwMDC4ZXZlbHluZUBjdXN0b21lci5leGFtcGxlkbFzYWxlc0BleGFtcGxlLm5ldAORpGluZm8=
    """,
    "parsed, little known": """
        mQGmcGFyc2Vk2SAwZjFlMmQzYzRiNWE2OTc4ODc5NmE1YjRjM2QyZTFmMKVzYWxlc8tB2sDScCAAAADAkpKnZmV0
        Y2hlcstB2sDScCAAAJKmcGFyc2Vyy0HawNJwQAAAmMRVU3ViamVjdDogPT91dGYtOD9xP1I9QzM9QTljbGFtYXRp
        b24/PQ0KRnJvbTogZXZlbHluZUBjdXN0b21lci5leGFtcGxlDQoNCjgtYml0OiDpAP8NCqVVSUQtMbhwb3AucHJv
        dmlkZXIuZXhhbXBsZTo5OTWUoKCgoMCQAJA=
    """,
    "addressed": """
        mQGpYWRkcmVzc2Vk2SAwZjFlMmQzYzRiNWE2OTc4ODc5NmE1YjRjM2QyZTFmMKVzYWxlc8tB2sDScCAAAAHLQdrA
        0nCAAACTkqdmZXRjaGVyy0HawNJwIAAAkqZwYXJzZXLLQdrA0nBAAACSqHJld3JpdGVyy0HawNJwUAAAmMRVU3Vi
        amVjdDogPT91dGYtOD9xP1I9QzM9QTljbGFtYXRpb24/PQ0KRnJvbTogZXZlbHluZUBjdXN0b21lci5leGFtcGxl
        DQoNCjgtYml0OiDpAP8NCqVVSUQtMbhwb3AucHJvdmlkZXIuZXhhbXBsZTo5OTWU2SPDiXZlbHluZSA8ZXZlbHlu
        ZUBjdXN0b21lci5leGFtcGxlPrNSw6ljbGFtYXRpb24gbsK6IDEytTwxMkBjdXN0b21lci5leGFtcGxlPr9TdW4s
        IDIyIE5vdiAyMDI2IDIwOjAwOjAwICswMDAwuGV2ZWx5bmVAY3VzdG9tZXIuZXhhbXBsZZKyc2FsZXNAY29ycC5l
        eGFtcGxltGFyY2hpdmVAY29ycC5leGFtcGxlp2RlZmF1bHTEGFJlY2VpdmVkOiBieSBjb25uZWN0b3INCg==
    """,
}
"""Bodies of schema 1, by the name of the envelope that each is."""


def body(name: str) -> bytes:
    return base64.b64decode(FIRST[name])


def test_there_is_a_body_of_each_kind() -> None:
    assert FIRST.keys() == ENVELOPES.keys()
    assert {type(envelope.payload) for envelope in ENVELOPES.values()} == set(wire._FORMATS)


@pytest.mark.parametrize("name", FIRST)
def test_what_the_first_version_wrote_is_read(name: str) -> None:
    expected = ENVELOPES[name]
    assert wire.decode(body(name), type(expected.payload)) == expected


@pytest.mark.parametrize("name", FIRST)
def test_the_first_version_would_read_what_is_written_today(name: str) -> None:
    """Workers of one schema version run side by side, so the same version means the same bytes."""
    if wire.SCHEMA == 1:
        assert wire.encode(ENVELOPES[name]) == body(name)


@pytest.mark.parametrize("name", FIRST)
def test_fields_that_a_later_version_adds_anywhere_do_no_harm(name: str) -> None:
    expected = ENVELOPES[name]
    *front, trail, payload = msgpack.unpackb(body(name))
    later = [
        *front,
        [[*hop, "new"] for hop in trail],
        [
            [*part, "new"] if place in RECORDS.get(name, ()) else part
            for place, part in enumerate(payload)
        ]
        + [*wire.ADDED.get(type(expected.payload), ()), "new"],
        None,
        "new",
    ]
    assert wire.decode(msgpack.packb(later), type(expected.payload)) == expected


RECORDS = {name: (3,) for name in FIRST if name != "poll"} | {"fetched, spooled": (0, 3)}
"""Where in a payload there are records of their own: the summary, the reference into the spool."""


OLD_AND_NEW = {
    "addressed": Stage("deliverer", PICKUP, Addressed, None, lambda _: Done("250 ok"), 8),
    "poll": Stage("fetcher", POLL, Poll, None, lambda _: Done("sales"), 8),
}


@pytest.mark.parametrize("name", OLD_AND_NEW)
async def test_a_newer_message_passes_an_old_worker_by_and_a_new_one_takes_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rolling update: both versions consume one queue, over a retry tier of next to no time."""
    stage = OLD_AND_NEW[name]
    tiers = (Tier("1s", 0.01),)
    _, *rest = msgpack.unpackb(body(name))
    newer = msgpack.packb([wire.SCHEMA + 1, *rest, None, "new"])
    path = tmp_path / "queue.db"
    broker = EmbeddedBroker(path, tiers=tiers, name="test")
    steward = EmbeddedSteward(path, tiers)
    log = MailLog(stage.name)
    monkeypatch.setattr("shared.stage.NOT_OURS", 0.01)
    await broker.open()
    await broker.publish(Send(stage.inbox, newer, ID))

    async def work(until: Callable[[], bool]) -> None:
        spool = Spool(str(tmp_path / "spool"))
        runner = Runner(stage, broker, RetryPolicy(tiers, 86_400), log, SystemClock(), spool)
        stop = asyncio.Event()
        running = asyncio.create_task(runner.run(stop))
        async with asyncio.timeout(PATIENCE):
            while not until():
                await asyncio.sleep(0.005)
        stop.set()
        await running

    def waiting() -> int:
        return sum(count or 0 for count in steward.depths().values())

    await work(lambda: log.counts["retrying"] >= 2)
    assert (log.counts["delivered"], waiting()) == (0, 1)
    monkeypatch.setattr(wire, "SCHEMA", wire.SCHEMA + 1)
    await work(lambda: waiting() == 0)
    assert waiting() == 0
    assert log.counts["failed"] == log.counts["quarantined"] == 0
    steward.close()
    await broker.close()


def restored(name: str, path: Path) -> Path:
    """Make a database as an old version left it."""
    path.parent.mkdir(exist_ok=True)
    with sqlite3.connect(path) as database:
        database.executescript((OLD / name).read_text())
    database.close()
    return path


async def opened(path: Path) -> State:
    clock = ManualClock(BEGAN + 60)
    return await State.open(f"sqlite:///{path}", owner="new@one#2", clock=clock)


async def remembers(state: State) -> None:
    """Check that nothing is fetched or delivered again."""
    known = await state.known("sales")
    assert {uidl: one.id for uidl, one in known.items()} == {"UID-1": "id-1", "UID-\x002": "id-2"}
    assert set(await state.seen(["id-1", "id-3"])) == {"id-1"}
    claim = await claim_one(state, "id-1", "default")
    assert claim is not None
    assert set(claim.delivered) == {"sales@corp.example"}
    assert (await state.accounts())["info"].failures == 1
    assert await state.claim_due(["sales", "info"], hold=60) == []


async def test_the_state_of_the_first_version_is_understood(tmp_path: Path) -> None:
    state = await opened(restored("state-1.sql", tmp_path / "state.db"))
    await remembers(state)
    await state.close()


async def test_a_state_database_is_migrated_with_all_that_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = restored("state-1.sql", tmp_path / "state.db")
    steps = ("ALTER TABLE account ADD COLUMN note {text}", "CREATE TABLE more (name {text})")
    monkeypatch.setattr(state_schema, "MIGRATIONS", (*state_schema.MIGRATIONS, *steps))
    state = await opened(path)
    await remembers(state)
    await state.close()
    with sqlite3.connect(path) as database:
        (version,) = database.execute("SELECT version FROM schema_version").fetchone()
        assert version == len(state_schema.MIGRATIONS)
        database.execute("SELECT note FROM account")
        database.execute("SELECT name FROM more")
    database.close()


async def test_an_old_process_works_on_beside_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = restored("state-1.sql", tmp_path / "state.db")
    old = await opened(path)
    steps = (*state_schema.MIGRATIONS, "ALTER TABLE account ADD COLUMN note {text}")
    monkeypatch.setattr(state_schema, "MIGRATIONS", steps)
    new = await opened(path)
    await old.record_poll("sales", next_poll=BEGAN + 900, error=None)
    assert (await new.accounts())["sales"].next_poll == BEGAN + 900
    await old.close()
    await remembers(new)
    await new.close()


async def test_a_migration_that_fails_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = restored("state-1.sql", tmp_path / "state.db")
    steps = ("CREATE TABLE more (name {text}); SELECT name FROM nowhere",)
    with monkeypatch.context() as patched:
        patched.setattr(state_schema, "MIGRATIONS", (*state_schema.MIGRATIONS, *steps))
        with pytest.raises(Exception, match="nowhere"):
            await opened(path)
    state = await opened(path)
    await remembers(state)
    await state.close()


async def taken(path: Path) -> dict[str, bytes]:
    """Return what a broker finds in a queue file of the first version, by message id."""
    broker = EmbeddedBroker(
        path, tiers=(Tier("5m", 300.0),), name="test", clock=ManualClock(BEGAN + 301)
    )
    await broker.open()
    deliveries = singly(broker.consume(INCOMING, 2))
    async with asyncio.timeout(PATIENCE):
        found = [await anext(deliveries) for _ in range(2)]
    for delivery in found:
        await broker.settle(delivery)
    await deliveries.aclose()
    await broker.close()
    return {delivery.message_id: delivery.body for delivery in found}


async def test_the_queue_file_of_the_first_version_is_understood(tmp_path: Path) -> None:
    path = restored("queue-1.sql", tmp_path / "queue.db")
    assert await taken(path) == {"m-1": b"waiting body", "m-2": b"delayed body"}
    steward = EmbeddedSteward(path, (Tier("5m", 300.0),))
    (kept,) = steward.browse("incoming.failed")
    assert (kept.body, kept.headers["reason"]) == (b"failed body", "550")
    steward.close()


async def test_a_queue_file_is_migrated_with_all_that_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = restored("queue-1.sql", tmp_path / "queue.db")
    step = ("CREATE TABLE more (name TEXT)",)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, step))
    assert len(await taken(path)) == 2
    with sqlite3.connect(path) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        assert version == len(schema.MIGRATIONS)
        database.execute("SELECT name FROM more")
    database.close()
