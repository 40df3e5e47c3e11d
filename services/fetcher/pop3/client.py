"""Commands and replies over one connection: the protocol and the connection, joined.

A caller that leaves before all replies to its commands have come (an early exit, a cancellation)
leaves the client usable: the next command reads what is left over first, and throws it away.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from services.fetcher.pop3.connection import Pop3Connection
from services.fetcher.pop3.protocol import Body, Pop3, Pop3Event, Pop3Reply
from shared.errors import PromiseBroken, ServerFault, Silent, Slow, TooLarge, Unreachable
from shared.log import printable
from shared.redaction.redaction import NOTHING, Redaction

BODY_LIMIT: Final = 128 * 1024 * 1024
"""Bytes of a multi-line response that is read (listings and TOP, not RETR)."""

SLICE: Final = 64 * 1024
"""Bytes of a listing that are looked at before others get their turn."""

FRAMED_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of a message that is read by its size, and held in memory as a whole."""

OVER_SECONDS: Final = 2.0
"""Silence after what looks like the end of such a message, after which it is the end; half of what
a server has to say anything, where that is less."""


class Pop3Client:
    """Talks with one server.

    Args:
        server: its name in errors, as ``host:port``.
        redaction: hides the password in what the server says.
    """

    def __init__(
        self,
        server: str,
        connection: Pop3Connection,
        pop3: Pop3,
        redaction: Redaction = NOTHING,
    ) -> None:
        self.server = server
        self.redaction = redaction
        self._connection = connection
        self._pop3 = pop3

    @property
    def in_step(self) -> bool:
        """Whether no reply is outstanding, and nothing has come that is not read."""
        return self._pop3.idle and not self._connection.held

    def line(self, verb: str, *arguments: str | int) -> bytes:
        """Return a command to be written, and expect its reply (see ``Pop3.send``)."""
        return self._pop3.send(verb, *arguments)

    def lines(self, verb: str, numbers: Sequence[int]) -> bytes:
        """Return commands to be written, one for each number, and expect their replies."""
        return self._pop3.send_each(verb, numbers)

    def answer(self, said: bytes) -> bytes:
        """Return an answer to a challenge, to be written (see ``Pop3.answer``)."""
        return self._pop3.answer(said)

    def write(self, lines: bytes) -> None:
        """Send commands."""
        self._connection.write(lines)

    async def event(self) -> Pop3Event:
        """Return the next event.

        Raises:
            Unreachable: the connection is gone, or the server keeps silent.
            Slow: it says too little, or takes too long.
            PromiseBroken: likewise, after commands that were sent together.
            ServerFault: the server broke the protocol.
        """
        if (event := self._pop3.next_event()) is not None:
            return event
        self._connection.expect()
        try:
            while event is None:
                self._pop3.receive_data(await self._connection.read())
                event = self._pop3.next_event()
        except Slow as error:
            raise self._slow(error) from error
        except Unreachable as error:
            broken = self._as_promise_broken(error)
            if broken is None:
                raise
            raise broken from error
        return event

    def _slow(self, error: Slow) -> Slow:
        """Return the same, with what was waited for."""
        return Slow(error.server, f"{error.said} while {self._pop3.awaited} was awaited")

    def _as_promise_broken(self, error: Unreachable) -> PromiseBroken | None:
        """Return what a connection that is silent or gone means, where it is known to stand.

        Commands sent together, of which some are not answered: they may have been lost. A line
        that breaks proves nothing where commands sent together have been answered before; it
        may be one message that the server cannot send.
        """
        pop3, quiet = self._pop3, isinstance(error, Silent)
        if pop3.ahead and (quiet or not pop3.proven):
            said = f"{error.said}, and of commands sent together not all are answered"
            return PromiseBroken(error.server, said, "no_pipelining")
        if pop3.ends_bare and quiet:
            said = f"{error.said} after a dot on a line of its own, between bare line feeds"
            return PromiseBroken(error.server, said, "bare_ends")
        return None

    @asynccontextmanager
    async def patience(self, seconds: float | None) -> AsyncIterator[None]:
        """Wait for what is awaited in this block no longer than this; None for no limit.

        Raises:
            Silent: it has not come.
            Slow: some of it has.
        """
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            if came := self._connection.came:
                slow = Slow(self.server, f"the server sent {came} bytes in {seconds:g} seconds")
                raise self._slow(slow) from error
            raise Silent(self.server, f"nothing came for {seconds:g} seconds") from error

    def whole(self) -> bytes | None:
        """Return the next multi-line response if it is at hand as a whole (``Pop3.next_whole``)."""
        return self._pop3.next_whole()

    async def reply(self) -> Pop3Reply:
        """Return the next status line; raises like ``event``."""
        event = self._pop3.next_event() or await self.event()
        if not isinstance(event, Pop3Reply):
            raise TypeError("a reply is asked for in the middle of a multi-line response")
        return event

    async def piece(self) -> Body:
        """Return the next piece of a multi-line response; raises like ``event``."""
        event = await self.event()
        if not isinstance(event, Body):
            raise TypeError("a multi-line response is asked for where there is none")
        return event

    async def body(self, verb: str, keep: int, most: int = BODY_LIMIT) -> bytes:
        """Return a multi-line response, or its beginning.

        Args:
            verb: what it answers, for errors.
            keep: bytes of it that are returned, at about the most; what follows is thrown away.
            most: bytes that are read.

        Raises:
            TooLarge: it is longer.
        """
        kept: list[bytes] = []
        size = 0
        async for data in self._pieces(verb, most):
            if size < keep:
                kept.append(data)
            size += len(data)
        return b"".join(kept)

    async def listing(
        self,
        verb: str,
        take: Callable[[bytes], None],
        most: int,
        waited: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        """Hand a multi-line response over, piece by piece.

        Args:
            verb: what it answers, for errors.
            take: is given some KiB at a time; between two of them, others have their turn.
            most: bytes that are read.
            waited: is awaited after each piece, and returns whether that has taken time, which is
                not the server's then.

        Raises:
            TooLarge: it is longer.
        """
        async for data in self._pieces(verb, most):
            for start in range(0, len(data), SLICE):
                if start:
                    await asyncio.sleep(0)
                take(data[start : start + SLICE])
                if waited is not None and await waited():
                    self._connection.expect()

    async def _pieces(self, verb: str, most: int) -> AsyncIterator[bytes]:
        size = 0
        last = False
        while not last:
            piece = await self.piece()
            last = piece.last
            size += len(piece.data)
            if size > most:
                raise TooLarge(self.server, f"its answer to {verb} has more than {most} bytes")
            yield piece.data

    async def read_framed(self, size: int) -> bytes:
        """Return a message by its size, after its status line (see ``Pop3.take_framed``).

        Raises:
            ServerFault: it is longer than FRAMED_LIMIT, or the connection is gone.
        """
        moment = min(OVER_SECONDS, self._connection.timeout / 2)
        self._connection.expect()
        while (whole := self._pop3.take_framed(size)) is None:
            if self._pop3.buffered > FRAMED_LIMIT:
                raise ServerFault(self.server, f"a message of more than {FRAMED_LIMIT} bytes")
            over = self._pop3.may_be_over(size)
            try:
                # Not ``patience``: however much came before, nothing more is the end.
                async with asyncio.timeout(moment if over else None):
                    self._pop3.receive_data(await self._connection.read())
            except Slow as error:
                raise self._slow(error) from error
            except (Silent, TimeoutError) as error:
                if over and (whole := self._pop3.take_framed(size, over=True)) is not None:
                    return whole
                if isinstance(error, Silent):
                    raise
                raise Silent(self.server, f"nothing came for {moment:g} seconds") from error
        return whole

    async def command(self, verb: str, *arguments: str | int) -> Pop3Reply:
        """Send one command and return its status line."""
        await self.settle()
        self.write(self.line(verb, *arguments))
        return await self.reply()

    async def settle(self) -> None:
        """Read and throw away what is left over of earlier commands."""
        size = 0
        while self._pop3.outstanding:
            event = await self.event()
            size = size + len(event.data) if isinstance(event, Body) else 0
            if size > BODY_LIMIT:
                raise TooLarge(self.server, f"an answer of more than {BODY_LIMIT} bytes")

    def printable_text(self, reply: Pop3Reply) -> str:
        """Return what a reply says as text that is safe to show."""
        return printable(self.redaction.hidden(reply.text))

    def require_ok(self, reply: Pop3Reply) -> Pop3Reply:
        """Return a reply that is +OK.

        Raises:
            ServerFault: it is -ERR.
        """
        if not reply.ok:
            said = self.printable_text(reply) or "no reason given"
            raise ServerFault(self.server, f"{reply.verb} is refused: {said}")
        return reply

    async def upgrade(self, context: ssl.SSLContext, host: str) -> None:
        """Begin TLS, after STLS was answered +OK.

        Raises:
            ServerFault: something in clear came after that answer; taken for a later reply it
                would let a man in the middle speak for the server (CVE-2011-0411). Or its
                certificate is not accepted.
            Unreachable: the connection broke.
        """
        if self._pop3.buffered or self._connection.held:
            raise ServerFault(self.server, "it said more in clear after its answer to STLS")
        await self._connection.upgrade(context, host)

    def close(self) -> None:
        """Close in the background."""
        self._connection.close()

    def abort(self) -> None:
        """Close at once."""
        self._connection.abort()
