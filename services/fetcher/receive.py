"""Takes one message off the wire: tells what it is, and puts it into an envelope or into the spool.

A message larger than the inline limit is streamed to the spool and never held as a whole.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from services.fetcher.identity import Identity, head_hash, identify_with_head
from services.fetcher.interfaces import FetcherContext
from shared.errors import NoRoom
from shared.failpoint import reach
from shared.message import Inline, Raw, Spooled

_NOTHING: Final = 2
"""Bytes up to which LIST says that a message is empty: a line end."""


class ReceivedMessage(NamedTuple):
    """A message that has come whole.

    Attributes:
        id: its identity.
        head: the hash of its header block.
        raw: where its bytes are.
        lines: how many line ends it has, if it is in the spool.
        loose: its looser fingerprint, None where it has none.
    """

    id: str
    head: str
    raw: Raw
    lines: int = 0
    loose: int | None = None

    @property
    def blank(self) -> bool:
        """Whether it is nothing at all, or nothing but blank lines."""
        return isinstance(self.raw, Inline) and not self.raw.data.strip()

    def fits(self, size: int | None) -> bool:
        """Return whether it is as long as LIST said, counting CRLF as two bytes or as one."""
        if size is None or self.raw.size == size:
            return size is not None
        lines = self.raw.data.count(b"\n") if isinstance(self.raw, Inline) else self.lines
        return self.raw.size - lines == size


class MessageReceiver:
    """Takes messages of one account.

    Args:
        account: its name.
        context: the spool for the large ones, and the rest.
        is_new: tells of an id, the hash of a header block and a size whether the message is to be
            kept: only then a blob is.
    """

    def __init__(
        self,
        account: str,
        context: FetcherContext,
        is_new: Callable[[str, str, int], Awaitable[bool]],
    ) -> None:
        self._account = account
        self._context = context
        self._inline_limit = context.inline_limit
        self._is_new = is_new

    def at_hand(self, whole: bytes) -> ReceivedMessage | None:
        """Return what ``take`` would of a message that is here already; None if it is large."""
        if len(whole) > self._inline_limit:
            return None
        id_, head, loose = identify_with_head(self._account, whole)
        return ReceivedMessage(id_, head, Inline(whole), loose=loose)

    def less_a_status_line(self, found: ReceivedMessage, size: int | None) -> ReceivedMessage:
        """Return a message less a second status line before it, if so it has the listed size.

        Some servers say ``+OK``, and then ``+OK 123 octets``. One in the spool stays as it is.
        """
        data = found.raw.data if isinstance(found.raw, Inline) else b""
        line, end, rest = data.partition(b"\n")
        if not (end and line.startswith(b"+OK")):
            return found
        less = self.at_hand(rest)
        return less if less is not None and less.fits(size) else found

    async def take(self, chunks: AsyncIterator[bytes]) -> ReceivedMessage:
        """Return what a message is, and where its bytes are.

        Args:
            chunks: the message as it comes.

        Raises:
            ServerFault: it broke off.
            SpoolUnavailable: it is large, and the spool does not take it.
            NoRoom: it is large, and the disk is filling up.
        """
        held: list[bytes] = []
        size = 0
        async for chunk in chunks:
            held.append(chunk)
            size += len(chunk)
            if size > self._inline_limit:
                return await self._take_large(held, chunks)
        raw = held[0] if len(held) == 1 else b"".join(held)
        id_, head, loose = identify_with_head(self._account, raw)
        return ReceivedMessage(id_, head, Inline(raw), loose=loose)

    async def _take_large(
        self, held: Sequence[bytes], rest: AsyncIterator[bytes]
    ) -> ReceivedMessage:
        identity = Identity(self._account)
        blob = await self._context.spool.create()
        size = lines = 0
        try:
            for chunk in held:
                identity.feed(chunk)
                size += len(chunk)
                lines += chunk.count(b"\n")
                await blob.write(chunk)
            reach("fetcher", "retrieving")
            async for chunk in rest:
                self._require_room()
                identity.feed(chunk)
                size += len(chunk)
                lines += chunk.count(b"\n")
                await blob.write(chunk)
            id_, head = identity.id(), head_hash(identity.head)
            # The earlier copy's blob may be gone with its delivery: do not leave one behind.
            if await self._is_new(id_, head, size):
                await blob.commit(id_)
                reach("fetcher", "spooled")
            else:
                await blob.abort()
        except BaseException:
            await blob.abort()
            raise
        return ReceivedMessage(
            id_, head, Spooled(id_, size, identity.head), lines, identity.loose()
        )

    def _require_room(self) -> None:
        if (lacking := self._context.lacking(0)) is not None:
            raise NoRoom(lacking)


def too_short(size: int, said: int | None) -> bool:
    """Return whether a message is nothing, or less than half of what LIST says of it."""
    return said is not None and said > _NOTHING and 2 * size < said
