"""A letter that is not at hand is begun to be read before its server hears of it.

What is missing from the spool, or is not as long as it was, would else cut off a session in the
middle of the message: a server has been told of it then, has our own header lines, and some store
that. What vanishes while it is read still cuts the connection, before the final dot.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

from services.deliverer.courier import MailObject


@asynccontextmanager
async def prefetched(mail_object: MailObject) -> AsyncGenerator[MailObject, None]:
    """Yield a letter of which the first bytes have been read, and so its spool was reached.

    Raises:
        SpoolMissing: as ``Letter.chunks`` does; nobody has heard of the letter.
        SpoolUnavailable: likewise.
    """
    letter = mail_object.content
    async with aclosing(letter.chunks()) as chunks:
        first = await anext(chunks, b"")
        rest = [_from(first, chunks)]

        def reading() -> AsyncGenerator[bytes, None]:
            """Go on from there; who wants it once more opens it anew."""
            return rest.pop() if rest else letter.chunks()

        yield mail_object._replace(content=letter._replace(chunks=reading))


async def _from(first: bytes, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield first
    async for chunk in chunks:
        yield chunk
