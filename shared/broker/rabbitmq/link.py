"""One connection to RabbitMQ, kept up: made, lost, reported and made again until it is closed.

What the broker says when it refuses us for good (user name, password, virtual host) is an error of
the configuration the first time; later it is reported and tried again, for it may be mended there.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final, Protocol

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.exceptions import ConnectionWrongStateError

from shared.broker.amqp_url import WHERE, AmqpUrl, tls_context
from shared.broker.rabbitmq.backoff import Backoff
from shared.clock import Clock
from shared.errors import BrokerUnavailable, ConfigError
from shared.log import printable

HEARTBEAT: Final = 30
CLOSING: Final = 5.0
"""Seconds that a broker has for its part of a proper goodbye."""
LONGEST_PAUSE: Final = 30.0

_CHUNK: Final = 65536


class Report(Protocol):
    """Where trouble with the broker is told, such as ``MailLog.trouble``."""

    def __call__(self, what: str, /, **about: object) -> None:
        """Say what is wrong, and about what."""


class CoalescingConnection(AsyncioConnection):  # type: ignore[misc]  # pika has no types
    """Sends what one turn of the event loop produced in few writes, instead of one per frame.

    A publish is three frames, and each write a packet of its own (TCP_NODELAY): sent one by one,
    they are half of the cost of a message. ``_adapter_emit_data`` is pika's seam for adapters.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._frames: list[bytes] = []
        self._size = 0
        self._loop = asyncio.get_running_loop()
        super().__init__(*args, **kwargs)

    def _adapter_emit_data(self, data: bytes) -> None:
        if not self._frames:
            self._loop.call_soon(self._flush)
        self._frames.append(data)
        self._size += len(data)
        if self._size >= _CHUNK:
            self._flush()

    def _flush(self) -> None:
        frames, self._frames, self._size = self._frames, [], 0
        if frames and self._transport is not None:
            super()._adapter_emit_data(b"".join(frames))


