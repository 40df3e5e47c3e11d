"""One channel in confirm mode: many messages on their way, each caller told of its own.

A message counts as sent when the broker has confirmed it, which for a quorum queue is after the
write is on disk. Unroutable messages are returned before they are confirmed (``mandatory``). When
the channel ends, everything not confirmed is in doubt, and its senders are told so.
https://www.rabbitmq.com/docs/confirms#publisher-confirms
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from pika.spec import Basic

from shared.broker import Send
from shared.broker.rabbitmq import frames
from shared.broker.rabbitmq.bundles import Item, arrange, join
from shared.broker.rabbitmq.channel import AsyncChannel, ChannelEnded
from shared.broker.rabbitmq.connection import MailConnection
from shared.broker.rabbitmq.lasting_refusals import LastingRefusals
from shared.broker.rabbitmq.properties import fitting
from shared.clock import Clock
from shared.errors import BrokerUnavailable, Refused
from shared.failpoint import reach_all
from shared.log import printable
from shared.wire import BODY_LIMIT

CONTENT_TYPE: Final = "application/msgpack"


class _PublishCall:
    """The messages of one caller, in groups, each with an answer; it waits for the last confirm."""

    __slots__ = ("answers", "at", "done", "left")

    def __init__(self, groups: int, at: float) -> None:
        self.at = at
        self.done: asyncio.Future[list[Exception | None]] = (
            asyncio.get_running_loop().create_future()
        )
        self.answers: list[Exception | None] = [None] * groups
        self.left = 0

    def less(self, count: int) -> None:
        self.left -= count
        if not self.left and not self.done.done():
            self.done.set_result(self.answers)


class _Pending(NamedTuple):
    """An entry that is not confirmed yet: a message, or a bundle of them.

    Attributes:
        at: when it was sent, by the clock that never goes back.
    """

    at: float
    call: _PublishCall
    queue: str
    message_id: str
    items: Sequence[Item]

    def refuse(self, why: Exception) -> None:
        for item in self.items:
            self.call.answers[item.group] = why


class ConfirmChannel:
    """One channel in confirm mode.

    Args:
        exchange: where to publish; the routing key is the name of the queue.
        stubborn: is told which queues take what is sent to them, and which do not.
        clock: tells how long a confirm is waited for.
    """

    def __init__(self, exchange: str, stubborn: LastingRefusals, clock: Clock) -> None:
        self._clock = clock
        self._stubborn = stubborn
        self._retired = False
        self.ended: asyncio.Future[ChannelEnded] = asyncio.get_running_loop().create_future()
        self._exchange = exchange
        self._channel = AsyncChannel(self._end)
        self._connection: MailConnection
        self._number = self._frame_max = 0
        self._last = 0
        self._floor = 1
        self._pending: dict[int, _Pending] = {}
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
        await self._channel.call(pika.confirm_delivery, ack_nack_callback=self._on_frame)
        self._connection = connection
        self._number = int(pika.channel_number)
        connection.confirm(self._number, self._on_confirm)
        self._frame_max = int(connection.params.frame_max)

    @property
    def is_open(self) -> bool:
        """Whether messages can be published; false from the first sign of the channel's end."""
        return bool(self._channel.pika.is_open)

    @property
    def oldest(self) -> tuple[float, str] | None:
        """Since when a confirm is waited for, and of which queue; None where all are there."""
        entry = next(iter(self._pending.values()), None)
        return None if entry is None else (entry.at, entry.queue)

    def close(self) -> None:
        """Close the channel; what is not confirmed by then is in doubt."""
        self._channel.close()

    def publish(
        self, groups: Sequence[Sequence[Send]], *, unbundled: bool = False
    ) -> asyncio.Future[list[Exception | None]]:
        """Publish each group whole, or nothing of it.

        Args:
            groups: messages that stand or fall together.
            unbundled: each message gets an entry of its own.

        Returns:
            A future that ends with the last confirm; for each group None, Refused, or
            BrokerUnavailable where the channel ended before all of it was confirmed.

        Raises:
            BrokerUnavailable: the channel is closed.
        """
        if not self._channel.pika.is_open:
            raise BrokerUnavailable("the channel is closed")
        call = _PublishCall(len(groups), self._clock.monotonic())
        items: list[Item] = []
        for number, sends in enumerate(groups):
            try:
                items += [_item(number, send) for send in sends]
            except Refused as error:
                call.answers[number] = error
        for entry in ([item] for item in items) if unbundled else arrange(items):
            self._publish(call, entry)
        call.less(0)  # there may be none to wait for
        return call.done

    def retire(self) -> None:
        """Close the channel when all that went over it is confirmed; nothing more may."""
        self._retired = True
        if not self._pending:
            self._channel.close()

    def _publish(self, call: _PublishCall, items: Sequence[Item]) -> None:
        send, table = items[0].send, items[0].table
        if len(items) > 1:
            send, table = fitting(join(items))
        message = frames.publish_frames(
            self._number,
            self._exchange,
            send.queue,
            CONTENT_TYPE,
            send.message_id,
            table,
            send.body,
            self._frame_max,
        )
        self._connection.emit(message)
        self._last += 1
        self._pending[self._last] = _Pending(call.at, call, send.queue, send.message_id, items)
        call.left += 1

    def _on_frame(self, frame: Any) -> None:
        method = frame.method
        nack = isinstance(method, Basic.Nack)
        self._on_confirm(method.delivery_tag, bool(method.multiple), refused=nack)

    def _on_confirm(self, last: int, multiple: bool, *, refused: bool = False) -> None:
        tags: Sequence[int] = (last,)
        if multiple:
            tags = range(self._floor, last + 1)
            self._floor = last + 1
        found = {tag: entry for tag in tags if (entry := self._pending.pop(tag, None)) is not None}
        confirmed = list(found.values())
        reach_all([i.send.queue for entry in confirmed for i in entry.items], "published")
        came_back = self._returned.intersection(tags) if self._returned else ()
        self._returned.difference_update(came_back)
        for entry in confirmed:
            if refused:
                entry.refuse(Refused(entry.queue, "the broker could not store it"))
                self._stubborn.note_refused(entry.queue)
            entry.call.less(1)
        if not refused and self._stubborn:
            self._stubborn.note_taken(e.queue for tag, e in found.items() if tag not in came_back)
        if self._retired:
            self.retire()

    def _on_return(self, _: object, method: Any, properties: Any, __: bytes) -> None:
        """Find the message that came back; the broker does not say by which tag it went."""
        for tag, entry in self._pending.items():
            same = (entry.queue, entry.message_id) == (method.routing_key, properties.message_id)
            if same and tag not in self._returned:
                self._returned.add(tag)
                self._stubborn.note_returned(entry.queue)
                entry.refuse(Refused(entry.queue, printable(method.reply_text)))
                return

    def _end(self, reason: ChannelEnded) -> None:
        if self._number:
            self._connection.confirm(self._number, None)  # another channel gets this one's number
        pending, self._pending = self._pending, {}
        why = BrokerUnavailable(f"the channel ended before the broker had confirmed: {reason}")
        for entry in pending.values():
            entry.refuse(why)
            entry.call.less(1)
        if not self.ended.done():
            self.ended.set_result(reason)


def _item(group: int, send: Send) -> Item:
    """Return a message, made sure of before anything of its group is sent.

    Raises:
        Refused: it cannot be sent.
    """
    if len(send.body) > BODY_LIMIT:
        raise Refused(send.queue, f"{len(send.body)} bytes are more than a broker takes")
    return Item(group, *fitting(send))
