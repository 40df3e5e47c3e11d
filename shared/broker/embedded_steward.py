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
from typing import Final

from shared.broker import Send, Stored
from shared.broker import embedded_schema as schema
from shared.broker import embedded_store as store
from shared.broker.requeue import FAILURE_HEADERS, fresh
from shared.clock import Clock, SystemClock
from shared.errors import Refused
from shared.log import printable
from shared.queues import POLL, Tier, plan

PATIENCE: Final = 10.0
"""Seconds to wait for a transaction of the pipeline."""

CHUNK: Final = 100
"""Messages moved or deleted in one transaction."""


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

    def declare(self) -> None:
        """Make the file and every queue of the topology exist; a no-op where they do."""
        with self._open() as db, store.transaction(db):
            store.declare(db, self._queues)

    def depths(self) -> Mapping[str, int | None]:
        """Return for each queue of the topology how many messages wait in it, None if absent."""
        absent: dict[str, int | None] = dict.fromkeys(q.name for q in self._queues)
        if not self._path.exists():
            return absent
        with self._open() as db:
            known = store.places(db)
            return {q: store.depth(db, known[q].id) if q in known else None for q in absent}

    def browse(self, queue: str) -> Iterator[Stored]:
        """Yield the waiting messages of a queue, oldest first; all stay in it."""
        for message in self._standing(queue):
            with self._open() as db:
                found = store.content(db, message.id)
            if found is not None:  # it may have gone on meanwhile
                message_id, headers, body = found
                yield Stored(queue, message_id, headers, body)

    def everything(self) -> Iterator[Stored]:
        """Yield every message of every queue that carries mail, also those in hand; all stay.

        It is what the file held at one moment.
        """
        if not self._path.exists():
            return
        with self._open() as db:
            yield from (stored for stored in store.everything(db) if stored.queue != POLL)

    def consumers(self) -> Mapping[str, int]:
        """Return nothing: ``everything`` shows what consumers have in hand, too."""
        return {}

    def move(self, queue: str, message_ids: Sequence[str], destination: str | None) -> int:
        """Move messages to another queue (to the queue each came from, by its header, if None).

        Each is in one queue or the other at every moment. Its attempt counter starts anew.
        Returns how many were moved.

        Raises:
            Refused: the destination does not exist, or a message does not say where it came from.
        """

        def one(db: sqlite3.Connection, known: store.Places, message: store.Standing) -> bool:
            row = self._moved(db, known, known[queue], message, destination)
            if row is None or not store.take_out(db, known[queue], message):
                return False
            store.put(db, known, [row], self._clock.now())
            return True

        return self._each(queue, message_ids, one)

    def drop(self, queue: str, message_ids: Sequence[str]) -> int:
        """Delete messages; return how many."""

        def one(db: sqlite3.Connection, known: store.Places, message: store.Standing) -> bool:
            return store.take_out(db, known[queue], message)

        return self._each(queue, message_ids, one)

    def close(self) -> None:
        """Close the file."""
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

    def _standing(self, queue: str) -> list[store.Standing]:
        if not self._path.exists():
            return []
        with self._open() as db:
            place = store.places(db).get(queue)
            return [] if place is None else store.standing(db, place)

    def _each(
        self,
        queue: str,
        message_ids: Sequence[str],
        one: Callable[[sqlite3.Connection, store.Places, store.Standing], bool],
    ) -> int:
        """Do something with each message of these ids, some in a transaction; return how many."""
        wanted = frozenset(message_ids)
        messages = [m for m in self._standing(queue) if m.message_id in wanted]
        done = 0
        for start in range(0, len(messages), CHUNK):
            with self._open() as db, store.transaction(db):
                known = store.places(db)
                done += sum(one(db, known, m) for m in messages[start : start + CHUNK])
        return done

    def _moved(
        self,
        db: sqlite3.Connection,
        known: store.Places,
        place: store.Place,
        message: store.Standing,
        destination: str | None,
    ) -> store.Row | None:
        """Return the message as it goes to its destination, None where it is gone."""
        found = store.content(db, message.id)
        if found is None:
            return None
        message_id, headers, body = found
        to = destination or str(headers.get("inbox", "")) or place.back_to
        if to is None:
            raise Refused(place.name, f"{message_id} does not say where it came from; name a queue")
        if to not in known:
            raise Refused(printable(to), "there is no queue of this name")
        kept = {name: value for name, value in headers.items() if name not in FAILURE_HEADERS}
        return store.row(Send(to, fresh(body, to), message_id, kept))
