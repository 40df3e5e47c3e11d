"""A message as it comes in answer to RETR: whole where it is at hand, else piece by piece."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

from services.fetcher.pop3.client import Pop3Client
from shared.errors import TooLarge


class ResponsePieces:
    """Iterates over the multi-line response that the exchange is in the middle of.

    Args:
        client: in the middle of it.
        done: whether there is nothing of it.
        most: bytes after which no more is read, nor skipped: it may have no end.
    """

    __slots__ = ("_client", "_come", "_done", "_most")

    def __init__(self, client: Pop3Client, *, done: bool, most: float = math.inf) -> None:
        self._client = client
        self._done = done
        self._most = most
        self._come = 0

    def __aiter__(self) -> ResponsePieces:
        return self

    async def __anext__(self) -> bytes:
        if self._done:
            raise StopAsyncIteration
        data = await self._next()
        if not data:
            raise StopAsyncIteration
        return data

    async def skip(self) -> None:
        """Read on to the end of the response."""
        while not self._done:
            await self._next()

    async def _next(self) -> bytes:
        piece = await self._client.piece()
        self._done = piece.last
        self._come += len(piece.data)
        if self._come > self._most:
            raise too_large(self._client.server, self._most)
        return piece.data


def too_large(server: str, most: float) -> TooLarge:
    """Return the error about a message of which more has come than this."""
    said = f"more has come of it than max_size ({most} bytes), whatever LIST says"
    return TooLarge(server, f"{said}; it is left there for a day")


async def _at_hand(whole: bytes) -> AsyncGenerator[bytes, None]:
    if whole:
        yield whole


class Retrieval(NamedTuple):
    """The answer to one RETR.

    Attributes:
        number: of the message.
        refused: the text of -ERR, None where the message comes; the others go on either way.
            It is the server's, not yet fit to be shown.
        whole: the message, where all of it had arrived already; None where it has to be awaited.
        pieces: what is awaited then.
    """

    number: int
    refused: str | None
    whole: bytes | None
    pieces: AsyncIterator[bytes] | None

    def chunks(self) -> AsyncIterator[bytes]:
        """Return the message in pieces, a small one whole; once, and before the next message.

        CRLF line ends as they came, dot-stuffing undone, without the terminator. What is not
        consumed is skipped.

        Raises:
            Unreachable: the connection broke in the middle.
            TooLarge: more has come than is taken.
        """
        return _at_hand(self.whole or b"") if self.pieces is None else self.pieces
