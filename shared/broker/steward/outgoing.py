"""Publishing by the operator's side of RabbitMQ: many at a time, with one wait for their confirms.

It trusts the broker's confirms and nothing else: what is neither confirmed nor refused counts as
not sent. A message that no queue takes comes back (``mandatory``) before its confirm, and counts as
refused, with all that was sent to the same queue together with it.
"""

# kombu has few annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from amqp import Channel, Message
from amqp.exceptions import AMQPError, ChannelError, MessageNacked
from kombu.connection import Connection

from shared.broker import Send
from shared.errors import BrokerUnavailable, Refused
from shared.log import printable

ANSWERING: Final = 60
"""Seconds after which a broker that says nothing counts as gone."""

PERSISTENT: Final = 2
"""The delivery mode of what outlives a restart of the broker (AMQP 0-9-1, basic class)."""


@contextmanager
def outgoing(connection: Connection, exchange: str) -> Iterator[Outgoing]:
    """Publish until the block ends.

    Args:
        connection: open.
        exchange: where to; "" publishes to the queues directly.
    """
    channel = connection.channel()
    try:
        yield Outgoing(connection, channel, exchange)
    finally:
        with suppress(AMQPError, OSError):
            channel.close()


def publish_one(channel: Any, message: Message, exchange: str, queue: str) -> None:
    """Publish a message, and return when it is confirmed.

    After a refusal no channel is certain of which message its next confirm speaks.

    Args:
        channel: of a connection with publisher confirms.
        message: what to publish.
        exchange: where to; "" publishes to the queue directly.
        queue: that is to take it.

    Raises:
        Refused: no queue takes it.
    """
    try:
        channel.basic_publish(message, exchange, queue, mandatory=True, confirm_timeout=ANSWERING)
    except (MessageNacked, ChannelError) as error:
        why = printable(getattr(error, "reply_text", None) or "it takes no messages")
        raise Refused(queue, why) from error


class Outgoing:
    """Messages that are published, and not all confirmed yet.

    Args:
        connection: open.
        channel: of it, for this alone.
        exchange: where to.
    """

    def __init__(self, connection: Connection, channel: Any, exchange: str) -> None:
        self._connection = connection
        self._channel = channel
        self._exchange = exchange
        self._number = 0
        self._unconfirmed: dict[int, str] = {}  # the queue of each, by its number
        self._returned: dict[str, str] = {}  # why, by queue
        self._refused: dict[int, Refused] = {}
        channel.confirm_select()
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.events["basic_return"].add(self._on_return)

    def send(self, send: Send) -> int:
        """Publish a message; return the number by which ``wait_settled`` speaks of it."""
        message = Message(
            send.body,
            content_type="application/msgpack",
            delivery_mode=PERSISTENT,
            message_id=send.message_id,
            application_headers=dict(send.headers),
        )
        self._number += 1
        self._unconfirmed[self._number] = send.queue
        with self._closing():
            # That of the class: a connection may have one of each channel wait for the confirm.
            Channel.basic_publish(
                self._channel, message, self._exchange, send.queue, mandatory=True
            )
        return self._number

    def wait_settled(self) -> Mapping[int, Refused]:
        """Wait until it is known what became of all; return what was refused, by number.

        Raises:
            BrokerUnavailable: the broker does not say, for a minute.
            Refused: it takes nothing from us.
        """
        until = time.monotonic() + ANSWERING
        with self._closing():
            while self._unconfirmed:
                try:
                    self._connection.drain_events(timeout=max(0.001, until - time.monotonic()))
                except TimeoutError as error:
                    why = f"RabbitMQ has not confirmed a message for {ANSWERING} seconds"
                    raise BrokerUnavailable(why) from error
        refused, self._refused, self._returned = self._refused, {}, {}
        return refused

    @contextmanager
    def _closing(self) -> Iterator[None]:
        """A channel that the broker closes says for which reason it takes nothing."""
        try:
            yield
        except ChannelError as error:
            queue = next(iter(self._unconfirmed.values()), "")
            raise Refused(queue, text(error)) from error

    def _on_ack(self, number: int, multiple: bool) -> None:
        for each, queue in self._named(number, multiple):
            if queue in self._returned:
                self._refused[each] = Refused(queue, self._returned[queue])

    def _on_nack(self, number: int, multiple: bool) -> None:
        for each, queue in self._named(number, multiple):
            self._refused[each] = Refused(queue, "RabbitMQ takes no more messages for it")

    def _on_return(self, error: Exception, _: str, queue: str, __: object) -> None:
        self._returned[queue] = text(error)

    def _named(self, number: int, multiple: bool) -> list[tuple[int, str]]:
        if not multiple:
            return [(number, self._unconfirmed.pop(number))]
        found = [each for each in self._unconfirmed if each <= number]
        return [(each, self._unconfirmed.pop(each)) for each in found]


def text(error: Exception) -> str:
    """Return what the broker says with an error, for a terminal."""
    return printable(getattr(error, "reply_text", None) or str(error) or type(error).__name__)
