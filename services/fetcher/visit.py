"""One POP3 session of the fetch story, from the listing to QUIT.

The order of its steps is the law of durability: publish and confirm, then record, then DELE, then
QUIT. Nothing is deleted that is not recorded, and nothing recorded that is not confirmed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import NamedTuple

from services.fetcher.account import Account
from services.fetcher.intake import Intake
from services.fetcher.ports import World
from services.fetcher.session import Retrieved, Session
from services.fetcher.worklist import Listed, Safe, Worklist, compare
from shared.claims import Entry
from shared.errors import ServerFault, SpoolUnavailable
from shared.faultpoint import reach
from shared.log import printable
from shared.message import Envelope, Fetched, Hop, Raw


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is done at once.

    Attributes:
        chunk_messages: messages that are published and recorded together, at the most.
        chunk_bytes: bytes of inline messages in a chunk, at about which it is closed.
        chunks_underway: chunks that wait for their confirms while more is retrieved.
        session_messages: messages after which a session that deletes quits, so that its deletions
            count; the next session goes on.
        session_seconds: the same as a time.
    """

    chunk_messages: int = 128
    chunk_bytes: int = 1024 * 1024
    chunks_underway: int = 4
    session_messages: int = 2_000
    session_seconds: float = 120.0


class Taken(NamedTuple):
    """A message of this session.

    Attributes:
        at: when it had come, in seconds since 1970 (UTC).
    """

    listed: Listed
    id: str
    raw: Raw
    at: float


