"""A place on a RabbitMQ for one test: a virtual host, brokers on it, and what they report."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from shared.broker import Delivery, Send
from shared.broker.rabbitmq.broker import RabbitBroker
from shared.broker.steward.steward import KombuSteward
from shared.clock import Clock
from shared.queues import Tier
from tests.deliveries import singly
from tests.servers.rabbitmq import RabbitServer

TIERS = (Tier("1s", 1.0),)
PATIENCE = 90.0
QUIET = 0.7
"""Seconds without a delivery after which a queue counts as empty."""


class Site:
    """A virtual host of a node."""

    def __init__(self, server: RabbitServer, vhost: str) -> None:
        self.server = server
        self.vhost = vhost
        self.url = server.url(vhost)
        self.reports: list[str] = []

    def report(self, what: str, /, **about: object) -> None:
        self.reports.append(f"{what} {about}")

    def reported(self, what: str) -> bool:
        return any(what in line for line in self.reports)

    def steward(self) -> KombuSteward:
        return KombuSteward(self.url, TIERS)

    def declare(self) -> None:
        steward = self.steward()
        steward.declare()
        steward.close()

    def make(
        self, sender: str = "parser", url: str | None = None, clock: Clock | None = None
    ) -> RabbitBroker:
        return RabbitBroker(
            url or self.url,
            sender=sender,
            name=f"{sender}@test",
            tiers=TIERS,
            version="0",
            clock=clock,
            report=self.report,
        )

    @asynccontextmanager
    async def broker(self, sender: str = "parser") -> AsyncIterator[RabbitBroker]:
        broker = self.make(sender)
        try:
            async with asyncio.timeout(PATIENCE):
                await broker.open()
            yield broker
        finally:
            await broker.close()

    async def publish(self, *ids: str) -> None:
        async with self.broker("fetcher") as broker:
            await asyncio.gather(*(broker.publish(Send("incoming", b"x", id_)) for id_ in ids))

    async def held(self, queue: str) -> Counter[str]:
        """Return how often each message is in a queue, taking them out until none comes."""
        found: Counter[str] = Counter()
        async with self.broker("postmaster") as broker:
            deliveries = singly(broker.consume(queue, 500))
            with suppress(TimeoutError):
                while True:
                    delivery = await asyncio.wait_for(anext(deliveries), QUIET)
                    found[delivery.message_id] += 1
                    await broker.settle(delivery)
        return found


async def eventually(true: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while not true():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"waited in vain for {what}")


async def one(deliveries: AsyncGenerator[Delivery, None]) -> Delivery:
    async with asyncio.timeout(PATIENCE):
        return await anext(deliveries)
