"""The workers of a courier: one task for each connection, which sends what waits over it.

Plain bookkeeping: what each of them has in hand, and how many do what. It belongs to one event
loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic

from services.deliverer.servers.protocol import S
from services.deliverer.servers.waiting_mail import Submission, WaitingMail


@dataclass(slots=True, eq=False)
class ServerWorker(Generic[S]):
    """What a worker has in hand.

    Attributes:
        session: over which it sends, None while there is none.
        sending: what is being sent together, nothing while nothing is.
        opening_since: since when a connection is being opened (monotonic), None if none is.
    """

    session: S | None = None
    sending: Sequence[WaitingMail] = ()
    opening_since: float | None = None

    def cut_connection(self) -> None:
        """Cut its connection, with nothing more sent."""
        if self.session is not None:
            self.session.connection.abort()
        self.session, self.sending = None, ()


class Workers(Generic[S]):
    """The workers of one courier."""

    def __init__(self) -> None:
        self._workers: dict[asyncio.Task[None], ServerWorker[S]] = {}

    def __len__(self) -> int:
        return len(self._workers)

    def __iter__(self) -> Iterator[ServerWorker[S]]:
        return iter(self._workers.values())

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """The tasks of all of them."""
        return list(self._workers)

    @property
    def connected(self) -> int:
        """Over how many connections mail can be sent."""
        return sum(1 for worker in self if worker.session is not None)

    @property
    def sending(self) -> int:
        """How many are sending."""
        return sum(1 for worker in self if worker.sending)

    @property
    def opening(self) -> int:
        """How many connections are being opened."""
        return sum(1 for worker in self if worker.opening_since is not None)

    def start(
        self,
        work: Callable[[ServerWorker[S]], Coroutine[None, None, None]],
        ended: Callable[[asyncio.Task[None]], None],
    ) -> None:
        """Start another one.

        Args:
            work: what it does.
            ended: is called when it has ended, to ``remove`` it.
        """
        worker: ServerWorker[S] = ServerWorker()
        task = asyncio.create_task(work(worker))
        self._workers[task] = worker
        task.add_done_callback(ended)

    def remove(self, task: asyncio.Task[None]) -> ServerWorker[S]:
        """Forget one that has ended; return what it had in hand."""
        return self._workers.pop(task)

    def sending_of(self, submission: Submission) -> list[asyncio.Task[None]]:
        """Return those that are sending what was given together."""
        return [
            task
            for task, worker in self._workers.items()
            if worker.sending and worker.sending[0].submission is submission
        ]

    def opened_in_vain_since(self) -> float | None:
        """Return since when all of them have been opening connections; None if one is not."""
        since = [worker.opening_since for worker in self if worker.opening_since is not None]
        return min(since) if since and len(since) == len(self._workers) else None

    def opening_before(self, moment: float) -> Iterator[tuple[asyncio.Task[None], float]]:
        """Yield those that opened a connection at a moment or before, and are still at it."""
        for task, worker in self._workers.items():
            if worker.opening_since is not None and worker.opening_since <= moment:
                yield task, worker.opening_since
