"""The brokers that the contract suite runs against, each fresh for every test."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from shared.broker import Broker, Delivery, Steward
from shared.broker.embedded.broker import EmbeddedBroker
from shared.broker.embedded.steward import EmbeddedSteward
from shared.queues import Tier
from tests.deliveries import singly

TIERS = (Tier("200ms", 0.2), Tier("5m", 300.0))


@asynccontextmanager
async def embedded_pair(
    tmp_path: Path, tiers: tuple[Tier, ...]
) -> AsyncIterator[tuple[Callable[[], Broker], Steward]]:
    path = tmp_path / "data" / "queue.db"
    steward = EmbeddedSteward(path, tiers)
    yield lambda: EmbeddedBroker(path, tiers=tiers, name="contract"), steward
    steward.close()


@asynccontextmanager
async def rabbitmq_pair(
    tmp_path: Path, tiers: tuple[Tier, ...]
) -> AsyncIterator[tuple[Callable[[], Broker], Steward]]:
    from tests.contract import rabbitmq  # starts a server, so only where it is wanted

    async with rabbitmq.rabbitmq_pair(tmp_path, tiers) as pair:
        yield pair


_PAIRS = {"embedded": embedded_pair, "rabbitmq": rabbitmq_pair}


@dataclass
class Bench:
    """A broker with its topology declared, and as many connections to it as a test likes."""

    make: Callable[[], Broker]
    steward: Steward
    stack: AsyncExitStack

    async def broker(self) -> Broker:
        """Return a broker that is open, and is closed after the test at the latest."""
        broker = self.make()
        await broker.open()
        self.stack.push_async_callback(broker.close)
        return broker

    def consume(
        self, broker: Broker, queue: str, prefetch: int = 50
    ) -> AsyncGenerator[Delivery, None]:
        """Return a consumer that is closed after the test at the latest."""
        deliveries = singly(broker.consume(queue, prefetch))
        self.stack.push_async_callback(deliveries.aclose)
        return deliveries


@pytest.fixture(params=sorted(_PAIRS))
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    pair = _PAIRS[request.param]
    async with pair(tmp_path, TIERS) as (make, steward), AsyncExitStack() as stack:
        steward.declare()
        yield Bench(make, steward, stack)
