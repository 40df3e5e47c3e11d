"""The queue file: whose it is, what it may be, how large it gets."""

import asyncio
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from shared.broker.embedded import schema, statements
from shared.broker.embedded.broker import EmbeddedBroker
from shared.broker.embedded.steward import EmbeddedSteward
from shared.errors import ConfigError
from tests.stewards import back, its_id, to
from tests.unit.embedded.conftest import TIERS, Open, eventually, send, take


async def test_only_the_owner_may_read_mail(path: Path, opened: Open) -> None:
    broker = await opened()
    await broker.publish(send(1))

    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()}

    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert modes == {
        "queue.db": 0o600,
        "queue.db.made": 0o600,
        "queue.db-wal": 0o600,
        "queue.db-shm": 0o600,
        "queue.db.owners": 0o700,
    }


def test_who_only_looks_writes_nothing(path: Path) -> None:
    """On a full disk nobody could look into it; and nobody waits for one who writes."""
    with closing(schema.connect(path, 1)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with closing(schema.connect(path, 0.01)) as db:
            assert statements.stored_queues(db) == {}


def test_a_commit_is_on_the_disk_when_it_returns(path: Path) -> None:
    db = schema.connect(path, 1)

    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    db.close()


async def test_a_closed_broker_leaves_the_file_alone(path: Path, opened: Open) -> None:
    broker = await opened()
    await broker.publish(send(1))

    await broker.close()

    left = sorted(p.name for p in path.parent.iterdir())
    assert left == ["queue.db", "queue.db.made", "queue.db.owners"]
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
        (_garbage, "file is not a database"),
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
    assert steward.move("incoming.failed", ["id-1"], back) == 0
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

    assert steward.drop("quarantine", ["id-1"], its_id) == ["id-1"]
    assert steward.move("quarantine", ["id-2"], to("incoming")) == 1
    assert steward.move("pickup.retry.5m", ["id-3"], to("pickup")) == 1

    steward.close()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT message_id FROM message").fetchall() == [("id-2",), ("id-3",)]
    db.close()
    assert [d.message_id for d in await take(broker)] == ["id-2"]
    assert [d.message_id for d in await take(broker, queue="pickup")] == ["id-3"]


def _standing(db: sqlite3.Connection, place: statements.StoredQueue) -> list[statements.WaitingRow]:
    last = statements.last(db, place)
    return [] if last is None else statements.standing(db, place, None, last, 10)


def _replace(path: Path, queue: str) -> None:
    """Have the only message of quarantine go, and another one come with its number."""
    with closing(schema.connect(path, 5)) as db, statements.transaction(db):
        known = statements.stored_queues(db)
        (gone,) = _standing(db, known["quarantine"])
        statements.take_out(db, known["quarantine"], gone)
        statements.put(db, known, [statements.row(send(2, queue))], 0.0)
        (come,) = _standing(db, known[queue])
        assert come.id == gone.id


@pytest.mark.parametrize("queue", ["quarantine", "incoming"])
@pytest.mark.parametrize("verb", ["drop", "move", "browse"])
async def test_a_number_that_comes_again_is_another_message(
    path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch, verb: str, queue: str
) -> None:
    broker = await opened()
    await broker.publish(send(1, "quarantine"))
    await broker.close()
    found = statements.standing

    def then_replaced(
        db: sqlite3.Connection,
        place: statements.StoredQueue,
        after: statements.WaitingRow | None,
        until: statements.WaitingRow,
        limit: int,
    ) -> list[statements.WaitingRow]:
        monkeypatch.setattr(statements, "standing", found)
        standing = found(db, place, after, until, limit)
        _replace(path, queue)
        return standing

    monkeypatch.setattr(statements, "standing", then_replaced)
    with closing(EmbeddedSteward(path, TIERS)) as steward:
        if verb == "drop":
            assert steward.drop("quarantine", ["id-1", "id-2"], its_id) == []
        elif verb == "move":
            assert steward.move("quarantine", ["id-1", "id-2"], to("pickup")) == 0
        else:
            assert list(steward.browse("quarantine")) == []
        assert [(s.queue, s.message_id) for s in steward.everything()] == [(queue, "id-2")]


BACKLOG = 400
"""Messages of 50 KB: 20 MB, more than its log holds."""


async def come_and_go(broker: EmbeddedBroker) -> None:
    """Let a backlog come and go."""
    await broker.publish(*(send(n, body=bytes(50_000)) for n in range(BACKLOG)))
    await asyncio.gather(*map(broker.settle, await take(broker, BACKLOG)))


def of_an_earlier_version(path: Path) -> None:
    schema.connect(path, 1).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA auto_vacuum = NONE")
        db.execute("VACUUM")
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (0,)


@pytest.mark.parametrize("earlier", [False, True], ids=["new", "of an earlier version"])
async def test_room_that_lies_idle_in_it_goes_back_to_a_disk_that_is_short_of_it(
    path: Path, earlier: bool
) -> None:
    if earlier:
        of_an_earlier_version(path)
    short = False
    broker = EmbeddedBroker(path, tiers=TIERS, name="test", lacking=lambda: short)
    await broker.open()
    await broker.publish(send(BACKLOG, "pickup"))
    await come_and_go(broker)
    assert path.stat().st_size > 5_000_000

    short = True

    async def cut() -> bool:
        return path.stat().st_size < 200_000

    await eventually(cut, "a short file")
    assert await broker.depths(["pickup"]) == {"pickup": 1}
    await come_and_go(broker)
    await broker.close()
