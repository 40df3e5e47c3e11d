"""A connection to a mail server: bytes out, replies in. No command is known here.

An asyncio Protocol of our own rather than streams, for two reasons. After STARTTLS it can tell that
nothing sent in the clear is taken for a reply that came over TLS (CVE-2011-0411 and its kin). And
it costs less for each message. It trusts no server: replies are bounded, and a broken connection
is ``Unreachable`` to the task that waits.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections import deque
from contextlib import suppress
from typing import Final, Generic, TypeVar, cast

from services.deliverer.servers.reader import Malformed, Reader, WireReply
from shared.authentication.mechanism import Binding
from shared.errors import Unreachable
from shared.log import printable
from shared.network.explain import SettingNames, explain
from shared.network.tls import channel_binding

_PENDING_LIMIT: Final = 10_000
"""Replies that may wait to be read; a server that sends more was not asked for them."""


class TlsFailed(Unreachable):
    """The TLS handshake did not succeed."""


class NoReplyInTime(Unreachable):
    """What was waited for did not come in time."""


R = TypeVar("R", bound=WireReply)


class Connection(asyncio.Protocol, Generic[R]):
    """One connection.

    Args:
        server: what errors call it, as ``host:port``.
        reader: makes replies of what the server sends.
        names: of the settings that errors of TLS are about.
    """

    def __init__(self, server: str, reader: Reader[R], names: SettingNames) -> None:
        self.server = server
        self._names = names
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = reader
        self._replies: deque[R] = deque()
        self._wanted = 1  # replies for which the waiting task is woken
        self._replied: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._deadline = math.inf  # of what is waited for just now
        self._late = ("", 0.0)  # what to say when that is over, and how many seconds it had
        self._watch: asyncio.TimerHandle | None = None
        self._gone: str | None = None  # why it cannot be used any more
        self._silent = False  # for nothing came in time
        self._closed = asyncio.Event()

    @property
    def usable(self) -> bool:
        """Whether it is open, as far as is known."""
        return self._transport is not None and self._gone is None

    @property
    def idle(self) -> bool:
        """Whether it is open, and the server has sent nothing that was not read."""
        return self._gone is None and not self._replies and self._reader.clean

    @property
    def replied(self) -> bool:
        """Whether a reply is there to be read."""
        return bool(self._replies)

    def quote(self, *, may: bool) -> None:
        """Say whether what the server says from now on may be quoted."""
        self._reader.quotes = may

    @property
    def binding(self) -> Binding | None:
        """What ties a login to this connection, None where TLS gives nothing of the kind."""
        return channel_binding(self._require_open().get_extra_info("ssl_object"))

    @property
    def quotes(self) -> bool:
        """Whether what the server says may be quoted."""
        return self._reader.quotes

    @property
    def local_port(self) -> int:
        """Our port of the connection, 0 for a local socket."""
        name = self._require_open().get_extra_info("sockname")
        return int(name[1]) if isinstance(name, tuple) else 0

    @property
    def address(self) -> str | None:
        """The IP address of our end, None for a local socket."""
        name = self._require_open().get_extra_info("sockname")
        return str(name[0]) if isinstance(name, tuple) else None

    def write(self, data: bytes) -> None:
        """Send bytes, or buffer them.

        Raises:
            Unreachable: the connection is lost; none of the bytes was sent.
        """
        self._require_open().write(data)

    async def drain(self, timeout: float) -> None:
        """Return once the send buffer is low enough for more.

        Args:
            timeout: seconds to wait for that.

        Raises:
            Unreachable: the connection is lost, or the server takes nothing for so long.
        """
        if self._writable is not None:
            self._expect_within(timeout, "it takes no more data")
            await self._writable
        self._require_open()

    async def read_reply(self, timeout: float) -> R:
        """Return the next reply.

        Args:
            timeout: seconds to wait for it.

        Raises:
            Unreachable: the connection is lost, or no reply came for so long.
        """
        (reply,) = await self.read_replies(1, timeout)
        return reply

    async def read_replies(self, count: int, timeout: float) -> list[R]:
        """Return the next replies: as many, or fewer if one of them is bad.

        Servers answer what was sent together in packets of their own, and each one that wakes a
        task costs more than all that is done with it. What tells of trouble is not waited behind.

        Args:
            count: how many replies are on their way.
            timeout: seconds to wait for the first; later ones are returned if they are there.

        Raises:
            Unreachable: the connection is lost, or no reply came for so long.
        """
        while not self._replies:
            self._require_open()
            self._wanted = count
            self._replied = self._loop.create_future()
            self._expect_within(timeout, "no reply")
            await self._replied
        return [self._replies.popleft() for _ in range(min(count, len(self._replies)))]

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
            raise self._fail_tls(self._gone or "it sent more than its reply to STARTTLS")
        try:
            upgraded = await self._loop.start_tls(
                self._require_open(),
                self,
                context,
                server_hostname=hostname,
                ssl_handshake_timeout=timeout,
            )
        except OSError as error:  # ssl.SSLError is one
            raise self._fail_tls(explain(error, 0, self._names, at_once=False)) from error
        except EOFError as error:
            raise self._fail_tls("it closed the connection when TLS began") from error
        if upgraded is None or not self.idle:
            raise self._fail_tls("it sent text in the clear after STARTTLS, or left")
        self._transport = upgraded

    def close(self, farewell: bytes = b"") -> None:
        """Send a last line, if any, and close without waiting for an answer."""
        if self._transport is not None and self._gone is None:
            self._transport.write(farewell)
            self._gone = "the connection was closed"
            self._transport.close()

    async def wait_closed(self, timeout: float) -> None:
        """Return once it is closed; after so many seconds cut it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._closed.wait()
        self.abort()
        await asyncio.sleep(0)  # asyncio closes the socket in the next round of its loop

    def abort(self, why: str = "the connection was given up") -> None:
        """Close at once; what has not been sent is never sent."""
        self._mark_lost(why)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio: the connection is open."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio: the server sent something."""
        try:
            come = self._reader.feed(data)
        except Malformed as error:
            self.abort(str(error))
            return
        self._replies += come
        if len(self._replies) > _PENDING_LIMIT:
            self.abort("it sends replies without end")
        elif len(self._replies) >= self._wanted or any(reply.bad for reply in come):
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio: the connection is gone."""
        self._mark_lost("it closed the connection" if exc is None else f"connection lost: {exc}")
        self._closed.set()

    def pause_writing(self) -> None:
        """Called by asyncio: the send buffer is full."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Called by asyncio: the send buffer is low again."""
        if self._writable is not None and not self._writable.done():
            self._deadline = math.inf
            self._writable.set_result(None)
        self._writable = None

    def _require_open(self) -> asyncio.Transport:
        if self._transport is None or self._gone is not None:
            kind = NoReplyInTime if self._silent else Unreachable
            raise kind(self.server, self._gone or "not connected")
        return self._transport

    def _expect_within(self, timeout: float, what: str) -> None:
        """Give the connection up if what is now waited for does not come in time.

        The timer runs on from wait to wait, and looks at the deadline when it is due. One of its
        own for each wait, made and cancelled again, costs more than the wait.
        """
        self._late = (what, timeout)
        self._deadline = self._loop.time() + timeout
        if self._watch is None or self._deadline < self._watch.when():
            self._check_at(self._deadline)

    def _check_at(self, when: float) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch = self._loop.call_at(when, self._check_deadline)

    def _check_deadline(self) -> None:
        """Give the connection up if what is waited for is late."""
        self._watch = None
        if self._loop.time() < self._deadline:
            if self._deadline < math.inf:
                self._check_at(self._deadline)
            return
        if self._replies:  # some of those waited for together have come
            woken = self._wake()
            if woken:
                return
        what, seconds = self._late
        self._silent = True
        self.abort(f"{what} for {seconds:g} seconds")

    def _wake(self) -> bool:
        """Wake the task that waits for replies; return False where there is none."""
        if self._replied is None or self._replied.done():
            return False
        self._deadline = math.inf
        self._replied.set_result(None)
        return True

    def _fail_tls(self, why: str) -> TlsFailed:
        self.abort(why)
        said = printable(why)
        return TlsFailed(self.server, said if said.startswith("TLS") else f"TLS failed: {said}")

    def _mark_lost(self, why: str) -> None:
        self._gone = self._gone or printable(why)
        if self._watch is not None:
            self._watch.cancel()
        self._wake()
        self.resume_writing()
