"""The courier for mail servers, over SMTP or LMTP.

Letters wait in one line, and for each connection a task takes the first of them, again and again:
so none waits for another, but for a connection. Addresses that could end their protocol line are
refused here and never sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from services.deliverer.addresses import refusals
from services.deliverer.conversation import Conversation
from services.deliverer.courier import Delivered, Post, Tell
from services.deliverer.line import Line
from services.deliverer.pool import Pool
from services.deliverer.session import Target
from services.deliverer.transaction import Following
from shared.clock import Clock
from shared.errors import Unreachable

BUSY_SECONDS: Final = 30.0
"""How long to wait for a connection to become free. A server that hangs on all of them for so long
is as good as down; waiting on would hold up mail for other destinations."""


@dataclass(slots=True, eq=False)
class _Batch:
    """Letters that were given together.

    Attributes:
        tell: told what became of each.
        left: how many were not told yet.
        over: done when all are told.
    """

    tell: Tell
    left: int
    over: asyncio.Future[None]


class _Waiting(NamedTuple):
    """A letter in the line."""

    post: Post
    place: int
    batch: _Batch

    def tell(self, delivered: Delivered) -> None:
        batch = self.batch
        batch.tell(self.place, delivered)
        batch.left -= 1
        if not batch.left and not batch.over.done():
            batch.over.set_result(None)


@dataclass(slots=True)
class _Bound:
    """Finds the letter that goes over the same connection next: of the same batch.

    Only letters that were given together bind each other, so that they are withdrawn together.

    Attributes:
        next: that letter, once there is one.
    """

    line: Line[_Waiting]
    batch: _Batch
    next: _Waiting | None = None

    def following(self, fit: Callable[[Post], bool]) -> Post | None:
        """Take the first in line, if it can go over this connection as it is."""
        self.next = self.line.next_if(lambda waiting: self._can_follow(waiting, fit))
        return None if self.next is None else self.next.post

    def _can_follow(self, waiting: _Waiting, fit: Callable[[Post], bool]) -> bool:
        post = waiting.post
        return waiting.batch is self.batch and not refusals(post.recipients) and fit(post)


class SmtpCourier:
    """Delivers to one SMTP or LMTP server.

    Args:
        target: the server.
        clock: the time.
        connections: how many there may be at once.
    """

    def __init__(self, target: Target, clock: Clock, connections: int = 8) -> None:
        self._server = target.server
        self._busy = BUSY_SECONDS * target.patience
        self._pool = Pool(target, clock)
        self._limit = connections
        self._line: Line[_Waiting] = Line(self._busy, self._late)
        self._workers: dict[asyncio.Task[None], _Waiting | None] = {}  # and what each is at

    async def deliver(self, posts: Sequence[Post], tell: Tell) -> None:
        """Deliver letters, as many at the same time as there are connections."""
        if not posts:
            return
        batch = _Batch(tell, len(posts), asyncio.get_running_loop().create_future())
        self._line.join(_Waiting(post, place, batch) for place, post in enumerate(posts))
        del posts  # each is let go of when it was delivered
        self._staff()
        try:
            await batch.over
        except BaseException:
            await self._withdraw(batch)
            raise

    def _staff(self) -> None:
        """See that there are workers for those who wait, as many as there may be."""
        for _ in range(min(len(self._line), self._limit - len(self._workers))):
            worker = asyncio.create_task(self._work())
            self._workers[worker] = None
            worker.add_done_callback(self._left)

    async def _work(self) -> None:
        """Deliver the first in line until nobody waits."""
        me = asyncio.current_task()
        conversation = Conversation(self._pool)
        waiting = self._line.next()
        while me is not None and waiting is not None:
            self._workers[me] = waiting
            bound = _Bound(self._line, waiting.batch)
            waiting.tell(await self._deliver(conversation, waiting.post, bound.following))
            waiting = bound.next or self._line.next()

    def _left(self, worker: asyncio.Task[None]) -> None:
        was_at = self._workers.pop(worker)
        error = None if worker.cancelled() else worker.exception()
        if error is not None and was_at is not None and not was_at.batch.over.done():
            was_at.batch.over.set_exception(error)
        self._staff()  # somebody may have come in the meantime

    async def _withdraw(self, batch: _Batch) -> None:
        """Take letters back: from the line, and out of the hands of whoever is at them."""
        self._line.leave(lambda waiting: waiting.batch is batch)
        busy = [w for w, at in self._workers.items() if at is not None and at.batch is batch]
        for worker in busy:
            worker.cancel()
        if busy:
            await asyncio.wait(busy)

    def _late(self, waiting: _Waiting) -> None:
        why = f"none of {self._limit} connections became free for {self._busy:g} seconds"
        waiting.tell(Unreachable(self._server, why))

    async def _deliver(
        self, conversation: Conversation, post: Post, following: Following
    ) -> Delivered:
        refused = refusals(post.recipients)
        if refused:
            rest = [recipient for recipient in post.recipients if recipient not in refused]
            post = post._replace(recipients=rest)
        try:
            if not post.recipients:
                return refused
            return refused | await conversation.transact(post, following)
        except Exception as error:  # noqa: BLE001  (that of one letter; whose fault, its type says)
            return error

    async def probe(self, recipients: Sequence[str]) -> None:
        """Connect, begin TLS and log in as for a delivery; ``close`` says QUIT."""
        self._pool.take_back(await self._pool.lend())

    async def close(self) -> None:
        """Take leave of the server."""
        await self._pool.close()
