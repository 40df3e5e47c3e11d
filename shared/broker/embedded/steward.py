"""The operator's side of the embedded broker: look into the queue file, and move what waits there.

Works while the pipeline runs, as one more process on the file, with transactions short enough to
leave the pipeline room. It sees and moves waiting messages only, never what is handed out. A file
that is not there is an empty broker; only ``declare`` makes it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from shared.broker import Onward, Stored, unnoticed
from shared.broker.dead_letter import readable
from shared.broker.embedded import schema, statements
from shared.clock import Clock, SystemClock
from shared.errors import Refused
from shared.log import printable
from shared.queues import POLL, Tier, plan
from shared.sqlite.presence import mark_of

T = TypeVar("T")

PATIENCE: Final = 10.0
"""Seconds to wait for a transaction of the pipeline."""

CHUNK: Final = 100
"""Messages looked at, moved or deleted at a time."""


class EmbeddedSteward:
    """A Steward over a SQLite file.

    Every method raises ConfigError where the file can never be used, and BrokerUnavailable where
    it cannot be used just now.

    Args:
        path: the queue file.
        tiers: the retry tiers of the topology.
        clock: the time, for messages that are moved into a retry tier.
    """

    def __init__(self, path: Path, tiers: Sequence[Tier], clock: Clock | None = None) -> None:
        self._path = path.resolve()
        self._queues = plan(tiers)
        self._clock = clock or SystemClock()
        self._db: sqlite3.Connection | None = None

    def declare(self) -> Sequence[str]:
        """See ``Steward.declare``; a queue of the file has no arguments of an earlier version."""
        with self._open() as db, statements.transaction(db):
            statements.declare(db, self._queues)
        return ()

    def outdated(self) -> Sequence[str]:
        """Return nothing, see ``declare``."""
        return ()

    def foreign(self) -> Sequence[str]:
        """Return nothing: nobody else declares queues here."""
        return ()

    def migrate(self, _: Callable[[str], None]) -> int:
        """Do nothing, see ``declare``."""
        return 0

    def depths(self) -> Mapping[str, int | None]:
        """See ``Steward.depths``."""
        absent: dict[str, int | None] = dict.fromkeys(q.name for q in self._queues)
        if not self._exists():
            return absent
        with self._open() as db:
            known = statements.stored_queues(db)
            return {q: statements.depth(db, known[q].id) if q in known else None for q in absent}

    def strays(self) -> Mapping[str, int]:
        """See ``Steward.strays``."""
        if not self._exists():
            return {}
        named = {queue.name for queue in self._queues}
        with self._open() as db:
            return statements.strays(db, named)

    def looked_into(self) -> Sequence[str]:
        """Return nothing: a look takes no messages."""
        return ()

    def neighbours(self) -> Sequence[str]:
        """Return nothing: nobody else has a data directory of ours."""
        return ()

    def browse(self, queue: str) -> Iterator[Stored]:
        """See ``Steward.browse``; what goes on meanwhile is left out."""
        for queue_row, chunk in self._standing(queue):
            for message in chunk:
                with self._open() as db:
                    found = self._content(db, queue_row, message)
                if found is not None:  # it may have gone on meanwhile
                    yield found

    def everything(self) -> Iterator[Stored]:
        """See ``Steward.everything``; it is what the file held at one moment, also in hand."""
        if not self._exists():
            return
        with self._open() as db:
            yield from (stored for stored in statements.everything(db) if stored.queue != POLL)

    def consumers(self) -> Mapping[str, int]:
        """Return nothing: ``everything`` shows what consumers have in hand, too."""
        return {}

    def move(
        self,
        queue: str,
        message_ids: Sequence[str] | None,
        onward: Onward,
        moved: Callable[[Stored], None] = unnoticed,
    ) -> int:
        """See ``Steward.move``; each message is in one queue or the other at every moment."""

        def send(
            db: sqlite3.Connection, known: statements.StoredQueues, stored: Stored
        ) -> Stored | None:
            sent = onward(stored)
            if sent is None:
                return None
            if sent.queue not in known:
                raise Refused(printable(sent.queue), "there is no queue of this name")
            statements.put(db, known, [statements.row(sent)], self._clock.now())
            return stored

        count = 0
        for stored in self._take(queue, message_ids, send):
            count += 1
            moved(stored)
        return count

    def drop(
        self,
        queue: str,
        message_ids: Sequence[str] | None,
        note: Callable[[Stored], T | None],
    ) -> list[T]:
        """See ``Steward.drop``."""
        return list(self._take(queue, message_ids, lambda _, __, stored: note(stored)))

    def close(self) -> None:
        """See ``Steward.close``."""
        db, self._db = self._db, None
        if db is not None:
            with suppress(sqlite3.Error):
                db.close()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        if self._db is None:
            self._db = schema.connect(self._path, PATIENCE)
        try:
            yield self._db
        except sqlite3.Error as error:
            raise schema.unavailable(self._path, error) from error

    def _exists(self) -> bool:
        """Return whether there is a file, or was one: then opening it says what became of it."""
        return self._path.exists() or mark_of(self._path).exists()

    def _standing(
        self, queue: str
    ) -> Iterator[tuple[statements.StoredQueue, list[statements.WaitingRow]]]:
        """Yield the messages that wait in a queue now, ``CHUNK`` at a time."""
        if not self._exists():
            return
        with self._open() as db:
            queue_row = statements.stored_queues(db).get(queue)
            last = None if queue_row is None else statements.last(db, queue_row)
        after: statements.WaitingRow | None = None
        while queue_row is not None and last is not None:
            with self._open() as db:
                chunk = statements.standing(db, queue_row, after, last, CHUNK)
            if not chunk:
                return
            after = chunk[-1]
            yield queue_row, chunk

    def _content(
        self,
        db: sqlite3.Connection,
        queue_row: statements.StoredQueue,
        message: statements.WaitingRow,
    ) -> Stored | None:
        """Return a message, None where it stands there no more."""
        found = statements.content(db, queue_row, message)
        if found is None:
            return None
        id_, headers, body = found
        return Stored(
            queue_row.name, id_, readable(headers, body, queue_row.name, self._queues), body
        )

    def _take(
        self,
        queue: str,
        message_ids: Sequence[str] | None,
        settle: Callable[[sqlite3.Connection, statements.StoredQueues, Stored], T | None],
    ) -> Iterator[T]:
        """Take messages out of a queue, some in a transaction.

        Yields:
            What ``settle`` has returned for each, when it is gone; one for which that is None
            stays.
        """
        wanted = None if message_ids is None else frozenset(message_ids)
        for queue_row, chunk in self._standing(queue):
            asked = [m for m in chunk if wanted is None or m.message_id in wanted]
            if not asked:
                continue
            gone: list[T] = []
            with self._open() as db, statements.transaction(db):
                known = statements.stored_queues(db)
                for message in asked:
                    found = self._content(db, queue_row, message)  # None: it went on meanwhile
                    settled = None if found is None else settle(db, known, found)
                    if settled is not None:
                        statements.take_out(db, queue_row, message)
                        gone.append(settled)
            yield from gone
