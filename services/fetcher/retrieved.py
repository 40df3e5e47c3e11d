"""A message as it comes in answer to RETR: whole where it is at hand, else piece by piece."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

from services.fetcher.exchange import Exchange


class Pieces:
    """Iterates over the multi-line response that the exchange is in the middle of."""

    __slots__ = ("_done", "_exchange")

    def __init__(self, exchange: Exchange, *, done: bool) -> None:
        self._exchange = exchange
        self._done = done

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        if self._done:
            raise StopAsyncIteration
        piece = await self._exchange.piece()
        self._done = piece.last
        if not piece.data:
            raise StopAsyncIteration
        return piece.data

    async def skip(self) -> None:
        """Read on to the end of the response."""
        while not self._done:
            self._done = (await self._exchange.piece()).last


async def _at_hand(whole: bytes) -> AsyncGenerator[bytes, None]:
    if whole:
        yield whole


class Retrieved(NamedTuple):
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
        """
        return _at_hand(self.whole or b"") if self.pieces is None else self.pieces
