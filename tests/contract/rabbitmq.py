"""RabbitMQ for the contract suite: one node for the whole run, one virtual host for each test."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from shared.broker import Broker, Steward
from shared.broker.rabbitmq.broker import RabbitBroker
from shared.broker.steward.steward import KombuSteward
from shared.queues import DELIVERY_LIMIT, Tier
from tests.servers.rabbitmq import shared_rabbitmq


@asynccontextmanager
async def rabbitmq_pair(
    _: Path, tiers: Sequence[Tier]
) -> AsyncIterator[tuple[Callable[[], Broker], Steward]]:
    server = shared_rabbitmq()
    vhost = server.vhost()
    # So that it gives up what nobody settles, as it does by itself where an earlier version
    # declared the queue.
    server.impose(vhost, "^incoming$", {"delivery-limit": DELIVERY_LIMIT})
    url = server.url(vhost)

    def make() -> Broker:
        return RabbitBroker(
            url, sender="postmaster", name="contract@test", tiers=tiers, version="0"
        )

    steward = KombuSteward(url, tiers)
    yield make, steward
    steward.close()
    server.drop_vhost(vhost)
