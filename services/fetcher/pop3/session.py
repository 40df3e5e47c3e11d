"""A POP3 session, from the login to QUIT (RFC 1939): messages are retrieved, and deleted.

Message numbers hold for one session. Deletions count only when ``quit`` returns; every other end,
``abort`` or an error, deletes nothing. Any ServerFault ends the session: abort it. If it is a
PromiseBroken, the next session does without what was promised.

It trusts no size that the server claims and keeps no message whole: large ones pass through in
pieces, as fast as the consumer takes them. What there is, ``survey`` asks. An answer to ``LIST n``
names its message, so there a reply out of order shows itself; RETR, TOP and DELE have nothing of
the kind.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from services.fetcher.identity import HEAD_LIMIT
from services.fetcher.pop3.client import Pop3Client
from services.fetcher.pop3.deadlines import WaitMeter
from services.fetcher.pop3.listing import MAX_MESSAGES, login_delay
from services.fetcher.pop3.login import Login, log_in
from services.fetcher.pop3.quirks import NONE, Quirks
from services.fetcher.pop3.survey import Surveyor, mixed_up, size_said
from services.fetcher.pop3.window import RETRIEVE_WINDOW, SHORT_WINDOW, Window
from shared.errors import PromiseBroken, ServerFault, TooLarge, Unreachable
from shared.failpoint import reach
from shared.network.dialogue import TakeLine

GOODBYE_SECONDS: Final = 5.0
"""How long the answer to QUIT is waited for where nothing depends on it."""

TOP_LIMIT: Final = 1024 * 1024
"""Bytes of an answer to TOP; one that has more is no header, and costs as much as RETR."""


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


class Pop3Session:
    """A session in the TRANSACTION state; made by ``open``.

    Attributes:
        capabilities: what the server offers (CAPA), with parameters, by upper-case name, less what
            the quirks leave out; empty where it does not say.
        quirks: what this session does without; those found while it was opened are among them.
        mechanism: by which the login went well, as the configuration calls it.
        at: the message of which the answer to RETR, TOP or DELE was awaited last; 0 before, and
            when the answer to QUIT is awaited.
        marks: how often an answer among those to RETR has been seen to be in its place.
        kept: what the server said when it refused to delete a message; "" if it never did.
        surveyor: asks what the maildrop holds.
    """

    def __init__(
        self,
        client: Pop3Client,
        capabilities: Mapping[str, tuple[str, ...]],
        quirks: Quirks,
        mechanism: str,
        max_messages: int,
    ) -> None:
        self.capabilities = capabilities
        self.quirks = quirks
        self.mechanism = mechanism
        self.at = 0
        self.marks = 0
        self.kept = ""
        self._client = client
        self._marking = False  # DELE has been sent
        self.surveyor = Surveyor(client, capabilities, quirks, max_messages)

    @classmethod
    async def open(
        cls,
        login: Login,
        quirks: Quirks = NONE,
        tell: TakeLine | None = None,
        pace: WaitMeter | None = None,
        max_messages: int = MAX_MESSAGES,
    ) -> Pop3Session:
        """Connect and log in, as ``log_in`` does, with its other arguments and its errors.

        Args:
            max_messages: how many messages of the maildrop are looked at.
        """
        return cls(*await log_in(login, quirks, tell, pace), max_messages)

    @property
    def in_step(self) -> bool:
        """Whether all that has come so far is an answer to what was asked, and nothing is due."""
        return self._client.in_step

    @property
    def login_delay(self) -> float:
        """Seconds that the server wants between two logins (RFC 2449 section 6.5); 0 for none."""
        return login_delay(self.capabilities)

    @property
    def _pipelining(self) -> bool:
        return "PIPELINING" in self.capabilities

    async def tops(self, numbers: Sequence[int]) -> AsyncGenerator[tuple[int, bytes | None], None]:
        """Yield the header block of each of these messages (TOP), None where it is refused.

        Raises:
            ServerFault: the server broke the protocol, or the connection.
        """
        client = self._client
        await client.settle()
        window = self._window("TOP", numbers, RETRIEVE_WINDOW)
        while (number := window.next()) is not None:
            self.at = number
            whole = client.whole()
            if whole is None and (await client.reply()).ok:
                whole = await self._top()
            yield number, whole

    async def _top(self) -> bytes:
        try:
            return await self._client.body("TOP", HEAD_LIMIT, TOP_LIMIT)
        except TooLarge as error:
            raise PromiseBroken(error.server, error.said, "no_top") from error

    async def retrieve(
        self,
        numbers: Iterable[int],
        by_size: Mapping[int, int] | None = None,
        most: float = math.inf,
    ) -> AsyncGenerator[Retrieval, None]:
        """Yield these messages in this order, asking ahead where the server offers PIPELINING.

        Left early, the answers still outstanding are read and thrown away by the next command.

        Args:
            numbers: taken from it as they are asked for; where it ends, nothing more is.
            by_size: messages that did not end as they should when they were read before, with the
                sizes that LIST says: where one command waits for the other, they end by these.
            most: bytes of a message; one of which more comes ends the session.

        Raises:
            TooLarge: more has come of a message.
            Unreachable: the connection broke.
            PromiseBroken: the server mixed up or lost answers to commands sent together.
            ServerFault: the server broke the protocol.
        """
        client = self._client
        await client.settle()
        sizes = {} if self._pipelining or by_size is None else by_size
        marks = self._pipelining and not self.quirks.no_list
        window = self._window("RETR", numbers, RETRIEVE_WINDOW, mark=marks)
        while (number := window.next()) is not None:
            if number < 0:
                await self._check_mark(-number)
                continue
            self.at = number
            size = sizes.get(number)
            whole = client.whole() if size is None else None
            if whole is not None:
                if len(whole) > most:
                    raise _too_large(client.server, most)
                yield Retrieval(number, None, whole, None)
                continue
            reply = await client.reply()
            if reply.ok and size is not None:
                yield Retrieval(number, None, await client.read_framed(size), None)
            else:
                pieces = _ResponsePieces(client, done=not reply.ok, most=most)
                yield Retrieval(number, None if reply.ok else reply.text, None, pieces)
                await pieces.skip()

    async def _check_mark(self, number: int) -> None:
        """See that the next answer is about the message that was asked for last.

        One reply too many or too few makes each message pass for the next one; where all have one
        size, this alone tells.
        """
        self.at = 0
        try:
            reply = await self._client.reply()
        except Unreachable as error:
            said = f"LIST {number}: {error.said}"
            raise PromiseBroken(self._client.server, said, "no_pipelining") from error
        about = size_said(reply)
        if reply.ok and (about is None or about[0] != number):
            raise mixed_up(self._client, number, reply)
        self.marks += reply.ok  # a refusal names none

    async def delete(self, numbers: Sequence[int]) -> list[int]:
        """Mark messages as deleted; return those of which the server said +OK.

        It counts when ``quit`` has returned.
        """
        await self._client.settle()
        window = self._window("DELE", numbers, SHORT_WINDOW)
        self._marking = self._marking or bool(numbers)
        return await self._read_accepted(window)

    async def round_trip(self) -> None:
        """See whether the server is in step, by a question whose answer does not matter.

        STAT, since some servers do not know NOOP, and never answer it.
        """
        if self.quirks.no_stat:
            await self._client.command("NOOP")
        else:
            await self.surveyor.ask_stat()

    async def quit(self, delete: Sequence[int] = ()) -> list[int]:
        """End the session; the server removes what is marked as deleted, and these messages.

        QUIT does not wait for the answers to the last deletions where the server offers
        PIPELINING: whatever they are, it follows. Where nothing is deleted, the answer is waited
        for but a moment, and whatever it is will do.

        Returns:
            Those of ``delete`` of which the server said +OK.

        Raises:
            ServerFault: it did not remove all of it.
            Unreachable: it did not answer, so nobody knows.
        """
        last = delete[-SHORT_WINDOW:] if self._pipelining else ()
        try:
            deleted = await self.delete(delete[: len(delete) - len(last)])
            window = self._window("DELE", last, SHORT_WINDOW)
            self._marking = self._marking or bool(last)
            reach("fetcher", "before-quit")
            self._client.write(self._client.line("QUIT"))
            reach("fetcher", "quit-sent")
            deleted += await self._read_accepted(window)
            await self._goodbye()
            return deleted
        finally:
            self._client.close()

    async def abort(self) -> None:
        """End the session without QUIT: the server deletes nothing."""
        self._client.abort()
        await asyncio.sleep(0)  # the transport closes its socket at the loop's next turn

    async def _goodbye(self) -> None:
        self.at = 0
        if self._marking:
            self._client.require_ok(await self._client.reply())
            return
        with suppress(ServerFault):
            async with self._client.patience(GOODBYE_SECONDS):
                await self._client.reply()

    async def _read_accepted(self, window: Window) -> list[int]:
        deleted = []
        while (number := window.next()) is not None:
            self.at = number
            reply = await self._client.reply()
            if reply.ok:
                deleted.append(number)
            else:
                self.kept = reply.text
        return deleted

    def _window(
        self, verb: str, numbers: Iterable[int], most: int, *, mark: bool = False
    ) -> Window:
        return Window(self._client, verb, numbers, most if self._pipelining else 1, mark=mark)


class _ResponsePieces:
    """Iterates over the multi-line response that the client is in the middle of.

    Args:
        client: in the middle of it.
        done: whether there is nothing of it.
        most: bytes after which no more is read, nor skipped: it may have no end.
    """

    __slots__ = ("_client", "_come", "_done", "_most")

    def __init__(self, client: Pop3Client, *, done: bool, most: float) -> None:
        self._client = client
        self._done = done
        self._most = most
        self._come = 0

    def __aiter__(self) -> _ResponsePieces:
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
            raise _too_large(self._client.server, self._most)
        return piece.data


def _too_large(server: str, most: float) -> TooLarge:
    """Return the error about a message of which more has come than this."""
    said = f"more has come of it than max_size ({most} bytes), whatever LIST says"
    return TooLarge(server, f"{said}; it is left there for a day")


async def _at_hand(whole: bytes) -> AsyncGenerator[bytes, None]:
    if whole:
        yield whole
