"""The queues of an installation, for tests that put something into them or look into them."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from shared.broker import Broker, Steward
from shared.broker.embedded.broker import EmbeddedBroker
from shared.broker.embedded.steward import EmbeddedSteward
from shared.broker.rabbitmq.broker import RabbitBroker
from shared.broker.steward.steward import KombuSteward
from shared.queues import Tier
from tests.flow.connector import Connector


@asynccontextmanager
async def opened(
    product: Connector, url: str | None, tiers: Sequence[Tier], sender: str
) -> AsyncIterator[Broker]:
    """Open the broker of an installation.

    Args:
        product: the installation.
        url: of its RabbitMQ, None for the embedded broker.
        tiers: its retry tiers.
        sender: as which stage to publish.
    """
    broker: EmbeddedBroker | RabbitBroker
    if url is None:
        broker = EmbeddedBroker(product.queue_file, tiers=tiers, name="test")
    else:
        broker = RabbitBroker(url, sender=sender, name="test", tiers=tiers, version="0")
    await broker.open()
    try:
        yield broker
    finally:
        await broker.close()


@contextmanager
def steward(product: Connector, url: str | None, tiers: Sequence[Tier]) -> Iterator[Steward]:
    """Return the operator's side of the broker."""
    found: EmbeddedSteward | KombuSteward
    found = EmbeddedSteward(product.queue_file, tiers) if url is None else KombuSteward(url, tiers)
    try:
        yield found
    finally:
        found.close()
