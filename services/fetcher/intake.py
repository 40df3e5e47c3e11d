"""Takes one message off the wire: tells its id, and puts it into an envelope or into the spool.

A message larger than the inline limit is streamed to the spool and never held as a whole.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from services.fetcher.identity import Identity, identify
from services.fetcher.ports import Spool
from shared.faultpoint import reach
from shared.message import Inline, Raw, Spooled


class Intake:
    """Takes messages of one account.

    Args:
        account: its name.
        spool: for the large ones.
        inline_limit: bytes up to which a message travels in its envelope.
        is_new: tells whether an id has not been seen; a blob is kept only for a new one.
    """

    def __init__(
        self,
        account: str,
        spool: Spool,
        inline_limit: int,
        is_new: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._account = account
        self._spool = spool
        self._inline_limit = inline_limit
        self._is_new = is_new

    def at_hand(self, whole: bytes) -> tuple[str, Raw] | None:
        """Return what ``take`` would of a message that is here already; None if it is large."""
        if len(whole) > self._inline_limit:
            return None
        return identify(self._account, whole), Inline(whole)

    async def take(self, chunks: AsyncIterator[bytes]) -> tuple[str, Raw]:
        """Return the id of a message, and where its bytes are.

        Args:
            chunks: the message as it comes.

        Raises:
            ServerFault: it broke off.
            SpoolUnavailable: it is large, and the spool does not take it.
        """
        held: list[bytes] = []
        size = 0
        async for chunk in chunks:
            held.append(chunk)
            size += len(chunk)
            if size > self._inline_limit:
                return await self._take_large(held, chunks)
        raw = held[0] if len(held) == 1 else b"".join(held)
        return identify(self._account, raw), Inline(raw)

    async def _take_large(
        self, held: Sequence[bytes], rest: AsyncIterator[bytes]
    ) -> tuple[str, Raw]:
        identity = Identity(self._account)
        blob = await self._spool.create()
        size = 0
        try:
            for chunk in held:
                identity.feed(chunk)
                size += len(chunk)
                await blob.write(chunk)
            reach("fetcher", "retrieving")
            async for chunk in rest:
                identity.feed(chunk)
                size += len(chunk)
                await blob.write(chunk)
            id_ = identity.id()
            # The earlier copy's blob may be gone with its delivery: do not leave one behind.
            if await self._is_new(id_):
                await blob.commit(id_)
                reach("fetcher", "spooled")
            else:
                await blob.abort()
        except BaseException:
            await blob.abort()
            raise
        return id_, Spooled(id_, size, identity.head)
