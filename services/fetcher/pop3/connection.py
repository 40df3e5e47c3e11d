"""A TCP or TLS connection to a mail server that is read on demand.

What arrives is held until it is asked for; above a limit the socket is not read, so that a slow
reader slows the server down and memory stays bounded. A server that keeps silent while it is
waited for counts as gone; so does one that says too little, or takes too long. Every failure is an
Unreachable, except what TLS itself refuses: that is a ServerFault, for another try will not mend a
certificate. Both say which setting is likely wrong.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from contextlib import suppress
from typing import Final, cast

import tenacity

from services.fetcher.pop3.deadlines import LEAST_WINDOW, WaitMeter
from shared.authentication.mechanism import Binding
from shared.errors import Broken, ConfigError, ServerFault, Silent, Slow, Ungreeted, Unreachable
from shared.log import printable
from shared.network.dial import DIRECT, GOODBYE_SECONDS, NetworkRoute, dial
from shared.network.explain import SettingNames, closed, ended, explain
from shared.network.tls import (
    Trust,
    channel_binding,
    default_authorities,
    fingerprint,
    trusting,
)

READ_SIZE: Final = 128 * 1024
"""Bytes of one read from the socket, at most."""

READ_AHEAD: Final = 256 * 1024
"""Bytes held unread above which the socket is left alone."""

_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
_TRIES: Final = 3
_TRYING_SECONDS: Final = 5.0
_FIRST_PAUSE: Final = 0.15

_FILES: Final = ("ca_file", "client_key", "client_cert")
"""Settings that name a file, and attributes of ``Trust``; a key may stand in the certificate's."""

SETTING_NAMES: Final = SettingNames('tls = "starttls"', 'tls = "implicit"', "ca_file")
"""What an account's settings are called in errors."""


