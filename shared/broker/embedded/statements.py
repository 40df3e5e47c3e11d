"""What the embedded broker does to its file, as statements: put, lease, forget, give back.

Each function works inside a transaction that its caller has begun, on many messages at once.
Nothing here decides when. It trusts its arguments; errors of SQLite pass through to the caller,
who rolls back and translates them.

Where a message stands is a small row of its own: in ``waiting`` until it is handed out, in
``lease`` while an owner has it, in ``delayed`` while it waits out a retry tier. All are reached by
their primary key, so the cost of a message does not grow with the backlog.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from shared.broker import HANDED_OUT, LONGEST_KEPT, Header, Send, Stored
from shared.broker.requeue import directed_alike
from shared.errors import Refused
from shared.log import printable
from shared.queues import INCOMING, QueueSpec
from shared.wire import BODY_LIMIT

CLOCK_SLACK: Final = 60.0
"""Seconds by which the wall clock may be set back before waiting retries are no longer trusted."""

_PUT: Final = "INSERT INTO message (id, message_id, headers, body) VALUES "
_PUT_BY: Final = {count: _PUT + ", ".join(["(?, ?, ?, ?)"] * count) for count in (32, 8, 1)}
"""How so many rows are put at once. Each run of a statement lets go of Python's lock, and may have
to wait for it afterwards; besides, many rows in one cost less than each in its own."""
_PUT_WAITING: Final = "INSERT INTO waiting (queue, id, handouts) VALUES (?, ?, ?)"
_NEXT_ID: Final = "SELECT coalesce(max(id), 0) + 1 FROM message"

# What was put together has numbers in a row, and goes on together: one statement for each such run.
_WAIT: Final = """
    INSERT INTO waiting (queue, id, handouts)
    SELECT ?, id, 0 FROM message WHERE id BETWEEN ? AND ?"""
_DELAY: Final = """
    INSERT INTO delayed (queue, due, id) SELECT ?, ?, id FROM message WHERE id BETWEEN ? AND ?"""
_HAND_OVER: Final = """
    INSERT INTO lease (owner, id, queue, handouts)
    SELECT ?, id, ?, 1 FROM message WHERE id BETWEEN ? AND ?"""
_UNLEASE_RUN: Final = "DELETE FROM lease WHERE owner = ? AND id BETWEEN ? AND ?"
_FORGET_RUN: Final = "DELETE FROM message WHERE id BETWEEN ? AND ?"

_HEADS: Final = """
    SELECT w.id, w.handouts, m.message_id, m.headers, m.body
    FROM waiting w CROSS JOIN message m ON m.id = w.id
    WHERE w.queue = ? ORDER BY w.id LIMIT ?"""
_LEASE: Final = """
    INSERT INTO lease (owner, id, queue, handouts)
    SELECT ?, id, queue, handouts + 1 FROM waiting WHERE queue = ? AND id <= ?"""
_LEASED: Final = "DELETE FROM waiting WHERE queue = ? AND id <= ?"
_UNLEASE: Final = "DELETE FROM lease WHERE owner = ? AND id = ?"
_FORGET: Final = "DELETE FROM message WHERE id = ?"
_OWNED: Final = "SELECT id, queue, handouts FROM lease WHERE owner = ?"

# The second half is for a clock that was set back: what would wait longer than its whole tier.
_DUE: Final = """
    SELECT d.queue, d.due, d.id, q.back_to
    FROM queue q CROSS JOIN delayed d ON d.queue = q.id AND d.due <= :now
    WHERE q.ttl IS NOT NULL
    UNION ALL
    SELECT d.queue, d.due, d.id, q.back_to
    FROM queue q CROSS JOIN delayed d ON d.queue = q.id AND d.due > :now + q.ttl + :slack
    WHERE q.ttl IS NOT NULL
    LIMIT :limit"""
_UNDELAY: Final = "DELETE FROM delayed WHERE queue = ? AND due = ? AND id = ?"

_COUNT: Final = """
    SELECT (SELECT count(*) FROM waiting WHERE queue = :queue)
         + (SELECT count(*) FROM delayed WHERE queue = :queue)"""
# One statement, and so one moment; leases by way of their owners, which are their key.
_HOLDS: Final = """
    WITH named AS (SELECT id FROM queue WHERE name IN (SELECT value FROM json_each(?)))
    SELECT EXISTS (SELECT 1 FROM named CROSS JOIN waiting w ON w.queue = named.id)
        OR EXISTS (SELECT 1 FROM owner CROSS JOIN lease ON lease.owner = owner.id
                   WHERE lease.queue IN (SELECT id FROM named))"""
_DECLARE: Final = """
    INSERT INTO queue (name, kind, ttl, back_to) VALUES (?, ?, ?, ?)
    ON CONFLICT (name) DO UPDATE
    SET kind = excluded.kind, ttl = excluded.ttl, back_to = excluded.back_to"""

_STANDING: Final = """
    SELECT w.id, m.message_id, NULL
    FROM waiting w CROSS JOIN message m ON m.id = w.id
    WHERE w.queue = :queue AND w.id > :id AND w.id <= :last
    ORDER BY w.id LIMIT :limit"""
_STANDING_DELAYED: Final = """
    SELECT d.id, m.message_id, d.due
    FROM delayed d CROSS JOIN message m ON m.id = d.id
    WHERE d.queue = :queue AND (d.due, d.id) > (:due, :id) AND (d.due, d.id) <= (:until, :last)
    ORDER BY d.due, d.id LIMIT :limit"""
_LAST: Final = """
    SELECT id, '', NULL FROM waiting WHERE queue = ? ORDER BY id DESC LIMIT 1"""
_LAST_DELAYED: Final = """
    SELECT id, '', due FROM delayed WHERE queue = ? ORDER BY due DESC, id DESC LIMIT 1"""
# Row numbers come again, so a number alone is no message: it has to stand where it was seen, too.
_CONTENT: Final = """
    SELECT m.message_id, m.headers, m.body
    FROM waiting w CROSS JOIN message m ON m.id = w.id
    WHERE w.queue = ? AND w.id = ? AND m.message_id = ?"""
_CONTENT_DELAYED: Final = """
    SELECT m.message_id, m.headers, m.body
    FROM delayed d CROSS JOIN message m ON m.id = d.id
    WHERE d.queue = ? AND d.id = ? AND m.message_id = ? AND d.due = ?"""
_EVERYTHING: Final = """
    SELECT q.name, m.message_id, m.headers, m.body
    FROM (SELECT queue, id FROM waiting
          UNION ALL SELECT queue, id FROM delayed
          UNION ALL SELECT queue, id FROM lease) s
    CROSS JOIN message m ON m.id = s.id CROSS JOIN queue q ON q.id = s.queue"""
_QUARANTINED: Final = """
    SELECT m.id, m.headers, m.body
    FROM waiting w CROSS JOIN message m ON m.id = w.id
    WHERE w.queue = ? AND m.message_id = ? ORDER BY w.id"""
_UNWAIT: Final = "DELETE FROM waiting WHERE queue = ? AND id = ?"
_TELL: Final = "UPDATE message SET headers = ? WHERE id = ?"

Row: TypeAlias = tuple[str, str, str, bytes]
"""A message to put: queue, message id, headers as JSON, body."""


class StoredQueue(NamedTuple):
    """A queue as the file knows it."""

    id: int
    name: str
    kind: str
    ttl: float | None
    back_to: str | None


StoredQueues: TypeAlias = Mapping[str, StoredQueue]


class WaitingRow(NamedTuple):
    """A message that is not handed out: its row, and when it is due if it waits out a tier."""

    id: int
    message_id: str
    due: float | None


@dataclass(frozen=True, slots=True)
class Returned:
    """A leased message that is given back: its row, and how often it counts as handed out."""

    id: int
    queue: int
    handouts: int


def row(send: Send) -> Row:
    """Return what is stored of a message.

    Raises:
        Refused: it is too large, its message id is not text, or a header can be written nowhere.
    """
    if len(send.body) > BODY_LIMIT:
        raise Refused(send.queue, f"{len(send.body)} bytes are over the limit of {BODY_LIMIT}")
    try:
        send.message_id.encode()
    except UnicodeEncodeError as error:
        raise Refused(send.queue, "the message id is not text") from error
    try:
        return send.queue, send.message_id, _written(send.headers), send.body
    except (TypeError, ValueError) as error:
        raise Refused(send.queue, printable(f"a header cannot be written: {error}")) from error


def _written(headers: Mapping[str, Header]) -> str:
    if len(headers) == 1:
        ((name, value),) = headers.items()
        if type(value) is str and len(name) + len(value) <= LONGEST_KEPT:
            return _one_text(name, value)  # the account, of which there are not many
    return json.dumps(dict(headers))


@lru_cache(maxsize=1024)
def _one_text(name: str, value: str) -> str:
    return json.dumps({name: value})


def told(headers: str) -> Mapping[str, Header]:
    """Return the headers that are written here, for reading only."""
    return _kept(headers) if len(headers) <= LONGEST_KEPT else _read(headers)


@lru_cache(maxsize=1024)
def _kept(headers: str) -> Mapping[str, Header]:
    return _read(headers)


def _read(headers: str) -> Mapping[str, Header]:
    """Return the headers; none where somebody else has written what are none: the mail is here."""
    try:
        return MappingProxyType(json.loads(headers))
    except (TypeError, ValueError):
        return MappingProxyType({})


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Commit what the block does, or roll it all back where it, or the commit, fails."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def declare(db: sqlite3.Connection, queues: Iterable[QueueSpec]) -> None:
    """Make the queues exist as they are described here."""
    db.executemany(_DECLARE, [(q.name, q.kind, q.ttl, q.back_to) for q in queues])


def stored_queues(db: sqlite3.Connection) -> dict[str, StoredQueue]:
    """Return every queue of the file by name."""
    found = db.execute("SELECT id, name, kind, ttl, back_to FROM queue")
    return {queue_row.name: queue_row for queue_row in map(StoredQueue._make, found)}


def strays(db: sqlite3.Connection, named: Collection[str]) -> dict[str, int]:
    """Return the queues that hold messages and have none of these names, each with how many."""
    counts = {
        queue_row.name: depth(db, queue_row.id)
        for queue_row in stored_queues(db).values()
        if queue_row.name not in named
    }
    return {name: count for name, count in sorted(counts.items()) if count}


def put(db: sqlite3.Connection, known: StoredQueues, rows: Sequence[Row], now: float) -> None:
    """Put messages into their queues, at the end.

    Args:
        known: all queues; those of the rows are among them.
        now: the wall clock, from which retry tiers are counted.
    """
    for id_, (name, *_) in enumerate(rows, add(db, rows)):
        wait(db, known[name], [id_], now)


def add(db: sqlite3.Connection, rows: Sequence[Row]) -> int:
    """Store messages that are in no queue yet; return the number of the first, others follow it."""
    (first,) = db.execute(_NEXT_ID).fetchone()
    at = 0
    for count, statement in _PUT_BY.items():
        while len(rows) - at >= count:
            values: list[object] = []
            for id_, (_, message_id, headers, body) in enumerate(rows[at : at + count], first + at):
                values += (id_, message_id, headers, body)
            db.execute(statement, values)
            at += count
    return int(first)


def wait(db: sqlite3.Connection, queue_row: StoredQueue, ids: Sequence[int], now: float) -> None:
    """Let stored messages wait in a queue, or wait out its time if it is a retry tier."""
    if queue_row.ttl is None:
        db.executemany(_WAIT, [(queue_row.id, *run) for run in _runs(ids)])
    else:
        due = now + queue_row.ttl
        db.executemany(_DELAY, [(queue_row.id, due, *run) for run in _runs(ids)])


def hand_over(
    db: sqlite3.Connection, owner: int, queue_row: StoredQueue, ids: Sequence[int]
) -> None:
    """Lease stored messages that never waited."""
    db.executemany(_HAND_OVER, [(owner, queue_row.id, *run) for run in _runs(ids)])


def _runs(ids: Iterable[int]) -> list[tuple[int, int]]:
    """Return the first and last of each run of numbers without a gap."""
    found: list[tuple[int, int]] = []
    first = last = -1
    for id_ in sorted(ids):
        if id_ != last + 1 or first < 0:
            if first >= 0:
                found.append((first, last))
            first = id_
        last = id_
    return [*found, (first, last)] if first >= 0 else found


def lease(
    db: sqlite3.Connection, owner: int, queue: int, limit: int
) -> list[tuple[int, int, str, str, bytes]]:
    """Lease the first messages of a queue.

    Returns:
        For each its row id, how often it was handed out before, message id, headers and body.
    """
    heads = db.execute(_HEADS, (queue, limit)).fetchall()
    if heads:
        last = heads[-1][0]
        db.execute(_LEASE, (owner, queue, last))
        db.execute(_LEASED, (queue, last))
    return heads


def forget(db: sqlite3.Connection, owner: int, ids: Sequence[int]) -> None:
    """Delete messages that the owner holds."""
    runs = _runs(ids)
    db.executemany(_UNLEASE_RUN, [(owner, *run) for run in runs])
    db.executemany(_FORGET_RUN, runs)


def give_back(db: sqlite3.Connection, owner: int, returned: Sequence[Returned]) -> None:
    """Put leased messages back where they stood."""
    db.executemany(_UNLEASE, [(owner, each.id) for each in returned])
    db.executemany(_PUT_WAITING, [(each.queue, each.id, each.handouts) for each in returned])


def take_back(db: sqlite3.Connection, owner: int) -> None:
    """Give back everything that an owner holds; each message counts as handed out."""
    give_back(db, owner, [Returned(*found) for found in db.execute(_OWNED, (owner,))])


def is_due(db: sqlite3.Connection, now: float) -> bool:
    """Return whether a message has waited out its retry tier."""
    return bool(_due(db, now, 1))


def release_due(db: sqlite3.Connection, known: StoredQueues, now: float) -> None:
    """Put the messages that have waited out their tier into the queue they came from."""
    due = _due(db, now, 1000)
    db.executemany(_UNDELAY, [(queue, at, id_) for queue, at, id_, _ in due])
    db.executemany(_PUT_WAITING, [(known[back_to].id, id_, 0) for *_, id_, back_to in due])


def has_waiting(db: sqlite3.Connection, queue: int) -> bool:
    """Return whether a message of the queue can be handed out."""
    found = db.execute("SELECT 1 FROM waiting WHERE queue = ? LIMIT 1", (queue,))
    return found.fetchone() is not None


def depth(db: sqlite3.Connection, queue: int) -> int:
    """Return how many messages of the queue are not handed out."""
    (count,) = db.execute(_COUNT, {"queue": queue}).fetchone()
    return int(count)


def is_drained(db: sqlite3.Connection, queues: Sequence[str]) -> bool:
    """Return whether no message of these queues waits or is leased to anybody."""
    (holds,) = db.execute(_HOLDS, (json.dumps(queues),)).fetchone()
    return not holds


def last(db: sqlite3.Connection, queue_row: StoredQueue) -> WaitingRow | None:
    """Return where the last message of a queue stands that is not handed out; None if it has none.

    Its message id is not looked up.
    """
    statement = _LAST if queue_row.ttl is None else _LAST_DELAYED
    found = db.execute(statement, (queue_row.id,)).fetchone()
    return None if found is None else WaitingRow(*found)


def standing(
    db: sqlite3.Connection,
    queue_row: StoredQueue,
    after: WaitingRow | None,
    until: WaitingRow,
    limit: int,
) -> list[WaitingRow]:
    """Return messages of a queue that are not handed out, in the order they go on.

    Args:
        queue_row: the queue.
        after: those behind this one, None for the first.
        until: and none behind this one.
        limit: how many at the most.
    """
    begin = WaitingRow(-1, "", -1.0) if after is None else after
    bounds = {"id": begin.id, "due": begin.due, "last": until.id, "until": until.due}
    statement = _STANDING if queue_row.ttl is None else _STANDING_DELAYED
    found = db.execute(statement, {"queue": queue_row.id, "limit": limit, **bounds})
    return [WaitingRow(*each) for each in found]


def content(
    db: sqlite3.Connection, queue_row: StoredQueue, message: WaitingRow
) -> tuple[str, dict[str, Header], bytes] | None:
    """Return message id, headers and body of a message, or None where it stands there no more."""
    where = (queue_row.id, message.id, message.message_id)
    if message.due is None:
        found = db.execute(_CONTENT, where).fetchone()
    else:
        found = db.execute(_CONTENT_DELAYED, (*where, message.due)).fetchone()
    if found is None:
        return None
    message_id, headers, body = found
    return message_id, dict(_read(headers)), body


def everything(db: sqlite3.Connection) -> Iterator[Stored]:
    """Yield the messages of all queues, also those handed out, as they were at one moment."""
    for queue, message_id, headers, body in db.execute(_EVERYTHING):
        yield Stored(queue, message_id, _read(headers), body)


def take_out(db: sqlite3.Connection, queue_row: StoredQueue, message: WaitingRow) -> None:
    """Remove a message of which ``content`` has just said, in this transaction, that it is here."""
    if message.due is None:
        db.execute(_UNWAIT, (queue_row.id, message.id))
    else:
        db.execute(_UNDELAY, (queue_row.id, message.due, message.id))
    db.execute(_FORGET, (message.id,))


def _due(db: sqlite3.Connection, now: float, limit: int) -> list[tuple[int, float, int, str]]:
    return db.execute(_DUE, {"now": now, "slack": CLOCK_SLACK, "limit": limit}).fetchall()


def counts_as_copy(db: sqlite3.Connection, quarantine: StoredQueue, new: Row) -> bool:
    """Return whether a message that crashes its process is in quarantine already.

    Then that one counts a copy more. A fetcher that died with the process, before it knew that its
    message was queued, has fetched it anew. Only in ``incoming`` does one id stand for one message
    with all of its recipients, unless an operator has said otherwise.
    """
    _, message_id, headers, body = new
    about = told(headers)
    if HANDED_OUT not in about or about.get("inbox") != INCOMING:
        return False
    for id_, written, other in db.execute(_QUARANTINED, (quarantine.id, message_id)):
        kept = dict(_read(written))
        if kept.get("inbox") == INCOMING and directed_alike(body, other):
            kept["copies"] = int(kept.get("copies", 1)) + 1
            db.execute(_TELL, (json.dumps(kept), id_))
            return True
    return False
