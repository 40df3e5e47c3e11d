"""What the tests of the embedded broker share: brokers on one file, and trouble to give them."""

import asyncio
import resource
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest

from shared.broker import Delivery, Send
from shared.broker.embedded.broker import EmbeddedBroker
from shared.clock import Clock
from shared.queues import Tier
from tests.deliveries import singly

TIERS = (Tier("5m", 300.0), Tier("2h", 7200.0))
PATIENCE = 30.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "queue.db"


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def opened(path: Path, stack: AsyncExitStack) -> Callable[..., Awaitable[EmbeddedBroker]]:
    async def open_one(clock: Clock | None = None, patience: float = 5.0) -> EmbeddedBroker:
        broker = EmbeddedBroker(path, tiers=TIERS, name="test", clock=clock, patience=patience)
        async with asyncio.timeout(PATIENCE):
            await broker.open()
        stack.push_async_callback(broker.close)
        return broker

    return open_one


Open = Callable[..., Awaitable[EmbeddedBroker]]


def send(number: int, queue: str = "incoming", body: bytes = b"body") -> Send:
    return Send(queue, body, f"id-{number}", {"account": "sales"})


async def take(broker: EmbeddedBroker, count: int = 1, queue: str = "incoming") -> list[Delivery]:
    deliveries = singly(broker.consume(queue, count))
    async with asyncio.timeout(PATIENCE):
        return [await anext(deliveries) for _ in range(count)]


async def eventually(true: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while not await true():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"waited in vain for {what}")


async def has_depth(broker: EmbeddedBroker, queue: str, depth: int) -> None:
    async def true() -> bool:
        return (await broker.depths([queue]))[queue] == depth

    await eventually(true, f"{depth} messages in {queue}")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the queue file as another process in a long transaction would."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size: to SQLite, the disk takes no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
