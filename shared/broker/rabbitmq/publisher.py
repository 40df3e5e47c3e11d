"""Publishing with pipelined confirms: many messages on their way, each caller told of its own.

A message counts as sent when the broker has confirmed it, which for a quorum queue is after the
write is on disk. Unroutable messages are returned before they are confirmed (``mandatory``). When
the channel ends, everything not confirmed is in doubt, and its senders are told so.
https://www.rabbitmq.com/docs/confirms#publisher-confirms
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from pika.exceptions import ShortStringTooLong, UnsupportedAMQPFieldException
from pika.spec import Basic

from shared.broker import Header, Send
from shared.broker.rabbitmq import frames
from shared.broker.rabbitmq.backoff import Backoff
from shared.broker.rabbitmq.channel import AsyncChannel, ChannelEnded
from shared.broker.rabbitmq.connection import MailConnection
from shared.broker.rabbitmq.link import Link
from shared.clock import Clock
from shared.errors import BrokerUnavailable, Refused
from shared.faultpoint import reach
from shared.log import Report, printable
from shared.wire import BODY_LIMIT

CONTENT_TYPE: Final = "application/msgpack"
LONGEST_PAUSE: Final = 5.0

_NOT_FOUND: Final = 404
_UNSENDABLE: Final = (
    ShortStringTooLong,
    UnsupportedAMQPFieldException,
    struct.error,
    ArithmeticError,
    TypeError,
    ValueError,
)


class _Batch:
    """The messages of one caller, who waits for the last of their confirms."""

    __slots__ = ("done", "left", "refused")

    def __init__(self, left: int) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.left = left
        self.refused: Refused | None = None

    def one_less(self) -> None:
        self.left -= 1
        if self.left or self.done.done():
            return
        if self.refused is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(self.refused)

    def fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(BrokerUnavailable(why))


class ConfirmChannel:
    """One channel in confirm mode.

    Args:
        exchange: where to publish; the routing key is the name of the queue.
    """

    def __init__(self, exchange: str) -> None:
        self.ended: asyncio.Future[ChannelEnded] = asyncio.get_running_loop().create_future()
        self._exchange = exchange
        self._channel = AsyncChannel(self._end)
        self._connection: MailConnection
        self._number = self._frame_max = 0
        self._last = 0
        self._floor = 1
        self._pending: dict[int, tuple[_Batch, Send]] = {}
        self._returned: set[int] = set()

    async def open(self, connection: MailConnection) -> None:
        """Open the channel and make sure of the exchange.

        Raises:
            ChannelEnded: the exchange does not exist, or the connection is gone.
        """
        await self._channel.open(connection)
        pika = self._channel.pika
        await self._channel.call(pika.exchange_declare, exchange=self._exchange, passive=True)
        pika.add_on_return_callback(self._on_return)
        await self._channel.call(pika.confirm_delivery, ack_nack_callback=self._on_confirm)
        self._connection = connection
        self._number = int(pika.channel_number)
        self._frame_max = int(connection.params.frame_max)

    @property
    def is_open(self) -> bool:
        """Whether messages can be published; false from the first sign of the channel's end."""
        return bool(self._channel.pika.is_open)

    def publish(self, sends: Sequence[Send]) -> asyncio.Future[None]:
        """Publish all, or none; return a future that ends with the last confirm or refusal.

        Raises:
            Refused: a message cannot be sent at all.
            BrokerUnavailable: the channel is closed.
        """
        messages = [self._frames(send) for send in sends]
        if not self._channel.pika.is_open:
            raise BrokerUnavailable("the channel is closed")
        batch = _Batch(len(sends))
        for send, message in zip(sends, messages, strict=True):
            self._connection.emit(message)
            self._last += 1
            self._pending[self._last] = (batch, send)
        return batch.done

    def _frames(self, send: Send) -> bytes:
        if len(send.body) > BODY_LIMIT:
            raise Refused(send.queue, f"{len(send.body)} bytes are more than a broker takes")
        try:
            return frames.published(
                self._number,
                self._exchange,
                send.queue,
                CONTENT_TYPE,
                send.message_id,
                _table(send.headers) if send.headers else b"",
                send.body,
                self._frame_max,
            )
        except _UNSENDABLE as error:
            raise Refused(
                send.queue, f"its headers cannot be sent: {type(error).__name__}"
            ) from error

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        last = method.delivery_tag
        tags: Sequence[int] = (last,)
        if method.multiple:
            tags = range(self._floor, last + 1)
            self._floor = last + 1
        refused = isinstance(method, Basic.Nack)
        for tag in tags:
            if (entry := self._pending.pop(tag, None)) is not None:
                reach(entry[1].queue, "published")
                self._returned.discard(tag)
                if refused:
                    entry[0].refused = Refused(entry[1].queue, "the broker could not store it")
                entry[0].one_less()

    def _on_return(self, _: object, method: Any, properties: Any, __: bytes) -> None:
        """Find the message that came back; the broker does not say by which tag it went."""
        for tag, (batch, send) in self._pending.items():
            same = send.queue == method.routing_key and send.message_id == properties.message_id
            if same and tag not in self._returned:
                self._returned.add(tag)
                batch.refused = Refused(send.queue, printable(method.reply_text))
                return

    def _end(self, reason: ChannelEnded) -> None:
        pending, self._pending = self._pending, {}
        for batch, _ in pending.values():
            batch.fail(f"the channel ended before the broker had confirmed: {reason}")
        if not self.ended.done():
            self.ended.set_result(reason)


