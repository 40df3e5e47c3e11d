"""A connection to a mail server: bytes out, replies in. No command is known here.

An asyncio Protocol of our own rather than streams, for two reasons. After STARTTLS it can tell that
nothing sent in the clear is taken for a reply that came over TLS (CVE-2011-0411 and its kin). And
it costs less for each message. It trusts no server: replies are bounded, and a broken connection
is ``Unreachable`` to whoever waits.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from contextlib import suppress
from typing import Final, cast

from services.deliverer.reply import Malformed, Reply, ReplyReader
from shared.errors import Unreachable
from shared.log import printable

_PENDING_LIMIT: Final = 10_000
"""Replies that may wait to be read; a server that sends more talks without having been asked."""


class TlsFailed(Unreachable):
    """The TLS handshake did not succeed."""


class Channel(asyncio.Protocol):
    """One connection.

    Args:
        server: what errors call it, as ``host:port``.
    """

    def __init__(self, server: str) -> None:
        self.server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = ReplyReader()
        self._replies: deque[Reply] = deque()
        self._replied: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._gone: str | None = None  # why it cannot be used any more
        self._closed = asyncio.Event()

    @property
    def idle(self) -> bool:
        """Whether it is open, and the server has sent nothing that was not read."""
        return self._gone is None and not self._replies and self._reader.clean

    @property
    def replied(self) -> bool:
        """Whether a reply is there to be read."""
        return bool(self._replies)

    @property
    def address(self) -> str | None:
        """The IP address of our end, None for a local socket."""
        name = self._open().get_extra_info("sockname")
        return str(name[0]) if isinstance(name, tuple) else None

    def write(self, data: bytes) -> None:
        """Send bytes, or buffer them.

        Raises:
            Unreachable: the connection is lost; none of the bytes was sent.
        """
        self._open().write(data)

    async def drain(self, timeout: float) -> None:
        """Return once the send buffer is low enough for more.

        Args:
            timeout: seconds to wait for that.

        Raises:
            Unreachable: the connection is lost, or the server takes nothing for so long.
        """
        if self._writable is not None:
            await self._within(timeout, self._writable, "it takes no more data")
        self._open()

    async def reply(self, timeout: float) -> Reply:
        """Return the next reply.

        Args:
            timeout: seconds to wait for it.

        Raises:
            Unreachable: the connection is lost, or no reply came for so long.
        """
        while not self._replies:
            self._open()
            self._replied = self._loop.create_future()
            await self._within(timeout, self._replied, "no reply")
        return self._replies.popleft()

    async def start_tls(self, context: ssl.SSLContext, hostname: str, timeout: float) -> None:
        """Go on over TLS.

        Args:
            context: with the trust that is asked for.
            hostname: the name in the server's certificate.
            timeout: seconds for the handshake.

        Raises:
            TlsFailed: the handshake failed, or the server mixed text in the clear into it.
        """
        if not self.idle:
            raise self._tls_failed(self._gone or "it sent more than its reply to STARTTLS")
        try:
            upgraded = await self._loop.start_tls(
                self._open(), self, context, server_hostname=hostname, ssl_handshake_timeout=timeout
            )
        except (OSError, EOFError) as error:  # ssl.SSLError is an OSError
            raise self._tls_failed(str(error) or type(error).__name__) from error
        if upgraded is None or not self.idle:
            raise self._tls_failed("it sent text in the clear after STARTTLS, or left")
        self._transport = upgraded

    def close(self, farewell: bytes = b"") -> None:
        """Send a last line, if any, and close without waiting for an answer."""
        if self._transport is not None and self._gone is None:
            self._transport.write(farewell)
            self._gone = "the connection was closed"
            self._transport.close()

    async def closed(self, timeout: float) -> None:
        """Return once it is closed; after so many seconds cut it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._closed.wait()
        self.abort()
        await asyncio.sleep(0)  # asyncio closes the socket in the next round of its loop

    def abort(self, why: str = "the connection was given up") -> None:
        """Close at once; what has not been sent is never sent."""
        self._lost(why)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio: the connection stands."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio: the server sent something."""
        try:
            self._replies.extend(self._reader.feed(data))
        except Malformed as error:
            self.abort(str(error))
        if len(self._replies) > _PENDING_LIMIT:
            self.abort("it sends replies without end")
        if self._replied is not None and not self._replied.done():
            self._replied.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio: the connection is gone."""
        self._lost("it closed the connection" if exc is None else f"connection lost: {exc}")
        self._closed.set()

    def pause_writing(self) -> None:
        """Called by asyncio: the send buffer is full."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Called by asyncio: the send buffer is low again."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def _open(self) -> asyncio.Transport:
        if self._transport is None or self._gone is not None:
            raise Unreachable(self.server, self._gone or "not connected")
        return self._transport

    async def _within(self, timeout: float, future: asyncio.Future[None], what: str) -> None:
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError as error:
            self.abort(f"{what} for {timeout:g} seconds")
            raise Unreachable(self.server, f"{what} for {timeout:g} seconds") from error

    def _tls_failed(self, why: str) -> TlsFailed:
        self.abort(why)
        return TlsFailed(self.server, f"TLS failed: {printable(why)}")

    def _lost(self, why: str) -> None:
        self._gone = self._gone or printable(why)
        if self._replied is not None and not self._replied.done():
            self._replied.set_result(None)
        self.resume_writing()