class Link:
    """A connection that comes back by itself.

    Args:
        url: where to, and as whom.
        ca_file: the authority that TLS trusts, None for the system's store.
        title: the connection's name in the management UI.
        version: the version of this program.
        report: is told of losses and refusals.
        clock: times the pauses.

    Attributes:
        blocked: why the broker reads nothing from us just now (an alarm), or None.
    """

    def __init__(
        self,
        url: AmqpUrl,
        ca_file: str | None,
        title: str,
        version: str,
        report: Report,
        clock: Clock,
    ) -> None:
        self.blocked: str | None = None
        self._url = url
        self._title = title
        self._parameters = _parameters(url, ca_file, title, version)
        self._report = report
        self._backoff = Backoff(clock, LONGEST_PAUSE)
        self._connection: AsyncioConnection | None = None
        self._change = asyncio.Event()
        self._refused: ConfigError | None = None
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether the connection is open."""
        return self._connection is not None

    async def start(self) -> None:
        """Connect; return when that has worked, however long it takes.

        Raises:
            ConfigError: the broker refuses the user, the password or the virtual host.
        """
        self._task = asyncio.create_task(self._keep(), name=self._title)
        await self.connection()

    async def connection(self) -> AsyncioConnection:
        """Return the open connection, once there is one.

        Raises:
            BrokerUnavailable: the link was closed.
            ConfigError: the first try to connect was refused for good.
        """
        while self._connection is None:
            if self._closed:
                raise BrokerUnavailable("the connection to the broker is closed")
            if self._refused is not None:
                raise self._refused
            self._change.clear()
            await self._change.wait()
        return self._connection

    def now(self) -> AsyncioConnection:
        """Return the open connection.

        Raises:
            BrokerUnavailable: there is none just now.
        """
        if self._connection is None:
            raise BrokerUnavailable(f"not connected to {self._url}")
        return self._connection

    async def close(self) -> None:
        """Say goodbye and disconnect; with a broker that does not answer, just stop."""
        self._closed = True
        self._change.set()
        if self._task is None:
            return
        if self._connection is None:
            self._task.cancel()
        else:
            with suppress(ConnectionWrongStateError):
                self._connection.close()
        _, pending = await asyncio.wait([self._task], timeout=CLOSING)
        for task in pending:
            task.cancel()
            await asyncio.wait([task])

    async def _keep(self) -> None:
        once = False
        while not self._closed:
            try:
                lost = await self._connect()
            except ConfigError as error:
                if not once:
                    self._refused = error
                    self._change.set()
                    return
                self._report("broker refuses us", broker=str(self._url), reason=error.what)
            except BrokerUnavailable as error:
                self._report("broker not reached", broker=str(self._url), reason=error)
            else:
                if once:
                    self._report("broker connected again", broker=str(self._url))
                once = True
                await self._until(lost)
            if not self._closed:
                await self._backoff.pause()

    async def _until(self, lost: asyncio.Future[str]) -> None:
        self._backoff.succeeded()
        try:
            reason = await lost
        finally:
            self._connection = self.blocked = None
        if not self._closed:
            self._report("broker connection lost", broker=str(self._url), reason=reason)

    async def _connect(self) -> asyncio.Future[str]:
        """Connect once; return a future that ends with the reason of the connection's end."""
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()
        lost: asyncio.Future[str] = loop.create_future()
        connection = CoalescingConnection(
            self._parameters,
            on_open_callback=lambda _: _end(opened, None),
            on_open_error_callback=lambda _, error: _end(opened, _translated(error, self._url)),
            on_close_callback=lambda _, error: _end(lost, _text(error)),
        )
        connection.add_on_connection_blocked_callback(
            lambda _, frame: self._alarm(printable(str(frame.method.reason)))
        )
        connection.add_on_connection_unblocked_callback(lambda *_: self._alarm(None))
        try:
            await opened
        except asyncio.CancelledError:
            with suppress(ConnectionWrongStateError):
                connection.close()
            raise
        self._connection = connection
        self._change.set()
        return lost

    def _alarm(self, reason: str | None) -> None:
        self.blocked = reason
        if reason is None:
            self._report("broker takes messages again", broker=str(self._url))
        else:
            self._report("broker takes no messages", broker=str(self._url), reason=reason)


def _end(future: asyncio.Future[Any], result: object) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


def _parameters(
    url: AmqpUrl, ca_file: str | None, title: str, version: str
) -> pika.ConnectionParameters:
    tls = pika.SSLOptions(tls_context(ca_file), url.host) if url.tls else None
    return pika.ConnectionParameters(
        host=url.host,
        port=url.port,
        virtual_host=url.vhost,
        credentials=pika.PlainCredentials(url.user, url.password),
        heartbeat=HEARTBEAT,
        blocked_connection_timeout=None,
        ssl_options=tls,
        client_properties={
            "connection_name": title,
            "product": "pop3-connector",
            "version": version,
        },
    )


def _text(error: BaseException) -> str:
    cause = _cause(error)
    return printable(str(cause) or type(cause).__name__)


def _cause(error: Any) -> Any:
    """Return what is inside pika's wrappers: the workflow's, the phase's, the connection's."""
    while True:
        if nested := getattr(error, "exceptions", None):
            error = nested[-1]
        elif isinstance(inner := getattr(error, "exception", None), BaseException) or (
            error.args and isinstance(inner := error.args[0], BaseException)
        ):
            error = inner
        else:
            return error


def _translated(error: BaseException, url: AmqpUrl) -> Exception:
    """Return our error for one of pika's from the time of connecting.

    pika only guesses from the state of the handshake ("probable"); the broker's own words decide.
    """
    text = str(_cause(error))
    for words, what in _REFUSALS:
        if words in text:
            return ConfigError(WHERE, f"{what} ({url})")
    return BrokerUnavailable(f"{url}: {_text(error)}")


_REFUSALS: Final = (
    ("ACCESS_REFUSED", "the broker does not accept this user name and password"),
    (" not found", "the broker has no such virtual host"),
    ("refused for user", "the broker does not let this user into this virtual host"),
)
