"""One transaction of the embedded broker: settle what was asked for, lease what there is room for.

Belongs to the worker thread. What it remembers (which leases are out, which queues may hold
something) changes only once the transaction is committed, so one that fails can be forgotten.
It trusts its jobs to be well formed, and never that a lease is still ours.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from shared.broker import Delivery
from shared.broker.embedded import owners, statements
from shared.broker.embedded.jobs import (
    AskDrained,
    Cancel,
    Consumer,
    Count,
    Job,
    JobResults,
    Lease,
    Stop,
    Subscribe,
    Transfer,
    TransferPart,
)
from shared.clock import Clock
from shared.errors import DeliveryLost, Refused
from shared.failpoint import reach_all
from shared.log import printable
from shared.queues import QUARANTINE

_New: TypeAlias = tuple[int, statements.Row]
"""A message that was just stored, with its number; it is in no queue yet."""


@dataclass(frozen=True, slots=True)
class Chores:
    """What is to be done besides jobs.

    Attributes:
        dead: owners whose leases are to be taken over.
        due: messages have waited out their retry tier.
        renew: our own row is to be renewed.
        hungry: a consumer has room, and there is something for it.
    """

    dead: Sequence[int] = ()
    due: bool = False
    renew: bool = False
    hungry: bool = False

    def __bool__(self) -> bool:
        return bool(self.dead) or self.due or self.renew or self.hungry


@dataclass(slots=True)
class _Transaction:
    """What a transaction works on, and what is to be remembered once it is committed.

    What is held changes at once, because there is room for so much less or more in the same
    transaction; if that fails it is undone.

    Attributes:
        owner: who we are.
        results: get the answers.
    """

    db: sqlite3.Connection
    owner: int
    results: JobResults
    settled: list[Lease] = field(default_factory=list)
    unwanted: list[Lease] = field(default_factory=list)
    leased: list[tuple[Consumer, list[Delivery]]] = field(default_factory=list)
    drained: set[str] = field(default_factory=set)

    def hand(
        self,
        consumer: Consumer,
        queue_row: statements.StoredQueue,
        heads: Iterable[tuple[int, int, str, str, bytes]],
    ) -> None:
        """Note what was leased for a consumer, who holds it from now on."""
        found: list[Delivery] = []
        for id_, handouts, message_id, headers, body in heads:
            lease = Lease(consumer, self.owner, id_, queue_row.id, handouts + 1)
            consumer.held.add(lease)
            told = statements.told(headers)
            found.append(Delivery(queue_row.name, body, message_id, told, handouts, lease))
        self.leased.append((consumer, found))

    def undo(self) -> None:
        """Let the consumers hold what they held before: the transaction was rolled back."""
        for consumer, deliveries in self.leased:
            consumer.held.difference_update(d.tag for d in deliveries if isinstance(d.tag, Lease))
        for lease in self.settled:
            lease.consumer.held.add(lease)


class Dispatcher:
    """Who consumes what, and who has what.

    Args:
        path: the queue file, for the locks beside it.
        clock: the time of the retry tiers, and of our own row.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._stored: dict[str, statements.StoredQueue] = {}
        self._consumers: deque[Consumer] = deque()
        self._promising: set[str] = set()

    def look_again(self) -> None:
        """Every queue that is consumed may have something now."""
        self._promising.update(c.queue for c in self._consumers)

    def lose_leases(self) -> None:
        """All leases are lost; consumers begin with empty hands."""
        for consumer in self._consumers:
            consumer.held.clear()
        self.look_again()

    def hungry(self, db: sqlite3.Connection) -> bool:
        """Return whether a transaction would hand something out, or give something back."""
        for queue in self._promising & {c.queue for c in self._consumers if _room(c)}:
            queue_row = self._stored_queue(db, queue)
            if queue_row is not None and statements.has_waiting(db, queue_row.id):
                return True
            self._promising.discard(queue)
        return any(_unseen(c) for c in self._consumers if c.closed)

    def enlist(self, jobs: Iterable[Job]) -> None:
        """Begin and end consumers, whatever becomes of the transaction."""
        for job in jobs:
            if isinstance(job, Subscribe):
                self._consumers.append(job.consumer)
                self._promising.add(job.consumer.queue)
            elif isinstance(job, Cancel):
                job.consumer.closed = True
            elif isinstance(job, Stop):
                for consumer in self._consumers:
                    consumer.closed = True

    def count(self, db: sqlite3.Connection, jobs: Iterable[Job]) -> JobResults:
        """Return the answers to the jobs that only look."""
        results = JobResults()
        for job in jobs:
            if isinstance(job, Count):
                results.answers.append((job.done, {q: self._depth(db, q) for q in job.queues}))
            elif isinstance(job, AskDrained):
                results.answers.append((job.done, statements.is_drained(db, job.queues)))
        return results

    def commit(
        self,
        db: sqlite3.Connection,
        owner: int,
        jobs: Sequence[Job],
        chores: Chores,
        results: JobResults,
    ) -> None:
        """Do jobs and chores in one transaction.

        Args:
            results: get the answers and the deliveries; of no use if this raises.

        Raises:
            Evicted: the owner's row is gone. Nothing was done.
            sqlite3.Error: the file failed. Nothing was done.
        """
        work = _Transaction(db, owner, results)
        try:
            with statements.transaction(db):
                owners.require(db, owner)
                self._stored = self._stored or statements.stored_queues(db)
                self._do_chores(work, chores)
                self._transfer(work, jobs)
                self._return_unseen(work)
                self._lease(work)
                self._finish(work, jobs)
        except BaseException:
            work.undo()
            raise
        self._promising -= work.drained
        for lease in work.unwanted:
            lease.consumer.held.discard(lease)
        self._consumers = deque(c for c in self._consumers if not c.closed)
        results.leased.extend(work.leased)

    def _do_chores(self, work: _Transaction, chores: Chores) -> None:
        for dead in chores.dead:
            statements.take_back(work.db, dead)
            owners.remove(work.db, self._path, dead)
        if chores.due:
            statements.release_due(work.db, self._stored, self._clock.now())
        if chores.renew:
            owners.renew(work.db, work.owner, self._clock.monotonic())
        if chores.dead or chores.due:
            self.look_again()

    def _transfer(self, work: _Transaction, jobs: Sequence[Job]) -> None:
        rows: list[statements.Row] = []
        for job in jobs:
            if isinstance(job, Transfer):
                answers = [self._take(work, part, rows) for part in job.parts]
                work.results.answers.append((job.done, answers))
        # In this order, so that what comes in takes the pages of what goes: on a full disk there
        # are no others.
        statements.forget(work.db, work.owner, [lease.id for lease in work.settled])
        self._put(work, rows)
        reach_all([queue for queue, *_ in rows], "published")

    def _take(
        self, work: _Transaction, part: TransferPart, rows: list[statements.Row]
    ) -> Exception | None:
        """Have the rows of a part put, and its lease settled; or say why not."""
        lease = part.lease
        if lease is not None and (lease.owner != work.owner or lease not in lease.consumer.held):
            return DeliveryLost("the delivery is settled already, or its lease is lost")
        for queue, *_ in part.rows:
            if queue not in self._stored and self._stored_queue(work.db, queue) is None:
                return Refused(printable(queue), "there is no queue of this name")
        rows += [new for new in part.rows if not self._is_there(work.db, new)]
        if lease is not None:
            lease.consumer.held.discard(lease)
            work.settled.append(lease)
        return None

    def _is_there(self, db: sqlite3.Connection, new: statements.Row) -> bool:
        return new[0] == QUARANTINE and statements.counts_as_copy(db, self._stored[QUARANTINE], new)

    def _put(self, work: _Transaction, rows: Sequence[statements.Row]) -> None:
        """Store rows, and hand over at once what a consumer of ours would get next anyway."""
        if not rows:
            return
        now = self._clock.now()
        queues: dict[str, list[_New]] = {}
        for new in enumerate(rows, statements.add(work.db, rows)):
            queues.setdefault(new[1][0], []).append(new)
        for queue, fresh in queues.items():
            queue_row = self._stored[queue]
            if left := self._hand_over(work, queue_row, fresh):
                statements.wait(work.db, queue_row, [id_ for id_, _ in left], now)
                self._promising.add(queue)

    def _hand_over(
        self, work: _Transaction, queue_row: statements.StoredQueue, fresh: Sequence[_New]
    ) -> Sequence[_New]:
        """Lease what was just put into a queue in which nothing waits; return what nobody wants.

        That saves it the way through ``waiting``, and being read again.
        """
        left = fresh
        if queue_row.name in self._promising or queue_row.ttl is not None:
            return left
        for consumer in self._consumers:
            room = _room(consumer)
            if consumer.queue != queue_row.name or not room or not left:
                continue
            mine, left = left[:room], left[room:]
            statements.hand_over(work.db, work.owner, queue_row, [id_ for id_, _ in mine])
            heads = [
                (id_, 0, message_id, headers, body) for id_, (_, message_id, headers, body) in mine
            ]
            work.hand(consumer, queue_row, heads)
        return left

    def _return_unseen(self, work: _Transaction) -> None:
        """Give back what was leased for consumers that have ended, and never seen by anybody."""
        work.unwanted = [lease for c in self._consumers if c.closed for lease in _unseen(c)]
        if not work.unwanted:
            return
        returned = [statements.Returned(u.id, u.queue, u.handouts - 1) for u in work.unwanted]
        statements.give_back(work.db, work.owner, returned)
        self.look_again()

    def _lease(self, work: _Transaction) -> None:
        self._consumers.rotate(-1)  # who comes first changes, so that none is starved
        for consumer in self._consumers:
            room = _room(consumer)
            if not room or consumer.queue not in self._promising - work.drained:
                continue
            queue_row = self._stored_queue(work.db, consumer.queue)
            if queue_row is None:
                heads = []
            else:
                heads = statements.lease(work.db, work.owner, queue_row.id, room)
            if len(heads) < room:
                work.drained.add(consumer.queue)
            if queue_row is not None and heads:
                work.hand(consumer, queue_row, heads)

    def _finish(self, work: _Transaction, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if isinstance(job, Stop):
                statements.take_back(work.db, work.owner)
                owners.remove(work.db, self._path, work.owner)
            if isinstance(job, Stop | Cancel):
                work.results.answers.append((job.done, None))

    def _stored_queue(self, db: sqlite3.Connection, queue: str) -> statements.StoredQueue | None:
        if queue not in self._stored:
            self._stored = statements.stored_queues(db)
        return self._stored.get(queue)

    def _depth(self, db: sqlite3.Connection, queue: str) -> int:
        queue_row = self._stored_queue(db, queue)
        return 0 if queue_row is None else statements.depth(db, queue_row.id)


def _room(consumer: Consumer) -> int:
    return 0 if consumer.closed else consumer.prefetch - len(consumer.held)


def _unseen(consumer: Consumer) -> list[Lease]:
    return [lease for lease in consumer.held if not lease.yielded]
