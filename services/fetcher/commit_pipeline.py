"""Publishes and records what was taken, in chunks, while more of it comes.

A message is published and confirmed before its UIDL is recorded, and recorded before anybody hears
of it. Chunks are published together and recorded one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from services.fetcher.account import Account
from services.fetcher.interfaces import FetcherContext
from services.fetcher.receive import ReceivedMessage
from services.fetcher.redownload import RedownloadBreaker
from services.fetcher.worklist import ListedMessage
from shared.failpoint import reach
from shared.ledger import LedgerEntry
from shared.message import Envelope, Fetched, Hop, Inline

SINCE_KEPT: Final = 10_000
"""Messages of a session of which it is known without the ledger since when they are here: more
than can be on their way."""

_AGAIN: Final = "the maildrop holds it again"


class TakenMessage(NamedTuple):
    """A message of this session.

    Attributes:
        at: when it had come, in seconds since 1970 (UTC).
    """

    listed: ListedMessage
    found: ReceivedMessage
    at: float


class CommitPipeline:
    """What is on its way to be published and recorded, of one session.

    Args:
        account: whose messages they are.
        context: ledger, publisher and the rest.
        recorded: told of each message that is recorded, and since when it is known to us.
        delivered: tells of a message, and the hash of its header block, why it counts as delivered
            already; None where it does not.
        breaker: judges what is new before it is published.
    """

    def __init__(
        self,
        account: Account,
        context: FetcherContext,
        recorded: Callable[[TakenMessage, float], None],
        delivered: Callable[[ListedMessage, str], str | None],
        breaker: RedownloadBreaker,
    ) -> None:
        self._account = account
        self._server = account.server
        self._context = context
        self._recorded = recorded
        self._delivered = delivered
        self._breaker = breaker
        self._held_bytes = 0
        self._since: dict[str, float] = {}
        self._chunk: list[TakenMessage] = []
        self._chunk_bytes = 0
        self._underway: list[asyncio.Task[None]] = []
        self.published = 0

    async def is_new(self, id_: str) -> bool:
        """Return whether a message has not been here before."""
        return id_ not in self._since and not await self._context.ledger.seen([id_])

    async def add(self, taken: TakenMessage) -> None:
        """Take a message; wait where too many are on their way."""
        self._chunk.append(taken)
        self._chunk_bytes += taken.found.raw.size
        if isinstance(taken.found.raw, Inline):
            self._held_bytes += taken.found.raw.size
        limits = self._context.limits
        full = len(self._chunk) >= limits.chunk_messages or self._chunk_bytes >= limits.chunk_bytes
        if self._breaker.active:
            full = self._breaker.is_full(len(self._chunk), self._held_bytes)
        if full:
            self._flush()
            await self._wait_committed(limits.chunks_underway)

    async def commit_all(self) -> None:
        """Publish and record what was taken; return when all of it is recorded."""
        self._flush()
        await self._wait_committed(0)

    async def cancel(self) -> None:
        """Give up what is on its way."""
        for task in self._underway:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
        self._underway.clear()

    def _flush(self) -> None:
        """Start to commit what was taken, after all that was taken before it."""
        chunk, self._chunk, self._chunk_bytes, self._held_bytes = self._chunk, [], 0, 0
        if not chunk:
            return
        before = self._underway[-1] if self._underway else None
        first_here = [t for t in chunk if t.found.id not in self._since]
        for taken in chunk:  # the last ones are the newest, also of those seen again
            self._since[taken.found.id] = self._since.pop(taken.found.id, taken.at)
        while len(self._since) > SINCE_KEPT:
            del self._since[next(iter(self._since))]
        self._underway.append(asyncio.create_task(self._commit(chunk, first_here, before)))

    async def _wait_committed(self, underway: int) -> None:
        """Wait until no more than so many chunks are on their way."""
        while len(self._underway) > underway:
            await self._underway[0]
            del self._underway[0]

    async def _commit(
        self,
        chunk: Sequence[TakenMessage],
        fresh: Sequence[TakenMessage],
        before: asyncio.Task[None] | None,
    ) -> None:
        seen = await self._context.ledger.seen([t.found.id for t in fresh])
        self._since.update(seen)
        new = {t.found.id: t for t in fresh if t.found.id not in seen}
        adopted = [
            id_ for id_, t in new.items() if self._delivered(t.listed, t.found.head) is not None
        ]
        for id_ in adopted:
            del new[id_]
        if self._breaker.active:
            if before is not None:
                await before
            loose = [taken.found.loose for taken in new.values()]
            await self._breaker.judge(loose, len(chunk) - len(new))
        if new:
            await self._context.publisher.put(*[self._envelope(t) for t in new.values()])
        if adopted:
            await self._context.ledger.count_as_delivered(adopted)
        # In order: the ledger must not know a second copy before the first one is published.
        if before is not None:
            await before
        reach("fetcher", "before-ledger")
        unknown = await self._context.ledger.record(self._account.name, [_entry(t) for t in chunk])
        reach("fetcher", "after-ledger")
        for taken in chunk:
            if not unknown or _entry(taken) not in unknown:
                self._tell(taken, new.get(taken.found.id) is taken)

    def _tell(self, taken: TakenMessage, new: bool) -> None:
        journal, name, id_ = self._context.journal, self._account.name, taken.found.id
        if new:
            self.published += 1
            journal.fetched(id_, name, taken.listed.uidl or "", taken.found.raw.size)
        else:
            why = self._delivered(taken.listed, taken.found.head)
            again = _AGAIN if why is None else f"it counts as delivered: {why}"
            journal.suppressed(id_, name, again)
        self._recorded(taken, self._since[id_])

    def _envelope(self, taken: TakenMessage) -> Envelope[Fetched]:
        payload = Fetched(taken.found.raw, taken.listed.uidl or "", self._server)
        trail = (Hop("fetcher", taken.at),)
        return Envelope(taken.found.id, self._account.name, payload, taken.at, trail=trail)


def _entry(taken: TakenMessage) -> LedgerEntry:
    return LedgerEntry(
        taken.listed.uidl, taken.found.id, taken.listed.size, taken.found.head, taken.found.loose
    )
