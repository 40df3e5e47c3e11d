"""One transaction of the embedded broker: settle what was asked for, lease what there is room for.

Belongs to the worker thread. What it remembers (which leases are out, which queues may hold
something) changes only once the transaction is committed, so a batch that fails can be forgotten.
It trusts its jobs to be well formed, and never that a lease is still ours.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

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
from shared.errors import DeliveryLost, Refused
from shared.failpoint import reach_all
from shared.log import printable
from shared.queues import QUARANTINE

_New: TypeAlias = tuple[int, statements.Row]
"""A message that was just stored, with its number; it is in no queue yet."""


class Moment(NamedTuple):
    """The time of a transaction: wall clock and monotonic clock, in seconds."""

    now: float
    monotonic: float


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
class _Changes:
    """What is to be remembered once the transaction is committed.

    What is held changes at once, because there is room for so much less or more in the same
    transaction; if that fails it is undone.
    """

    settled: list[Lease] = field(default_factory=list)
    unwanted: list[Lease] = field(default_factory=list)
    leased: list[tuple[Consumer, list[Delivery]]] = field(default_factory=list)
    drained: set[str] = field(default_factory=set)

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
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, statements.StoredQueue] = {}
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
            queue_row = self._place(db, queue)
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
        report = JobResults()
        for job in jobs:
            if isinstance(job, Count):
                report.answers.append((job.done, {q: self._depth(db, q) for q in job.queues}))
            elif isinstance(job, AskDrained):
                report.answers.append((job.done, statements.is_drained(db, job.queues)))
        return report

    def commit(
        self,
        db: sqlite3.Connection,
        owner: int,
        jobs: Sequence[Job],
        chores: Chores,
        moment: Moment,
        report: JobResults,
    ) -> None:
        """Do jobs and chores in one transaction.

        Args:
            report: gets the answers and the deliveries; of no use if this raises.

        Raises:
            Evicted: the owner's row is gone. Nothing was done.
            sqlite3.Error: the file failed. Nothing was done.
        """
        changes = _Changes()
        try:
            with statements.transaction(db):
                owners.require(db, owner)
                self._places = self._places or statements.stored_queues(db)
                self._do_chores(db, owner, chores, moment)
                self._transfer(db, owner, jobs, moment.now, changes, report)
                self._return_unseen(db, owner, changes)
                self._lease(db, owner, changes)
                self._finish(db, owner, jobs, report)
        except BaseException:
            changes.undo()
            raise
        self._remember(changes)
        report.leased.extend(changes.leased)

    def _remember(self, changes: _Changes) -> None:
        self._promising -= changes.drained
        for lease in changes.unwanted:
            lease.consumer.held.discard(lease)
        self._consumers = deque(c for c in self._consumers if not c.closed)

    def _do_chores(
        self, db: sqlite3.Connection, owner: int, chores: Chores, moment: Moment
    ) -> None:
        for dead in chores.dead:
            statements.take_back(db, dead)
            owners.remove(db, self._path, dead)
        if chores.due:
            statements.release_due(db, self._places, moment.now)
        if chores.renew:
            owners.renew(db, owner, moment.monotonic)
        if chores.dead or chores.due:
            self.look_again()

    def _transfer(
        self,
        db: sqlite3.Connection,
        owner: int,
        jobs: Sequence[Job],
        now: float,
        changes: _Changes,
        report: JobResults,
    ) -> None:
        rows: list[statements.Row] = []
        for job in jobs:
            if isinstance(job, Transfer):
                answers = [self._take(db, owner, part, rows, changes) for part in job.parts]
                report.answers.append((job.done, answers))
        # In this order, so that what comes in takes the pages of what goes: on a full disk there
        # are no others.
        statements.forget(db, owner, [lease.id for lease in changes.settled])
        self._put(db, owner, rows, now, changes)
        reach_all([queue for queue, *_ in rows], "published")

    def _take(
        self,
        db: sqlite3.Connection,
        owner: int,
        part: TransferPart,
        rows: list[statements.Row],
        changes: _Changes,
    ) -> Exception | None:
        """Have the rows of a part put, and its lease settled; or say why not."""
        lease = part.lease
        if lease is not None and (lease.owner != owner or lease not in lease.consumer.held):
            return DeliveryLost("the delivery is settled already, or its lease is lost")
        for queue, *_ in part.rows:
            if queue not in self._places and self._place(db, queue) is None:
                return Refused(printable(queue), "there is no queue of this name")
        rows += [new for new in part.rows if not self._is_there(db, new)]
        if lease is not None:
            lease.consumer.held.discard(lease)
            changes.settled.append(lease)
        return None

    def _is_there(self, db: sqlite3.Connection, new: statements.Row) -> bool:
        return new[0] == QUARANTINE and statements.counts_as_copy(db, self._places[QUARANTINE], new)

    def _put(
        self,
        db: sqlite3.Connection,
        owner: int,
        rows: Sequence[statements.Row],
        now: float,
        changes: _Changes,
    ) -> None:
        """Store rows, and hand over at once what a consumer of ours would get next anyway."""
        if not rows:
            return
        queues: dict[str, list[_New]] = {}
        for new in enumerate(rows, statements.add(db, rows)):
            queues.setdefault(new[1][0], []).append(new)
        for queue, fresh in queues.items():
            queue_row = self._places[queue]
            if left := self._hand_over(db, owner, queue_row, fresh, changes):
                statements.wait(db, queue_row, [id_ for id_, _ in left], now)
                self._promising.add(queue)

    def _hand_over(
        self,
        db: sqlite3.Connection,
        owner: int,
        queue_row: statements.StoredQueue,
        fresh: Sequence[_New],
        changes: _Changes,
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
            statements.hand_over(db, owner, queue_row, [id_ for id_, _ in mine])
            heads = [
                (id_, 0, message_id, headers, body) for id_, (_, message_id, headers, body) in mine
            ]
            changes.leased.append((consumer, _deliveries(consumer, owner, queue_row, heads)))
        return left

    def _return_unseen(self, db: sqlite3.Connection, owner: int, changes: _Changes) -> None:
        """Give back what was leased for consumers that have ended, and never seen by anybody."""
        changes.unwanted = [lease for c in self._consumers if c.closed for lease in _unseen(c)]
        if not changes.unwanted:
            return
        returned = [statements.Returned(u.id, u.queue, u.handouts - 1) for u in changes.unwanted]
        statements.give_back(db, owner, returned)
        self.look_again()

    def _lease(self, db: sqlite3.Connection, owner: int, changes: _Changes) -> None:
        self._consumers.rotate(-1)  # who comes first changes, so that none is starved
        for consumer in self._consumers:
            room = _room(consumer)
            if not room or consumer.queue not in self._promising - changes.drained:
                continue
            queue_row = self._place(db, consumer.queue)
            heads = [] if queue_row is None else statements.lease(db, owner, queue_row.id, room)
            if len(heads) < room:
                changes.drained.add(consumer.queue)
            if queue_row is not None and heads:
                changes.leased.append((consumer, _deliveries(consumer, owner, queue_row, heads)))

    def _finish(
        self, db: sqlite3.Connection, owner: int, jobs: Sequence[Job], report: JobResults
    ) -> None:
        for job in jobs:
            if isinstance(job, Cancel):
                report.answers.append((job.done, None))
            elif isinstance(job, Stop):
                statements.take_back(db, owner)
                owners.remove(db, self._path, owner)
                report.answers.append((job.done, None))

    def _place(self, db: sqlite3.Connection, queue: str) -> statements.StoredQueue | None:
        if queue not in self._places:
            self._places = statements.stored_queues(db)
        return self._places.get(queue)

    def _depth(self, db: sqlite3.Connection, queue: str) -> int:
        queue_row = self._place(db, queue)
        return 0 if queue_row is None else statements.depth(db, queue_row.id)


def _room(consumer: Consumer) -> int:
    return 0 if consumer.closed else consumer.prefetch - len(consumer.held)


def _unseen(consumer: Consumer) -> list[Lease]:
    return [lease for lease in consumer.held if not lease.yielded]


def _deliveries(
    consumer: Consumer,
    owner: int,
    queue_row: statements.StoredQueue,
    heads: Sequence[tuple[int, int, str, str, bytes]],
) -> list[Delivery]:
    """Return what was leased for a consumer, who holds it from now on."""
    found: list[Delivery] = []
    for id_, handouts, message_id, headers, body in heads:
        lease = Lease(consumer, owner, id_, queue_row.id, handouts + 1)
        consumer.held.add(lease)
        told = statements.told(headers)
        found.append(Delivery(queue_row.name, body, message_id, told, handouts, lease))
    return found