class Pop3Connection(asyncio.BufferedProtocol):
    """One connection; made by ``connect``.

    Args:
        server: its name in errors, as ``host:port``.
        timeout: seconds without a byte, while one is waited for, before the server counts as gone.
        slowest: bytes a second that come at the least, over each ``timeout`` that is waited, or
            ``LEAST_WINDOW`` if that is longer.
        pace: told of every wait.

    Attributes:
        held: how many bytes have arrived and not yet been read.
    """

    def __init__(self, server: str, timeout: float, slowest: float, pace: WaitMeter) -> None:
        self._server = server
        self.timeout = timeout
        self._window = max(timeout, LEAST_WINDOW)
        self._slowest = slowest
        self._pace = pace
        self._paced = 0  # bytes that the pace knows of
        self._until, self._over = math.inf, ""
        self._asked, self._asked_at = 0.0, 0
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._space = memoryview(bytearray(READ_SIZE))
        self._blocks: list[bytes] = []
        self.held = 0
        self._lost: Unreachable | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._heard = 0.0
        self._received = 0
        self._watchdog: asyncio.TimerHandle | None = None

    @property
    def came(self) -> int:
        """How many bytes have arrived of what is waited for."""
        return self._received - self._asked_at

    @property
    def binding(self) -> Binding | None:
        """What ties a login to this connection, None where TLS gives nothing of the kind."""
        return channel_binding(self._wire.get_extra_info("ssl_object"))

    @property
    def _wire(self) -> asyncio.Transport:
        if self._transport is None:
            raise RuntimeError("this connection was not made by connect()")
        return self._transport

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._watchdog = self._loop.call_later(self.timeout, self._watch)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Say where the next bytes go; they are copied out at once."""
        return self._space

    def buffer_updated(self, nbytes: int) -> None:
        """Hold what has arrived, and stop reading if it is too much."""
        self._blocks.append(bytes(self._space[:nbytes]))
        self.held += nbytes
        self._received += nbytes
        self._heard = self._loop.time()
        if self.held >= READ_AHEAD:
            self._wire.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """End: whoever waits for bytes, now or later, learns why there are none."""
        if exc is None:
            self._lose(Unreachable(self._server, "the connection was closed"))
        else:
            self._lose(Broken(self._server, printable(f"the connection broke: {exc}")))
        if self._watchdog is not None:
            self._watchdog.cancel()

    # What the session calls.

    def ends(self, seconds: float, over: str) -> None:
        """Treat the server as gone when this has not ended in time.

        Args:
            seconds: from now on.
            over: why, then, in words.
        """
        self._until, self._over = self._loop.time() + seconds, over

    def require_pinned(self, fingerprints: frozenset[str]) -> None:
        """Be sure that the server has one of these certificates, over TLS.

        Raises:
            ServerFault: it has another one.
        """
        secured = self._wire.get_extra_info("ssl_object")
        found = "" if secured is None else fingerprint(secured)
        if fingerprints and found not in fingerprints:
            said = f"its certificate is none of tls_fingerprint: it is sha256:{found}"
            raise ServerFault(self._server, said)

    def expect(self) -> None:
        """A new answer is awaited: count what comes from now on."""
        self._asked, self._asked_at = self._loop.time(), self._received

    async def read(self) -> bytes:
        """Return what has arrived, at least one byte; wait for it if need be.

        Raises:
            Silent: nothing came in time, or too little.
            Unreachable: the connection is gone.
        """
        while not self._blocks:
            if self._lost is not None:
                raise type(self._lost)(self._lost.server, self._lost.said)
            await self._arrival()
        data = self._blocks[0] if len(self._blocks) == 1 else b"".join(self._blocks)
        self._blocks.clear()
        if self.held >= READ_AHEAD and self._lost is None:
            self._wire.resume_reading()
        self.held = 0
        return data

    def write(self, data: bytes) -> None:
        """Send bytes; a connection that is gone says so at the next read."""
        self._wire.write(data)
        self._acknowledge_at_once()

    async def upgrade(self, context: ssl.SSLContext, host: str) -> None:
        """Begin TLS on the connection as it is.

        Args:
            context: says whom to trust.
            host: the name that the certificate must have.

        Raises:
            ServerFault: its certificate is not accepted, or it does not speak TLS.
            Unreachable: the connection broke.
        """
        if self._wire.is_closing():
            # asyncio would wait for the handshake of a closed connection until its timeout.
            raise Unreachable(self._server, "the connection was closed when TLS began")
        try:
            with self._pace.waiting():
                secured = await self._loop.start_tls(
                    self._wire,
                    self,
                    context,
                    server_hostname=host,
                    ssl_handshake_timeout=self.timeout,
                    ssl_shutdown_timeout=GOODBYE_SECONDS,
                )
        except OSError as error:
            port = int(self._server.rpartition(":")[2])
            raise _translate(self._server, port, error, at_once=False) from error
        if secured is None:
            raise Unreachable(self._server, "the connection was closed when TLS began")
        self._transport = secured

    def close(self) -> None:
        """Say goodbye and close, in the background."""
        self._wire.close()

    def abort(self) -> None:
        """Close at the next turn of the loop, with nothing more said."""
        self._wire.abort()

    def _acknowledge_at_once(self) -> None:
        # Answers to pipelined commands are short, and a server with Nagle's algorithm holds back
        # the second until the first is acknowledged; Linux takes 40 ms for that, unless told so
        # after each write (tcp(7)). Elsewhere it stays at that.
        socket_ = self._wire.get_extra_info("socket")
        if _QUICKACK is not None and socket_ is not None:
            with suppress(OSError):  # closed, or no TCP
                socket_.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    async def _arrival(self) -> None:
        self._heard = self._loop.time()
        self._waiter = self._loop.create_future()
        self._pace.begin()
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._pace.end(self._received - self._paced)
            self._paced = self._received

    def _watch(self) -> None:
        """Look whether a wait has lasted too long; one timer for all waits, not one for each."""
        now = self._loop.time()
        if self._waiter is None:
            self._watchdog = self._loop.call_at(now + self.timeout, self._watch)
            return
        why = self._overdue(now)
        if why is not None:
            self._lose(why)
            self._wire.abort()
            return
        soonest = min(self._heard + self.timeout, self._asked + self._window, self._until)
        self._watchdog = self._loop.call_at(soonest, self._watch)

    def _overdue(self, now: float) -> Silent | None:
        """Return why not to wait any longer, None to go on; begin a new window after each."""
        if now - self._heard >= self.timeout:
            return Silent(self._server, f"nothing came for {self.timeout:g} seconds")
        if now >= self._until:
            return Slow(self._server, self._over)
        if now - self._asked < self._window:
            return None
        came = self.came
        if not came:  # the wait for it began a moment after it was asked for: silence all the same
            return Silent(self._server, f"nothing came for {self._window:g} seconds")
        if came < self._slowest * self._window:
            said = f"the server sent {came} bytes in {now - self._asked:.0f} seconds"
            return Slow(self._server, f"{said} (limits.slowest)")
        self.expect()
        return None

    def _lose(self, why: Unreachable) -> None:
        if self._lost is None:
            self._lost = why
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def connect(
    host: str,
    port: int,
    *,
    context: ssl.SSLContext | None,
    timeout: float,
    slowest: float,
    pace: WaitMeter,
    route: NetworkRoute = DIRECT,
) -> Pop3Connection:
    """Return a new connection; a server that does not answer is tried again for some seconds.

    Args:
        host: a name or an address; with TLS the name that the certificate must have.
        port: of the server.
        context: for TLS from the first byte on, None for none.
        timeout: seconds for one try, and later for every wait.
        slowest: bytes a second that come at the least later, while they are waited for.
        pace: told of every wait.
        route: from where, and through whom.

    Raises:
        ConfigError: the host name cannot be one.
        ServerFault: its certificate is not accepted, or it does not speak TLS.
        Ungreeted: it takes the connection, and ends it when TLS begins.
        Unreachable: it does not answer.
    """
    server = f"{host}:{port}"
    tries = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(Unreachable),
        stop=tenacity.stop_after_attempt(_TRIES) | tenacity.stop_after_delay(_TRYING_SECONDS),
        wait=tenacity.wait_exponential(_FIRST_PAUSE) + tenacity.wait_random(0, _FIRST_PAUSE),
        reraise=True,
    )

    async def try_once() -> Pop3Connection:
        try:
            return await dial(
                lambda: Pop3Connection(server, timeout, slowest, pace),
                host,
                port,
                seconds=timeout,
                context=context,
                route=route,
            )
        except UnicodeError as error:
            raise ConfigError(server, f"{printable(host)!r} cannot be a host name") from error
        except OSError as error:
            raise _translate(server, port, error, at_once=context is not None) from error

    with pace.waiting():
        return await tries(try_once)


def _translate(server: str, port: int, error: OSError, *, at_once: bool) -> ServerFault:
    if at_once and ended(error):
        return Ungreeted(server, closed("when TLS began", port, SETTING_NAMES, at_once=True))
    kind = ServerFault if isinstance(error, ssl.SSLError) else Unreachable
    return kind(server, explain(error, port, SETTING_NAMES, at_once=at_once))


def tls_context(trust: Trust) -> ssl.SSLContext:
    """Return a context for TLS 1.2 or later, by which a server is known.

    Args:
        trust: see ``tls.trusting``.

    Raises:
        ConfigError: a file cannot be used.
    """
    try:
        return trusting(trust, ssl.TLSVersion.TLSv1_2)
    except OSError as error:
        file = str(error.filename or default_authorities())
        key = next((key for key in _FILES if getattr(trust, key) == file), _FILES[0])
        why = printable(error.strerror or str(error))
        raise ConfigError(f"{key} {file}", f"it cannot be used: {why}") from error