class Publisher:
    """Keeps a channel in confirm mode open, on a connection of its own.

    It is needed because a broker that is short of memory or disk stops reading from connections
    that publish; acknowledgements of deliveries must not wait behind that.
    """

    def __init__(self, link: Link, exchange: str, report: Report, clock: Clock) -> None:
        self._link = link
        self._exchange = exchange
        self._report = report
        self._backoff = Backoff(clock, LONGEST_PAUSE)
        self._channel: ConfirmChannel | None = None
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether messages can be published just now."""
        return self._channel is not None and self._channel.is_open

    async def start(self) -> None:
        """Return once messages can be published."""
        self._task = asyncio.create_task(self._keep(), name=f"publisher of {self._exchange}")
        await self._ready.wait()

    def publish(self, sends: Sequence[Send]) -> asyncio.Future[None]:
        """Publish; return a future that ends with the last confirm.

        Raises:
            BrokerUnavailable: there is no channel just now. The future raises it too, when the
                channel ends before the last confirm.
            Refused: a message cannot be sent at all. The future raises it too.
        """
        if self._channel is None:
            raise BrokerUnavailable("not connected to the broker just now")
        return self._channel.publish(sends)

    async def close(self) -> None:
        """Keep no channel open any longer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _keep(self) -> None:
        while True:
            connection = await self._link.connection()
            channel = ConfirmChannel(self._exchange)
            try:
                await channel.open(connection)
            except ChannelEnded as error:
                self._tell(error)
            else:
                await self._until_end(channel)
            await self._backoff.pause()

    async def _until_end(self, channel: ConfirmChannel) -> None:
        self._backoff.succeeded()
        self._channel = channel
        self._ready.set()
        try:
            self._tell(await channel.ended)
        finally:
            self._channel = None
            self._ready.clear()

    def _tell(self, error: ChannelEnded) -> None:
        if error.code == _NOT_FOUND:
            what = "cannot publish: the topology is not declared yet"
        elif self._link.up:
            what = "publishing channel lost"
        else:
            return
        self._report(what, exchange=self._exchange, reason=str(error))


def _table(headers: Mapping[str, Header]) -> bytes:
    if len(headers) == 1:
        ((name, value),) = headers.items()
        if type(value) is str:
            return _one_text(name, value)  # the account, of which there are not many
    # pika knows no floating-point numbers.
    return frames.encoded(
        {
            name: Decimal(repr(value)) if type(value) is float else value
            for name, value in headers.items()
        }
    )


@lru_cache(maxsize=1024)
def _one_text(name: str, value: str) -> bytes:
    return frames.encoded({name: value})
