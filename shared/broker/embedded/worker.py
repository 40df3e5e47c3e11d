"""The thread of the embedded broker: does the jobs that it is given, many in one transaction.

One commit, and so one sync of the disk, serves all jobs that came in while the last one ran.
Between transactions the thread looks after time: retry tiers that have run out, owners that have
died, what other processes have put in (``PRAGMA data_version``). All of the broker's dealings with
SQLite happen here, so nothing needs a lock.

An error of the file fails the jobs of its transaction and nothing else: it is rolled back, leases
stay as they were, and the file is opened anew until a write succeeds.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

from shared.broker.embedded import owners, schema, shrink, statements
from shared.broker.embedded.dispatch import Chores, Dispatcher
from shared.broker.embedded.jobs import Job, JobResults, Stop, Transfer
from shared.broker.embedded.portions import brings_more, halves, merge, portions, refuse_all
from shared.clock import Clock
from shared.disk.space import PAGE, log_pages
from shared.errors import BrokerUnavailable, ConfigError, Refused
from shared.log import printable
from shared.queues import QueueSpec
from shared.sqlite.rebuild import is_damage

POLL: Final = 0.05
"""Seconds between two looks at what other processes and the clock have done, when idle."""

PROBE: Final = 1.0
"""Seconds between two looks for owners that have died."""

REOPEN: Final = 0.5
"""Seconds between two tries to use a file that is in trouble."""

SCARCE: Final = "too little is free on its disk: nothing new is taken in"

TOGETHER: Final = 1000
"""Jobs in one transaction, roughly."""


class Worker:
    """The thread, and all that only the thread may touch.

    Args:
        path: the queue file.
        queues: the topology, declared when the file is opened.
        name: who we are, for the owners' table and the name of the thread.
        clock: the time of the retry tiers.
        patience: seconds to wait for another process's transaction.
        post: takes what came of jobs; called in the thread.
        lacking: whether room on the disk is short, so that none may lie idle in the file.
        scarce: whether there is so little that only what makes room may be written.

    Attributes:
        trouble: why the file cannot be used just now, or None; anybody may read it.
        damage: the same where it will not be used again by itself: it is damaged.
        strays: how many messages were in each queue that the topology does not name, when the file
            was opened.
    """

    def __init__(
        self,
        path: Path,
        queues: Sequence[QueueSpec],
        name: str,
        clock: Clock,
        patience: float,
        post: Callable[[JobResults], None],
        lacking: Callable[[], bool],
        scarce: Callable[[], bool],
    ) -> None:
        self.trouble: str | None = None
        self.damage: str | None = None
        self._torn: str | None = None  # it is damaged, if only where others do not look
        self.strays: Mapping[str, int] = {}
        self._path = path
        self._queues = queues
        self._name = name
        self._clock = clock
        self._patience = patience
        self._post = post
        self._lacking = lacking
        self._scarce = scarce
        self._inbox: SimpleQueue[list[Job]] = SimpleQueue()
        self._halt = threading.Event()
        self._dispatcher = Dispatcher(path, clock)
        self._db: sqlite3.Connection | None = None
        self._owner: owners.Owner | None = None
        self._version = -1
        self._evicted = False
        # When the next of each is due. These are about this thread's own work, not about mail,
        # so they are the machine's time and not the clock's.
        self._probe_at = self._due_at = self._renew_at = self._reopen_at = 0.0
        self._shrink_at = 0.0

    def start(self, opened: asyncio.Future[None]) -> None:
        """Start the thread; the future is answered when the file can be used, or never can."""
        name = f"queue {self._name}"
        context = copy_context()  # as a task would have it
        threading.Thread(
            target=context.run, args=(self._run, opened), name=name, daemon=True
        ).start()

    def submit(self, jobs: list[Job]) -> None:
        """Give the thread jobs, in this order after all earlier ones."""
        self._inbox.put(jobs)

    def halt(self) -> None:
        """Stop waiting for a file that could not be opened yet."""
        self._halt.set()

    def _run(self, opened: asyncio.Future[None]) -> None:
        running = self._open(opened)
        while running:
            running = self._turn(self._next())

    def _turn(self, jobs: list[Job]) -> bool:
        """Do jobs, or what there is to do without any; return whether to go on."""
        running = not any(isinstance(job, Stop) for job in jobs)
        try:
            results = self._work(jobs)
        except Exception as error:  # noqa: BLE001  (without this thread all would wait for ever)
            results = self._fail(jobs, error)
        if not running:
            self._release_owner()
        if results.answers or results.leased or results.evicted:
            self._post(results)
        self._shrink()
        return running

    def _open(self, opened: asyncio.Future[None]) -> bool:
        while not self._halt.is_set():
            try:
                self._connect()
            except ConfigError as error:
                self._post(JobResults([(opened, error)]))
                return False
            except BrokerUnavailable as error:
                self.trouble = str(error)
                self._halt.wait(REOPEN)
            else:
                self.trouble = None
                self._post(JobResults([(opened, None)]))
                return True
        return False

    def _connect(self) -> tuple[sqlite3.Connection, owners.Owner]:
        """Open the file where it is closed, and become an owner where we are none."""
        if self._db is not None and self._owner is not None:
            return self._db, self._owner
        db = schema.connect(self._path, self._patience)
        owner = self._owner
        try:
            with statements.transaction(db):
                statements.declare(db, self._queues)
                if owner is None:
                    self.strays = statements.strays(db, {queue.name for queue in self._queues})
                    owner = self._register(db)
        except (sqlite3.Error, OSError) as error:
            db.close()
            if owner is not None and self._owner is None:
                owner.unlock()
            raise schema.unusable(self._path, error) from error
        self._db, self._owner, self._version = db, owner, -1
        return db, owner

    def _register(self, db: sqlite3.Connection) -> owners.Owner:
        self._renew_at = time.monotonic() + owners.RENEW_EVERY
        return owners.register(db, self._path, self._name, self._clock.monotonic())

    def _next(self) -> list[Job]:
        try:
            jobs = self._inbox.get(timeout=POLL)
        except Empty:
            return []
        with suppress(Empty):
            while len(jobs) < TOGETHER:
                jobs += self._inbox.get_nowait()
        return jobs

    def _work(self, jobs: list[Job]) -> JobResults:
        if not jobs and self._db is None and time.monotonic() < self._reopen_at:
            return JobResults()
        self._dispatcher.enlist(jobs)
        results = self._do(jobs)
        results.evicted, self._evicted = self._evicted, False
        return results

    def _do(self, jobs: Sequence[Job]) -> JobResults:
        limit = log_pages(self._path, schema.LOG_PAGES) * PAGE
        more = [job for job in jobs if brings_more(job)]
        if not more or not self._scarce():
            return merge([self._portion(portion) for portion in portions(jobs, limit)])
        rest = [job for job in jobs if not brings_more(job)]
        answer = BrokerUnavailable(f"{self._path}: {SCARCE}")
        done = [self._portion(portion) for portion in portions(rest, limit)]
        return merge([refuse_all(more, answer), *done])

    def _portion(self, jobs: Sequence[Job]) -> JobResults:
        try:
            return self._commit_as_owner(jobs)
        except Exception as error:  # noqa: BLE001  (whatever it is, its callers must hear of it)
            if schema.is_a_values(error):
                return self._halve(jobs, error)
            if not schema.is_full(error):
                return self._fail(jobs, error)
            self._disconnect()
            return self._on_a_full_disk(jobs, error)

    def _halve(self, jobs: Sequence[Job], error: Exception) -> JobResults:
        """Do jobs in halves, until the one that the file does not take fails by itself."""
        parts = halves(jobs)
        if len(parts) > 1:
            return merge([self._portion(part) for part in parts])
        if not jobs or not isinstance(job := jobs[0], Transfer):
            return self._fail(jobs, error)
        try:
            self._commit_as_owner([])
        except Exception as other:  # noqa: BLE001  (then it is no fault of this job)
            return self._fail(jobs, other)
        queue = next((queue for part in job.parts for queue, *_ in part.rows), "")
        return refuse_all(jobs, Refused(printable(queue), printable(f"not stored: {error}")))

    def _on_a_full_disk(self, jobs: Sequence[Job], error: Exception) -> JobResults:
        """Do each job by itself: little fits where much does not, and may make room for more.

        The log is emptied into the file each time, for which the reserve is there: room that goes
        to anything else first is gone for good. Nothing is taken in that does not make room.
        """
        results: list[JobResults] = []
        trouble = str(schema.unavailable(self._path, error))
        for one in portions(jobs, -1):
            try:
                db, _ = self._connect()
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                if any(map(brings_more, one)):
                    results.append(refuse_all(one, BrokerUnavailable(trouble)))
                else:
                    results.append(self._commit_as_owner(one))
            except Exception as again:  # noqa: BLE001  (as for all of them)
                results.append(self._fail(one, again))
        self.trouble = trouble
        return merge(results)

    def _commit_as_owner(self, jobs: Sequence[Job]) -> JobResults:
        try:
            return self._attempt(jobs)
        except owners.Evicted:
            self._disown()
            return self._attempt(jobs)

    def _attempt(self, jobs: Sequence[Job]) -> JobResults:
        db, owner = self._connect()
        chores = self._chores(db, owner.id, idle=not jobs)
        results = self._dispatcher.count(db, jobs)
        if chores or len(results.answers) < len(jobs):
            self._dispatcher.commit(db, owner.id, jobs, chores, results)
            self.trouble, self.damage = None, self._torn
        if chores.renew:
            self._renew_at = time.monotonic() + owners.RENEW_EVERY
        return results

    def _chores(self, db: sqlite3.Connection, owner: int, *, idle: bool) -> Chores:
        now = time.monotonic()
        (version,) = db.execute("PRAGMA data_version").fetchone()
        if version != self._version:  # others have committed
            self._version = version
            self._dispatcher.look_again()
        dead: Sequence[int] = ()
        if now >= self._probe_at:
            self._probe_at = now + PROBE
            dead = owners.abandoned(db, self._path, owner, self._clock.monotonic())
        due = False
        if now >= self._due_at:
            due = statements.is_due(db, self._clock.now())
            self._due_at = now if due else now + POLL
        # A file in trouble has recovered when a write succeeds; renewing is a harmless one.
        renew = now >= self._renew_at or self.trouble is not None
        return Chores(dead, due, renew, idle and self._dispatcher.hungry(db))

    def _shrink(self) -> None:
        """Give room back to the disk if it is short of it, some after each transaction."""
        now = time.monotonic()
        if now < self._shrink_at or self._db is None:
            return
        self._shrink_at = now + PROBE
        with suppress(sqlite3.Error, OSError):  # the next transaction fails as well, and says so
            if self._lacking() and shrink.give_back(self._db):
                self._shrink_at = now

    def _disown(self) -> None:
        """Start again as a new owner: we were frozen, and others have taken our leases."""
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.unlock()
        self._disconnect()
        self._dispatcher.lose_leases()
        self._evicted = True

    def _fail(self, jobs: Sequence[Job], error: Exception) -> JobResults:
        known = isinstance(error, BrokerUnavailable | ConfigError)
        self.trouble = str(error if known else schema.unavailable(self._path, error))
        self._disconnect()
        self._reopen_at = time.monotonic() + REOPEN
        if is_damage(error) or isinstance(error, ConfigError):
            self.damage = self.trouble
        if is_damage(error):
            self._torn = self.trouble
        answer = BrokerUnavailable(self.trouble)
        answer.__cause__ = error
        return refuse_all(jobs, answer)

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with suppress(sqlite3.Error):
                db.close()

    def _release_owner(self) -> None:
        self._disconnect()
        if self._owner is not None:
            self._owner.unlock()