class Visit:
    """One session with one maildrop.

    Args:
        account: whose maildrop it is.
        session: logged on.
        world: ledger, outbox and the rest.
        limits: how much is done at once.
    """

    def __init__(self, account: Account, session: Session, world: World, limits: Limits) -> None:
        self._account = account
        self._server = account.server
        self._session = session
        self._world = world
        self._limits = limits
        self._intake = Intake(account.name, world.spool, world.inline_limit, self._is_new)
        self._ids: set[str] = set()
        self._chunk: list[Taken] = []
        self._chunk_bytes = 0
        self._commits: list[asyncio.Task[None]] = []
        self._remove: list[Safe] = []
        self.found = 0
        self.fetched = 0
        self.failure: ServerFault | SpoolUnavailable | None = None
        """Why a message was left where it is, None if none was; the others were taken."""

    async def run(self) -> bool:
        """Do what there is to do, and quit; return whether something is left for another session.

        Raises:
            ServerFault: the server failed; what had come whole is published and recorded.
            SpoolUnavailable: a large message could not be kept; likewise.
            BrokerUnavailable: a message could not be published; it stays on the server.
        """
        work = await self._worklist()
        self.found = work.found
        self._remove.extend(work.remove)
        try:
            left = await self._fetch(work.fetch)
            await self._all_committed()
        except (ServerFault, SpoolUnavailable):
            # What came whole is kept. On a line that always breaks, it is how we get on at all.
            await self._all_committed()
            raise
        finally:
            await self._cancel()
        await self._delete()
        if work.gone:
            await self._world.ledger.forget(self._account.name, work.gone)
        return left

    async def _worklist(self) -> Worklist:
        # Both at once: of a large maildrop either takes a second.
        listing, known = await asyncio.gather(
            self._session.uidl(), self._world.ledger.known(self._account.name)
        )
        if listing is None:
            # No UIDL: every message is fetched, and its identity tells whether we have it.
            sizes = await self._session.sizes()
            return Worklist(len(sizes), tuple(Listed(n, None) for n in sizes), (), ())
        return compare(listing, known, self._account.keep, self._world.clock.now())

    async def _fetch(self, messages: Sequence[Listed]) -> bool:
        """Retrieve messages; return whether some are left for another session."""
        by_number = {message.number: message for message in messages}
        retrieved = 0
        numbers = self._until_enough(list(by_number))
        async with aclosing(self._session.retrieve(numbers)) as arriving:
            async for message in arriving:
                retrieved += 1
                if message.refused is not None:
                    self._refused(message, message.refused)
                else:
                    await self._take(by_number[message.number], message)
        return retrieved < len(by_number)

    def _until_enough(self, numbers: Sequence[int]) -> Iterator[int]:
        """Yield messages to be asked for, until a session that deletes has to quit."""
        if self._account.keep == math.inf:
            yield from numbers
            return
        clock, limits = self._world.clock, self._limits
        until = clock.monotonic() + limits.session_seconds
        for number in numbers[: limits.session_messages]:
            if clock.monotonic() > until:
                return
            yield number

    def _refused(self, retrieved: Retrieved, reply: str) -> None:
        # One message that the server will not hand over keeps none of the others.
        said = f"message {retrieved.number} is refused: {printable(reply)}"
        self.failure = ServerFault(self._account.server, said)
        self._world.journal.trouble(
            "message refused", account=self._account.name, number=retrieved.number, reply=reply
        )

    async def _take(self, listed: Listed, retrieved: Retrieved) -> None:
        found = None if retrieved.whole is None else self._intake.at_hand(retrieved.whole)
        if found is None:
            try:
                found = await self._intake.take(retrieved.chunks())
            except SpoolUnavailable as error:
                # Nor does a large one that there is no room for.
                self.failure = error
                self._world.journal.spool_failed(error, self._account.name)
                return
        id_, raw = found
        self._chunk.append(Taken(listed, id_, raw, self._world.clock.now()))
        self._chunk_bytes += raw.size
        limits = self._limits
        if len(self._chunk) >= limits.chunk_messages or self._chunk_bytes >= limits.chunk_bytes:
            await self._flush()
            await self._committed(limits.chunks_underway)

    async def _is_new(self, id_: str) -> bool:
        return id_ not in self._ids and not await self._world.ledger.seen([id_])

    async def _flush(self) -> None:
        """Start to commit what was taken, after all that was taken before it."""
        chunk, self._chunk, self._chunk_bytes = self._chunk, [], 0
        if not chunk:
            return
        before = self._commits[-1] if self._commits else None
        first_here = [t for t in chunk if t.id not in self._ids]
        self._ids.update([t.id for t in first_here])
        self._commits.append(asyncio.create_task(self._commit(chunk, first_here, before)))

    async def _commit(
        self, chunk: Sequence[Taken], fresh: Sequence[Taken], before: asyncio.Task[None] | None
    ) -> None:
        seen = await self._world.ledger.seen([t.id for t in fresh])
        new = {t.id: t for t in fresh if t.id not in seen}
        if new:
            await self._world.outbox.put(*[self._envelope(t) for t in new.values()])
        # In order: the ledger must not know a second copy before the first one is published.
        if before is not None:
            await before
        reach("fetcher", "before-ledger")
        entries = [Entry(t.listed.uidl, t.id) for t in chunk]
        await self._world.ledger.record(self._account.name, entries)
        reach("fetcher", "after-ledger")
        for taken in chunk:
            self._recorded(taken, new.get(taken.id) is taken)

    def _envelope(self, taken: Taken) -> Envelope[Fetched]:
        payload = Fetched(taken.raw, taken.listed.uidl or "", self._server)
        trail = (Hop("fetcher", taken.at),)
        return Envelope(taken.id, self._account.name, payload, taken.at, trail=trail)

    def _recorded(self, taken: Taken, published: bool) -> None:
        journal, name, id_ = self._world.journal, self._account.name, taken.id
        if published:
            self.fetched += 1
            journal.fetched(id_, name, taken.listed.uidl or "", taken.raw.size)
        else:
            journal.suppressed(id_, name, "the maildrop holds it again")
        if self._account.keep == 0:
            self._remove.append(Safe(taken.listed.number, taken.listed.uidl, id_))

    async def _all_committed(self) -> None:
        await self._flush()
        await self._committed(0)

    async def _committed(self, underway: int) -> None:
        """Wait until no more than so many chunks are on their way."""
        while len(self._commits) > underway:
            await self._commits[0]
            del self._commits[0]

    async def _cancel(self) -> None:
        for task in self._commits:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
        self._commits.clear()

    async def _delete(self) -> None:
        """Delete what is safe, and quit: only then do deletions count (RFC 1939 section 6)."""
        accepted = set(await self._session.quit([safe.number for safe in self._remove]))
        name = self._account.name
        removed = [safe for safe in self._remove if safe.number in accepted]
        uidls = [safe.uidl for safe in removed if safe.uidl is not None]
        if uidls:
            await self._world.ledger.forget(name, uidls)
        for safe in removed:
            self._world.journal.removed(safe.id, name, safe.uidl or "")
