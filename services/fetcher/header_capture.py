"""Keeps the header block of a large message while it is streamed into the spool.

It travels in the envelope, so that the later stages need not read the spool for it. Above a header
there may be blank lines, mbox lines and a BOM: they are kept with it, and do not end it.
"""

from __future__ import annotations

import re
from typing import Final

from shared.message import HEADER_LIMIT

_STRAYS: Final = re.compile(rb"(?:\xef\xbb\xbf)?(?:\r*\n|>?From [^\n]*\n)*")


class HeaderCapture:
    """Takes a message in pieces and keeps its header block, at most ``HEADER_LIMIT`` bytes."""

    def __init__(self) -> None:
        self._seen = bytearray()
        self._whole = False

    def feed(self, chunk: bytes) -> None:
        """Take the next piece."""
        if self._whole:
            return
        searched = max(0, len(self._seen) - 2)
        self._seen += chunk[: HEADER_LIMIT - len(self._seen)]
        above = _STRAYS.match(self._seen)
        end = header_end(self._seen, max(searched, above.end() if above else 0))
        if end is not None:
            del self._seen[end:]
        self._whole = end is not None or len(self._seen) >= HEADER_LIMIT

    def __bytes__(self) -> bytes:
        """Return what there is of the header block, with the blank line below it."""
        return bytes(self._seen)


def header_end(data: bytes | bytearray, start: int = 0) -> int | None:
    """Return where the first blank line ends that begins at or after ``start``, None without one.

    What this returns, ids depend on. It counts as blank after CRLF and after a bare line feed.
    """
    # The two ways to end a line and have an empty one after it; a regular expression for both at
    # once goes byte by byte.
    crlf = data.find(b"\n\r\n", start)
    bare = data.find(b"\n\n", start, len(data) if crlf < 0 else crlf + 1)
    if bare >= 0:
        return bare + 2
    return crlf + 3 if crlf >= 0 else None
