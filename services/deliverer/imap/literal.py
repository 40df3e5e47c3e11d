"""A message as the literal of an APPEND: its length before it is sent, and its bytes in chunks.

A literal begins with its length (RFC 3501 section 4.3), and line ends change the length of a
message. So one that lies in the spool is read twice: once to measure it, once to send it. It is
never held whole, and a spool that fails, or a blob that is missing, is known before the server has
heard of the message. Line ends are as over SMTP (``line_ends``).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.deliverer.courier import MailContent
from services.deliverer.imap.trace_date import HEADER, taken_at
from services.deliverer.line_ends import Crlf, crlf

_BLANK: Final = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Literal:
    """A message, measured.

    Attributes:
        content: the message.
        size: bytes that are sent.
        data: these, where the message is at hand; None where it has to be read.
        taken: when the provider took it; None where nobody says.
        nul: it has NUL in it, which a literal may not have (RFC 3501 section 9, ``CHAR8``).
        utf8: its header has more than ASCII in it, and is UTF-8.
    """

    content: MailContent
    size: int
    data: bytes | None
    taken: datetime | None
    nul: bool
    utf8: bool

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes that are sent; raise as ``MailContent.chunks`` does."""
        if self.data is not None:
            yield self.data
            return
        async for chunk in _converted(self.content):
            yield chunk


async def measured(content: MailContent) -> Literal:
    """Return a message, measured.

    Raises:
        SpoolMissing: as ``MailContent.chunks`` does.
        SpoolUnavailable: likewise.
    """
    if content.data is not None:
        data = crlf(content.prefix + content.data)
        header = data.partition(_BLANK)[0]
        taken = taken_at(content.prefix, content.data[:HEADER])
        return Literal(content, len(data), data, taken, b"\0" in data, _has_utf8(header))
    size, nul, head = 0, False, bytearray()
    async for chunk in _converted(content):
        size += len(chunk)
        nul = nul or b"\0" in chunk
        if len(head) < HEADER:
            head += chunk[:HEADER]
    header = bytes(head).partition(_BLANK)[0]
    below = bytes(head[len(crlf(content.prefix)) :])
    taken = taken_at(content.prefix, below)
    return Literal(content, size, None, taken, nul, _has_utf8(header))


async def _converted(content: MailContent) -> AsyncGenerator[bytes, None]:
    convert = Crlf()
    yield convert.feed(content.prefix)
    async for chunk in content.chunks():
        yield convert.feed(chunk)
    yield convert.end()


def _has_utf8(header: bytes) -> bool:
    if header.isascii():
        return False
    try:
        header.decode()
    except UnicodeDecodeError:
        return False
    return True
