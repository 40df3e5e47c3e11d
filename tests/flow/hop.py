"""A stage between two queues of RabbitMQ, for tests that harm what it works with."""

import asyncio
from collections import Counter

from shared.broker import Delivery, Send
from shared.broker.rabbitmq.broker import RabbitBroker
from shared.errors import BrokerUnavailable, DeliveryLost
from tests.deliveries import singly
from tests.flow.rabbitmq_site import eventually


class Hop:
    """A stage between two queues, which forwards every message until it has done so for all."""

    def __init__(self, broker: RabbitBroker) -> None:
        self.broker = broker
        self.settled: Counter[str] = Counter()
        self.doubtful: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        async for delivery in singly(self.broker.consume("incoming", 50)):
            task = asyncio.create_task(self._forward(delivery))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, delivery: Delivery) -> None:
        id_ = delivery.message_id
        while True:
            try:
                await self.broker.settle(delivery, Send("parsed", b"y", id_))
            except DeliveryLost:
                self.doubtful[id_] += 1
                return
            except BrokerUnavailable:
                self.doubtful[id_] += 1
                await eventually(lambda: self.broker.connected, "the broker to be back")
            else:
                self.settled[id_] += 1
                return
