"""Consuming one queue over one channel: deliveries in, acknowledgements out.

A delivery tag means something on the channel that it came over, and nowhere else. So a subscription
ends with its channel: what it had not handed on is dropped (the broker delivers it again), and
what it had handed on can no longer be settled. The next subscription starts from nothing.

An entry of a queue is a message or a bundle of them. The messages of a bundle are handed on and
settled one by one; the entry is acknowledged with the last of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, cast

from shared import wire
from shared.broker import LONGEST_KEPT, Delivery, Header
from shared.broker.bundle_headers import headers_of_each
from shared.broker.dead_letter import own
from shared.broker.rabbitmq import frames
from shared.broker.rabbitmq.channel import AsyncChannel, ChannelEnded
from shared.broker.rabbitmq.closing import PARTING, wait_until_taken
from shared.broker.rabbitmq.connection import MailConnection
from shared.errors import DeliveryLost

DELIVERY_COUNT: Final = "x-delivery-count"
"""How often a quorum queue has taken the message back; absent or 0 the first time."""


class Subscription:
    """One subscription to a queue, for as long as its channel lives.

    Args:
        queue: the queue.
        prefetch: how many deliveries may be unsettled at a time.
        consumer_tag: how the management UI shows this consumer.

    Attributes:
        most: how often the broker had handed out before what it has handed out most often.
    """

    def __init__(self, queue: str, prefetch: int, consumer_tag: str) -> None:
        self.queue = queue
        self.most = 0
        self._prefetch = prefetch
        self._consumer_tag = consumer_tag
        self._channel = AsyncChannel(self._end)
        self._buffer: deque[list[Delivery]] = deque()  # by entry
        self._arrival: asyncio.Future[None] | None = None
        self._numbered = 0
        self._unsettled: dict[int, int] = {}  # the delivery tag of each message, by its number
        self._left: dict[int, int] = {}  # the unsettled messages of each entry, by delivery tag
        self._in_hand = 0
        self._acked: list[int] = []
        self._stopped = False
        self._parted = False  # the broker was told, and has answered or had its time
        self._consumers = 0  # of the queue when we still were one of them, 0 if it did not say
        self._ending: asyncio.Task[None] | None = None
        self._lost: str | None = None
        self._loop = asyncio.get_running_loop()
        self._undivert = _nothing

    async def open(self, connection: MailConnection) -> None:
        """Subscribe.

        Raises:
            ChannelEnded: there is no such queue, it is not ours to read, or the connection is gone.
        """
        await self._channel.open(connection)
        pika = self._channel.pika
        number = pika.channel_number
        connection.receive(number, self._receive)
        self._undivert = lambda: connection.receive(number, None)
        try:
            pika.add_on_cancel_callback(self._on_cancel)
            await self._channel.call(pika.basic_qos, prefetch_count=self._prefetch)
            await self._channel.call(
                pika.basic_consume,
                queue=self.queue,
                on_message_callback=self._on_message,
                consumer_tag=self._consumer_tag,
            )
        except (asyncio.CancelledError, ChannelEnded):
            self._undivert()
            self._channel.close()
            raise

    @property
    def lost(self) -> str | None:
        """Why the subscription ended; None while it lasts."""
        return self._lost

    async def next(self) -> list[Delivery]:
        """Return what has come, once there is something; nothing when it has ended.

        Entries are handed on whole: with the last one, more than ``prefetch`` may be unsettled.
        """
        while not self._buffer or self._in_hand >= self._prefetch:
            if self._stopped or self._lost is not None:
                return []
            self._arrival = self._loop.create_future()
            await self._arrival
        arrived: list[Delivery] = []
        while self._buffer and self._in_hand < self._prefetch:
            entry = self._buffer.popleft()
            self._in_hand += len(entry)
            arrived += entry
        return arrived

    def loss(self, number: int) -> DeliveryLost | None:
        """Return why a message of this subscription is no longer ours, None if it still is."""
        if number in self._unsettled:
            return None
        return DeliveryLost(f"{self.queue}: {self._lost or 'this delivery is settled already'}")

    def forget(self, delivery: Delivery) -> None:
        """Forget a delivery, if it still is ours."""
        self.ack(_number(delivery))

    def put_back(self, delivery: Delivery) -> None:
        """Hand a delivery on again, or give it back, if it still is ours."""
        if _number(delivery) in self._unsettled:
            self._again([delivery])

    def open_up(self, bundle: Delivery, messages: Sequence[tuple[str, bytes]]) -> None:
        """Hand on the messages of a bundle that was handed on whole, or give it back."""
        tag = self._unsettled.pop(_number(bundle), None)
        if tag is not None:
            self._again(
                self._entry(tag, messages, headers_of_each(bundle.headers), bundle.redeliveries)
            )

    def _again(self, entry: list[Delivery]) -> None:
        self._in_hand -= 1
        self._buffer.appendleft(entry)
        self._wake()
        if self._stopped:
            self._give_back()

    def ack(self, number: int) -> DeliveryLost | None:
        """Forget a message, or return why it is no longer ours.

        Acknowledgements of one turn of the event loop go out together.
        """
        tag = self._unsettled.pop(number, None)
        if tag is None:
            return self.loss(number)
        self._in_hand -= 1
        if self._arrival is not None and self._buffer:
            self._wake()
        self._left[tag] -= 1
        if not self._left[tag]:
            del self._left[tag]
            if not self._acked:
                self._loop.call_soon(self.flush)
            self._acked.append(tag)
        return None

    def flush(self) -> None:
        """Send the acknowledgements that wait for the end of this turn of the event loop."""
        acked, self._acked = self._acked, []
        pika = self._channel.pika
        if not acked or not pika.is_open:
            return
        # "Multiple" means all up to a tag: only as far as nothing unsettled lies in between.
        first_unsettled = next(iter(self._left), max(acked) + 1)
        below = [tag for tag in acked if tag < first_unsettled]
        if below:
            pika.basic_ack(max(below), multiple=len(below) > 1)
        for tag in acked:
            if tag > first_unsettled:
                pika.basic_ack(tag)
        self._close_when_settled()

    async def stop(self) -> None:
        """Take no more; give back what was not handed on. The rest can still be settled."""
        self._stopped = True
        self._wake()
        end = self._loop.time() + PARTING
        with suppress(ChannelEnded, TimeoutError):
            async with asyncio.timeout_at(end):
                self._consumers = (await self._channel.declare_passive(self.queue)).consumer_count
        self._undivert()  # what still comes pika rejects
        if self._lost is not None or not self._channel.pika.is_open:
            return
        # Cancelled first: what is given back would come straight here again.
        cancelled = self._channel.call(
            self._channel.pika.basic_cancel, consumer_tag=self._consumer_tag
        )
        self._give_back()
        try:
            with suppress(ChannelEnded, TimeoutError):
                async with asyncio.timeout_at(end):
                    await cancelled
        finally:
            self._parted = True
        self.flush()
        self._close_when_settled()

    async def end(self) -> None:
        """Give back what is unsettled, if we have stopped; return when the queue has it all."""
        self.flush()
        if self._parted and self._unsettled and self._channel.pika.is_open:
            self._channel.pika.basic_nack(0, multiple=True, requeue=True)
            self._lose("it was given back at the end")
            self._close_when_settled()
        if self._ending is not None:
            await asyncio.wait([self._ending])

    def _receive(self, message: frames.DeliveredFrames) -> None:
        told, count = _decode_headers(message.table)
        redeliveries = max(int(message.redelivered), count)
        self._hold(message.tag, message.message_id, told, redeliveries, message.body)

    def _on_message(self, _: object, method: Any, properties: Any, body: bytes) -> None:
        headers = properties.headers or {}
        redeliveries = max(int(method.redelivered), _count(headers))
        message_id = properties.message_id or ""
        self._hold(method.delivery_tag, message_id, own(headers), redeliveries, body)

    def _hold(
        self,
        tag: int,
        message_id: str,
        headers: Mapping[str, Header],
        redeliveries: int,
        body: bytes,
    ) -> None:
        self.most = max(self.most, redeliveries)
        messages = None if redeliveries else wire.unbundled(body)
        if messages is None:
            entry = self._entry(tag, [(message_id, body)], headers, redeliveries)
        else:
            entry = self._entry(tag, messages, headers_of_each(headers), redeliveries)
        self._buffer.append(entry)
        if self._arrival is not None:
            self._wake()

    def _entry(
        self,
        tag: int,
        messages: Sequence[tuple[str, bytes]],
        headers: Mapping[str, Header],
        redeliveries: int,
    ) -> list[Delivery]:
        first = self._numbered + 1
        self._numbered += len(messages)
        self._left[tag] = len(messages)
        self._unsettled.update((number, tag) for number in range(first, self._numbered + 1))
        return [
            Delivery(self.queue, body, id_, headers, redeliveries, (self, number))
            for number, (id_, body) in enumerate(messages, first)
        ]

    def _wake(self) -> None:
        arrival, self._arrival = self._arrival, None
        if arrival is not None and not arrival.done():
            arrival.set_result(None)

    def _give_back(self) -> None:
        for entry in self._buffer:
            tags = {self._unsettled.pop(number) for number in map(_number, entry)}
            for tag in tags:
                del self._left[tag]
                self._channel.pika.basic_nack(tag, requeue=True)
        self._buffer.clear()

    def _close_when_settled(self) -> None:
        if self._parted and not self._unsettled and self._ending is None:
            self._ending = self._loop.create_task(self._close())

    async def _close(self) -> None:
        if self._consumers and self._channel.pika.is_open:
            await wait_until_taken(self._channel, self.queue, self._consumers)
        self._channel.close()

    def _on_cancel(self, _: object) -> None:
        """End the subscription: the queue was deleted, or has moved to another node."""
        self.flush()
        self._lose("the broker cancelled the consumer")
        self._channel.close()

    def _end(self, reason: ChannelEnded) -> None:
        self._lose(str(reason))

    def _lose(self, reason: str) -> None:
        self._undivert()  # another channel gets this one's number
        self._lost = self._lost or reason
        self._buffer.clear()
        self._unsettled.clear()
        self._left.clear()
        self._acked.clear()
        self._wake()


def _decode_headers(table: bytes) -> tuple[Mapping[str, Header], int]:
    """Return the sender's headers in a table, and the broker's count of earlier hand-outs."""
    return _kept(table) if len(table) <= LONGEST_KEPT else _read(table)


@lru_cache(maxsize=1024)
def _kept(table: bytes) -> tuple[Mapping[str, Header], int]:
    return _read(table)


def _read(table: bytes) -> tuple[Mapping[str, Header], int]:
    try:
        headers = frames.headers(table) if table else {}
    except Exception:  # noqa: BLE001  (a sender's table of what pika cannot read: a year, a type)
        headers = {}
    return own(headers), _count(headers)


def _count(headers: Mapping[str, Any]) -> int:
    """Return the broker's count of earlier hand-outs; 0 for what is none, as a sender sets it."""
    count = headers.get(DELIVERY_COUNT, 0)
    # RabbitMQ sends 64 bits, which pika reads as an int of a class of its own.
    return int(count) if isinstance(count, int) and not isinstance(count, bool) else 0


def _number(delivery: Delivery) -> int:
    _, number = cast(tuple[Subscription, int], delivery.tag)
    return number


def _nothing() -> None:
    """Take nothing back."""
