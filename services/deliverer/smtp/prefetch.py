"""Begins to read a message from the spool before its server hears of it.

What is missing from the spool, or is not as long as it was, would else end a session in the middle
of the message: the server has its envelope and our own header lines then, and some servers store
that. What vanishes while it is read still costs the connection, before the final dot.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

from services.deliverer.courier import MailObject


@asynccontextmanager
async def prefetched(mail_object: MailObject) -> AsyncGenerator[MailObject, None]:
    """Yield a mail object of which the first bytes have been read, so that the spool was reached.

    Raises:
        SpoolMissing: as ``MailContent.chunks`` does; nobody has heard of the message.
        SpoolUnavailable: likewise.
    """
    content = mail_object.content
    async with aclosing(content.chunks()) as chunks:
        first = await anext(chunks, b"")
        rest = [_from(first, chunks)]

        def reading() -> AsyncGenerator[bytes, None]:
            """Go on from there, the first time; then begin anew."""
            return rest.pop() if rest else content.chunks()

        yield mail_object._replace(content=content._replace(chunks=reading))


async def _from(first: bytes, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield first
    async for chunk in chunks:
        yield chunk
