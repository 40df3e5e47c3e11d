"""What a message costs: transactions, and the rows that a statement looks at."""

import asyncio
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.broker.embedded import owners, schema
from shared.broker.embedded.steward import EmbeddedSteward
from tests.clock import ManualClock
from tests.stewards import its_id, to
from tests.unit.embedded.conftest import TIERS, Open, has_depth, locked, send, take


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
    await other.drained(["incoming", "pickup"])
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
        steward.move("incoming", ["id-5"], to(queue))
        steward.move(queue, ["id-5"], to("incoming"))
    steward.depths()
    list(steward.browse("incoming"))
    steward.drop("quarantine", ["id-4"], its_id)
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
