"""A pika channel of which the requests can be awaited, and which says when and why it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from pika.channel import Channel
from pika.exceptions import AMQPError
from pika.spec import Basic

from shared.broker.rabbitmq.connection import MailConnection
from shared.errors import BrokerUnavailable
from shared.log import printable

ANSWERING: Final = 90.0
"""Seconds that the broker has for an answer. It needs long where a queue has lost its quorum, and
then says so itself, after some 65."""


LOOKING: Final = 10.0
"""Seconds that a queue has to say that it is empty."""


class ChannelEnded(BrokerUnavailable):
    """The channel is closed, and whatever was asked of it is not answered.

    Args:
        code: the reply code of the broker, 0 if it was not the broker that closed it.
        text: why, as text that is safe to show.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class AsyncChannel:
    """One channel of an open connection.

    Attributes:
        pika: pika's own channel, for what needs no answer.
        ended: why the channel ended, None while it is open.
    """

    def __init__(self, on_end: Callable[[ChannelEnded], None] | None = None) -> None:
        self.pika: Channel
        self._begun = False
        self.ended: ChannelEnded | None = None
        self._on_end = on_end
        self._waiting: set[asyncio.Future[Any]] = set()

    async def open(self, connection: MailConnection) -> None:
        """Open the channel.

        Raises:
            ChannelEnded: the connection or the channel is gone, or the broker does not answer.
        """
        opened = self._future()
        try:
            self.pika = connection.channel(on_open_callback=_resolver(opened))
        except AMQPError as error:
            self._waiting.discard(opened)
            raise ChannelEnded(0, _text(error)) from error
        self._begun = True
        self.pika.add_on_close_callback(self._on_closed)
        await self._answer(opened)

    def call(
        self, request: Callable[..., object], /, **arguments: object
    ) -> Coroutine[Any, Any, Any]:
        """Make a request, a method of ``pika``, at once; await the result for the frame in answer.

        Raises:
            ChannelEnded: the channel has ended, or (when awaited) ends before the answer, perhaps
                because of the request; or there is none.
        """
        answer = self._future()
        try:
            request(callback=_resolver(answer), **arguments)
        except AMQPError as error:
            self._waiting.discard(answer)
            raise self.ended or ChannelEnded(0, _text(error)) from error
        return self._answer(answer)

    async def declare_passive(self, queue: str) -> Any:
        """Return how many messages and consumers a queue has.

        Raises:
            ChannelEnded: the channel is gone, or there is no such queue.
        """
        return (await self.call(self.pika.queue_declare, queue=queue, passive=True)).method

    async def look(self, queue: str) -> None:
        """Return when a queue has answered what its first message is; that goes back at the end.

        Raises:
            ChannelEnded: there is no such queue, it is not ours to read, or does not answer.
        """
        looked = self._future()
        self.pika.add_callback(_resolver(looked), [Basic.GetEmpty])
        self.pika.basic_get(queue, lambda *_: _resolver(looked)(None))
        await self._answer(looked, LOOKING)

    def close(self) -> None:
        """Close the channel, if it is not; unsettled deliveries go back to their queue."""
        if self._begun and not (self.pika.is_closed or self.pika.is_closing):
            self.pika.close()

    def _future(self) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        return future

    async def _answer(self, future: asyncio.Future[Any], seconds: float = ANSWERING) -> Any:
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError as error:
            said = f"the broker has not answered for {seconds:g} seconds"
            raise ChannelEnded(0, said) from error
        finally:
            self._waiting.discard(future)

    def _on_closed(self, _: Channel, error: Exception) -> None:
        self.ended = ChannelEnded(getattr(error, "reply_code", 0), _text(error))
        for future in self._waiting:
            if not future.done():
                future.set_exception(self.ended)
        if self._on_end is not None:
            self._on_end(self.ended)


def _resolver(future: asyncio.Future[Any]) -> Callable[[Any], None]:
    def resolve(result: Any) -> None:
        if not future.done():
            future.set_result(result)

    return resolve


def _text(error: Exception) -> str:
    return printable(getattr(error, "reply_text", None) or str(error) or type(error).__name__)
