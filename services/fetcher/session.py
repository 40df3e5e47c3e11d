"""A POP3 session, from the login to QUIT (RFC 1939).

Message numbers hold for one session. Deletions count only when ``quit`` returns; every other end,
``abort`` or an error, deletes nothing. Any Unreachable or ServerFault (but for a refused TOP) ends
the session: abort it.

It trusts no size that the server claims and keeps no message whole: large ones pass through in
pieces, as fast as the consumer takes them.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

from services.fetcher import listing
from services.fetcher.exchange import Exchange
from services.fetcher.login import Login, log_in
from shared.errors import ServerFault
from shared.faultpoint import reach

__all__ = ["Login", "Retrieved", "Session"]

RETRIEVE_WINDOW: Final = 64
"""RETR commands outstanding at a server that offers PIPELINING."""

DELETE_WINDOW: Final = 512
"""DELE commands outstanding; command and reply are short, so this fits into socket buffers."""

_STAT: Final = re.compile(r"(\d{1,10}) +(\d{1,18})\b")


class _Pieces:
    """Iterates over the multi-line response that the exchange is in the middle of."""

    __slots__ = ("_done", "_exchange")

    def __init__(self, exchange: Exchange, *, done: bool) -> None:
        self._exchange = exchange
        self._done = done

    def __aiter__(self) -> _Pieces:
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


class Session:
    """A session in the TRANSACTION state; made by ``open``.

    Attributes:
        capabilities: what the server offers (CAPA), with parameters, by upper-case name; empty
            where it does not say.
    """

    def __init__(self, exchange: Exchange, capabilities: Mapping[str, tuple[str, ...]]) -> None:
        self.capabilities = capabilities
        self._exchange = exchange

    @classmethod
    async def open(cls, login: Login) -> Session:
        """Connect and log in.

        Raises:
            ConfigError: the account's settings cannot be used.
            Unreachable: the server does not answer.
            LoginRefused: it does not accept user name and password.
            MaildropBusy: another session holds the maildrop.
            ServerFault: it refused for another reason, or broke the protocol.
        """
        return cls(*await log_in(login))

    async def stat(self) -> tuple[int, int]:
        """Return how many messages there are, and what the server says is their size in bytes."""
        reply = self._exchange.required(await self._exchange.command("STAT"))
        found = _STAT.match(reply.text)
        if found is None:
            raise ServerFault(self._exchange.server, "its answer to STAT has no numbers")
        return int(found[1]), int(found[2])

    async def uidl(self) -> list[tuple[int, str]] | None:
        """Return the message numbers and UIDLs; a UIDL that cannot be used is given as "".

        The server may give two messages the same UIDL: that is for the caller to judge.

        Returns:
            None where the server has no UIDL.

        Raises:
            ServerFault: it offers UIDL, and refuses it or sends what is no listing.
        """
        reply = await self._exchange.command("UIDL")
        if not reply.ok and not reply.code and "UIDL" not in self.capabilities:
            return None
        self._exchange.required(reply)
        found = listing.uidls(await self._exchange.body())
        if found is None:
            raise ServerFault(self._exchange.server, "its answer to UIDL is no listing")
        return found

    async def sizes(self) -> dict[int, int]:
        """Return the sizes that the server claims, by message number: a hint, never a fact."""
        self._exchange.required(await self._exchange.command("LIST"))
        return listing.sizes(await self._exchange.body())

    async def top(self, number: int, lines: int) -> bytes:
        """Return the header block of a message, its blank line, and so many lines of its body.

        Raises:
            ServerFault: the server refuses; the session goes on.
        """
        self._exchange.required(await self._exchange.command("TOP", number, lines))
        return await self._exchange.body()

    async def retrieve(self, numbers: Iterable[int]) -> AsyncGenerator[Retrieved, None]:
        """Yield these messages in this order, asking ahead where the server offers PIPELINING.

        Left early, the answers still outstanding are read and thrown away by the next command.

        Args:
            numbers: taken from it as they are asked for; where it ends, nothing more is.

        Raises:
            Unreachable: the connection broke.
            ServerFault: the server broke the protocol.
        """
        exchange = self._exchange
        await exchange.settle()
        window = RETRIEVE_WINDOW if "PIPELINING" in self.capabilities else 1
        ahead = iter(numbers)
        asked = deque(self._ask("RETR", ahead, window))
        while asked:
            number = asked.popleft()
            whole = exchange.whole()
            if whole is not None:
                yield Retrieved(number, None, whole, None)
            else:
                reply = await exchange.reply()
                pieces = _Pieces(exchange, done=not reply.ok)
                yield Retrieved(number, None if reply.ok else reply.text, None, pieces)
                await pieces.skip()
            if len(asked) <= window // 2:
                asked.extend(self._ask("RETR", ahead, window - len(asked)))

    async def delete(self, numbers: Sequence[int]) -> list[int]:
        """Mark messages as deleted; return those of which the server said +OK.

        It counts when ``quit`` has returned.
        """
        await self._exchange.settle()
        window = DELETE_WINDOW if "PIPELINING" in self.capabilities else 1
        deleted = []
        for start in range(0, len(numbers), window):
            batch = numbers[start : start + window]
            self._ask("DELE", batch, window)
            deleted += await self._deleted(batch)
        return deleted

    async def _deleted(self, asked: Sequence[int]) -> list[int]:
        replies = await self._exchange.replies(len(asked))
        return [number for number, reply in zip(asked, replies, strict=True) if reply.ok]

    async def noop(self) -> None:
        """Keep the session alive."""
        self._exchange.required(await self._exchange.command("NOOP"))

    async def rset(self) -> None:
        """Unmark all messages that are marked as deleted."""
        self._exchange.required(await self._exchange.command("RSET"))

    async def quit(self, delete: Sequence[int] = ()) -> list[int]:
        """End the session; the server removes what is marked as deleted, and these messages.

        QUIT does not wait for the answers to the last deletions where the server offers
        PIPELINING: whatever they are, it follows.

        Returns:
            Those of ``delete`` of which the server said +OK.

        Raises:
            ServerFault: it did not remove all of it.
            Unreachable: it did not answer, so nobody knows.
        """
        last = delete[-DELETE_WINDOW:] if "PIPELINING" in self.capabilities else ()
        try:
            deleted = await self.delete(delete[: len(delete) - len(last)])
            self._ask("DELE", last, len(last))
            reach("fetcher", "before-quit")
            self._exchange.write(self._exchange.line("QUIT"))
            reach("fetcher", "quit-sent")
            deleted += await self._deleted(last)
            self._exchange.required(await self._exchange.reply())
            return deleted
        finally:
            self._exchange.close()

    async def abort(self) -> None:
        """End the session without QUIT: the server deletes nothing."""
        self._exchange.abort()
        await asyncio.sleep(0)  # the transport closes its socket at the loop's next turn

    def _ask(self, verb: str, numbers: Iterable[int], most: int) -> Sequence[int]:
        asked = list(islice(numbers, most))
        if asked:
            self._exchange.write(self._exchange.lines(verb, asked))
        return asked
