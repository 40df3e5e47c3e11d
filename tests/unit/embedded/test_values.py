"""A message that the file does not take fails alone, whoever shares its transaction."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shared.broker import Send
from shared.broker.embedded import schema
from shared.errors import Refused
from tests.unit.embedded.conftest import Open, has_depth, send, take

BAD = "poison"


def forbid(path: Path, column: str) -> None:
    """Have the file refuse a message with this word in a column."""
    with closing(schema.connect(path, 5)) as db:
        db.execute(
            f"CREATE TRIGGER no_{column} BEFORE INSERT ON message "
            f"WHEN CAST(NEW.{column} AS TEXT) LIKE '%{BAD}%'"
            " BEGIN SELECT RAISE(ABORT, 'nothing of this kind'); END"
        )


def bad(column: str, queue: str = "incoming") -> Send:
    return {
        "message_id": Send(queue, b"body", BAD),
        "headers": Send(queue, b"body", "id-0", {"account": BAD}),
        "body": Send(queue, BAD.encode(), "id-0"),
    }[column]


@pytest.mark.parametrize("column", ["message_id", "headers", "body"])
async def test_what_is_published_together_is_refused_alone(
    path: Path, opened: Open, column: str
) -> None:
    broker = await opened()
    forbid(path, column)
    sends = [*map(send, range(1, 30)), bad(column), *map(send, range(30, 60))]
    answers = await asyncio.gather(*map(broker.publish, sends), return_exceptions=True)
    assert [i for i, answer in enumerate(answers) if answer is not None] == [29]
    assert isinstance(answers[29], Refused), answers[29]
    assert "nothing of this kind" in str(answers[29])
    await has_depth(broker, "incoming", 59)
    assert broker.connected
    assert broker.blocked is None


@pytest.mark.parametrize("column", ["message_id", "headers", "body"])
async def test_what_is_settled_together_is_refused_alone_and_stays_ours(
    path: Path, opened: Open, column: str
) -> None:
    broker = await opened()
    await broker.publish(*map(send, range(1, 21)))
    deliveries = await take(broker, 20)
    forbid(path, column)
    settlements = [(d, [send(n, "parsed")]) for n, d in enumerate(deliveries)]
    settlements[7] = (deliveries[7], [send(99, "parsed"), bad(column, "parsed")])
    answers = await broker.settle_all(settlements)
    assert [i for i, answer in enumerate(answers) if answer is not None] == [7]
    assert isinstance(answers[7], Refused), answers[7]
    await has_depth(broker, "parsed", 19)
    await broker.settle(deliveries[7], send(7, "parsed"))
    assert len(await take(broker, 20, "parsed")) == 20
    assert await broker.drained(["incoming"])


async def test_headers_that_cannot_be_written_are_refused_alone(opened: Open) -> None:
    broker = await opened()
    await broker.publish(send(1), send(2))
    first, second = await take(broker, 2)
    odd: Any = {"account": b"bytes"}
    answers = await broker.settle_all(
        [(first, [Send("parsed", b"body", "id-1", odd)]), (second, [send(2, "parsed")])]
    )
    assert [type(answer) for answer in answers] == [Refused, type(None)]


async def test_a_message_whose_headers_nobody_can_read_keeps_no_other_back(
    path: Path, opened: Open
) -> None:
    broker = await opened()
    await broker.publish(*map(send, range(1, 4)))
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE message SET headers = 'no JSON' WHERE message_id = 'id-2'")
    found = await take(broker, 3)
    assert [(d.message_id, dict(d.headers)) for d in found] == [
        ("id-1", {"account": "sales"}),
        ("id-2", {}),
        ("id-3", {"account": "sales"}),
    ]
