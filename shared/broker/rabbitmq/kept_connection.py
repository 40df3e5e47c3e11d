"""One connection to RabbitMQ, kept up: made, lost, reported and made again until it is closed.

Of several nodes each is tried in its turn, in an order that is another one each time: after a loss,
too, connections spread over those that are there. Names are looked up, and the authorities that TLS
trusts are read, for each try: both change while a process runs.

Whatever the broker refuses us for is reported, in its own words, and tried again, for it may be
mended there: a limit, a virtual host that is made after us, a permission. A login that it has never
accepted, and not for a while (``Doubt``), is an error of the configuration.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from pika.exceptions import ConnectionWrongStateError

from shared.backoff import Backoff
from shared.broker.amqp_url import AmqpUrl
from shared.broker.rabbitmq.connection import MailConnection, parameters, text, translate
from shared.broker.refusal_words import Doubt
from shared.clock import Clock
from shared.errors import BrokerRefuses, BrokerUnavailable, ConfigError
from shared.log import Report, printable
from shared.supervision import supervise

CLOSING: Final = 5.0
"""Seconds that a broker has for its part of a proper goodbye."""

FIRST_PAUSE: Final = 0.1
"""Seconds to the next try, for all that is tried again at this broker; later tries wait longer."""

LONGEST_PAUSE: Final = 30.0


class KeptConnection:
    """A connection that comes back by itself.

    Args:
        urls: where to, and as whom; one node or several, each as good as the others.
        ca_file: the authority that TLS trusts, None for the system's store.
        title: the connection's name in the management UI.
        version: the version of this program.
        report: is told of losses and refusals.
        clock: times the pauses.

    Raises:
        ConfigError: the file cannot be read.

    Attributes:
        blocked: why the broker reads nothing from us just now (an alarm), or None.
    """

    def __init__(
        self,
        urls: Sequence[AmqpUrl],
        ca_file: str | None,
        title: str,
        version: str,
        report: Report,
        clock: Clock,
    ) -> None:
        self.blocked: str | None = None
        self._urls = urls
        self._made_with = (ca_file, title, version)
        for url in urls:
            parameters(url, *self._made_with)
        self._title = title
        self._report = report
        self._clock = clock
        self._backoff = Backoff(clock, FIRST_PAUSE, LONGEST_PAUSE, jitter=True)
        self._connection: MailConnection | None = None
        self._change = asyncio.Event()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refused: ConfigError | None = None
        self._doubt = Doubt(clock)
        self._closed = False
        self._once = False  # connected
        self._task: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether the connection is open; false from the first sign of its end."""
        return self._connection is not None and bool(self._connection.is_open)

    async def start(self) -> None:
        """Connect; return when that has worked, however long it takes.

        Raises:
            BrokerRefuses: the broker does not accept user name and password.
        """
        self._task = supervise(self._keep, f"connects {self._title} to RabbitMQ", self._clock)
        await self.connection()

    async def connection(self) -> MailConnection:
        """Return the open connection, once there is one.

        Raises:
            BrokerUnavailable: it was closed.
            BrokerRefuses: user name and password were never accepted.
        """
        while self._connection is None:
            if self._closed:
                raise BrokerUnavailable("the connection to the broker is closed")
            if self._refused is not None:
                raise self._refused
            self._change.clear()
            await self._change.wait()
        return self._connection

    def now(self) -> MailConnection:
        """Return the open connection.

        Raises:
            BrokerUnavailable: there is none just now.
        """
        if self._connection is None:
            nodes = ", ".join(map(str, self._urls))
            raise BrokerUnavailable(f"not connected to {nodes}")
        return self._connection

    async def unblocked(self) -> None:
        """Return when no alarm is known of: it is over, or its connection is gone or closed."""
        await self._flowing.wait()

    def drop(self) -> None:
        """Disconnect, and connect anew."""
        if self._connection is not None:
            with suppress(ConnectionWrongStateError):
                self._connection.close()

    async def close(self) -> None:
        """Say goodbye and disconnect; with a broker that does not answer, just stop."""
        self._closed = True
        self._change.set()
        self._flowing.set()
        if self._task is None:
            return
        if self._connection is None:
            self._task.cancel()
        else:
            self.drop()
        _, pending = await asyncio.wait([self._task], timeout=CLOSING)
        for task in pending:
            task.cancel()
            await asyncio.wait([task])

    async def _keep(self) -> None:
        while not self._closed:
            await self._try_each()
            if self._refused is not None:
                return
            if not self._closed:
                await self._backoff.pause()

    async def _try_each(self) -> None:
        """Try each node once, until one lets us in; return when that connection has ended."""
        refused: list[BrokerRefuses] = []
        for url in random.sample(self._urls, len(self._urls)):
            if self._closed:
                return
            try:
                lost = await self._connect(url)
            except BrokerRefuses as error:
                self._report("broker refused the connection", broker=str(url), reason=error.what)
                refused += [error] if error.login else []
            except (BrokerUnavailable, ConfigError) as error:
                self._report("broker unreachable", broker=str(url), reason=error)
            else:
                await self._wait_lost(lost, url)
                return
        if self._doubt.over(login_refused=len(refused) == len(self._urls)) and not self._once:
            self._refused = refused[0]
            self._change.set()

    async def _wait_lost(self, lost: asyncio.Future[str], url: AmqpUrl) -> None:
        if self._once:
            self._report("broker reconnected", broker=str(url))
        self._once = True
        self._backoff.note_success()
        try:
            reason = await lost
        finally:
            self._connection = self.blocked = None
            self._flowing.set()
        if not self._closed:
            self._report("broker connection lost", broker=str(url), reason=reason)

    async def _connect(self, url: AmqpUrl) -> asyncio.Future[str]:
        """Connect once; return a future that ends with the reason of the connection's end."""
        made_with = parameters(url, *self._made_with)
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()
        lost: asyncio.Future[str] = loop.create_future()
        connection = MailConnection(
            made_with,
            on_open_callback=lambda _: _end(opened, None),
            on_open_error_callback=lambda _, error: _end(opened, translate(error, url)),
            on_close_callback=lambda _, error: _end(lost, text(error)),
        )
        connection.add_on_connection_blocked_callback(
            lambda _, frame: self._alarm(url, printable(str(frame.method.reason)))
        )
        connection.add_on_connection_unblocked_callback(lambda *_: self._alarm(url, None))
        try:
            await opened
        except asyncio.CancelledError:
            with suppress(ConnectionWrongStateError):
                connection.close()
            raise
        self._connection = connection
        self._change.set()
        return lost

    def _alarm(self, url: AmqpUrl, reason: str | None) -> None:
        self.blocked = reason
        if reason is None:
            self._flowing.set()
            self._report("broker accepts messages again", broker=str(url))
        else:
            self._flowing.clear()
            self._report("broker blocked: it accepts no messages", broker=str(url), reason=reason)


def _end(future: asyncio.Future[Any], result: object) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
