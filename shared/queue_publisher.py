"""Makes envelopes durable in one queue, for those who start messages on their way."""

from __future__ import annotations

from shared import wire
from shared.broker import Broker, Send
from shared.message import Envelope, Payload


class QueuePublisher:
    """A queue to put envelopes into.

    Args:
        broker: where the queue is.
        queue: its name.
    """

    def __init__(self, broker: Broker, queue: str) -> None:
        self._broker = broker
        self._queue = queue

    async def put(self, *envelopes: Envelope[Payload]) -> None:
        """Return once all of them are durable.

        Raises:
            Refused: the broker did not take one.
            BrokerUnavailable: the connection broke before the outcome was known.
        """
        await self._broker.publish(
            *(Send(self._queue, wire.onward(e), e.id, {"account": e.account}) for e in envelopes)
        )
