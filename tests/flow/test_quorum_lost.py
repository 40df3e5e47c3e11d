"""A queue that has lost the majority of its nodes: nothing breaks, and nothing is answered.

On one node: the process of the queue's only member is suspended, and the broker says, and leaves
unsaid, what it does where the others are away. ``scripts/test-cluster`` has the others.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.health import UNCONFIRMED_FOR, Health
from shared.broker import Send
from shared.broker.rabbitmq.broker import RabbitBroker
from shared.errors import BrokerUnavailable
from shared.metrics import UNCONFIRMED, UNSUBSCRIBED, Metrics
from tests.clock import ShiftedClock
from tests.deliveries import singly
from tests.flow.forked import ForkedConnector
from tests.flow.rabbitmq_site import Site, eventually, one


@contextlib.contextmanager
def without_majority(site: Site, *queues: str) -> Iterator[None]:
    """Let queues answer nothing for the block."""
    names = ", ".join(f"'{site.vhost}_{queue}'" for queue in queues)
    each = f"[sys:{{}}({{{{Q, node()}}}}) || Q <- [{names}]]."
    site.server.ctl("eval", each.format("suspend"))
    try:
        yield
    finally:
        site.server.ctl("eval", each.format("resume"))


@contextlib.asynccontextmanager
async def watched(site: Site, clock: ShiftedClock) -> AsyncIterator[tuple[RabbitBroker, Health]]:
    """Yield a broker that is open, and what its process tells of itself."""
    broker = site.make(clock=clock)
    await broker.open()
    vitals = Health(broker, clock, Metrics(served=True), "0")
    vitals.started = True
    beating = asyncio.create_task(vitals.beat())
    try:
        yield broker, vitals
    finally:
        beating.cancel()
        await broker.close()


def ready(vitals: Health) -> str:
    """Return what /readyz answers."""
    return vitals.answer("/readyz")[2].decode()


def gauge(vitals: Health, name: str) -> float:
    lines = vitals.answer("/metrics")[2].decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


async def test_what_is_not_confirmed_is_told(site: Site, tmp_path: Path) -> None:
    clock = ShiftedClock(tmp_path / "clock")
    async with watched(site, clock) as (broker, vitals):
        await broker.publish(Send("parsed", b"y", "m1"))
        assert ready(vitals) == "ok\n"
        with without_majority(site, "parsed"):
            publishing = asyncio.create_task(broker.publish(Send("parsed", b"y", "m2")))
            await eventually(lambda: broker.unconfirmed > 0, "the message to be sent")
            assert ready(vitals) == "ok\n"
            clock.advance(UNCONFIRMED_FOR)
            await eventually(lambda: "has not confirmed a message" in ready(vitals), "/readyz")
            await eventually(lambda: site.reported("the broker does not confirm"), "a report")
            assert gauge(vitals, UNCONFIRMED) >= UNCONFIRMED_FOR
        await publishing
        await eventually(lambda: ready(vitals) == "ok\n", "/readyz to be well again")
        await eventually(lambda: site.reported("the broker confirms again"), "a report")
    assert await site.held("parsed") == {"m1": 1, "m2": 1}


async def test_a_subscription_that_is_not_given_is_told(site: Site, tmp_path: Path) -> None:
    clock = ShiftedClock(tmp_path / "clock")
    async with watched(site, clock) as (broker, vitals):
        with without_majority(site, "incoming"):
            waiting = asyncio.create_task(anext(broker.consume("incoming", 10)))
            await eventually(
                lambda: "has not started consumers on incoming" in ready(vitals), "/readyz"
            )
            assert gauge(vitals, UNSUBSCRIBED) == 1
            clock.advance(UNCONFIRMED_FOR)
            await eventually(lambda: site.reported("does not start our consumer"), "a report")
        await eventually(lambda: ready(vitals) == "ok\n", "/readyz to be well again")
        assert gauge(vitals, UNSUBSCRIBED) == 0
        await site.publish("m1")
        assert [delivery.message_id for delivery in await waiting] == ["m1"]


async def test_a_subscription_that_the_broker_does_not_end_is_left_to_it(site: Site) -> None:
    async with site.broker() as broker:
        deliveries = singly(broker.consume("incoming", 10))
        await site.publish("m1", "m2")
        delivery, other = await one(deliveries), await one(deliveries)
        with without_majority(site, "incoming"):
            await deliveries.aclose()
            # The broker gives up after a minute, and the connection with it: we, before.
            assert broker.connected
            assert not site.reported("broker connection lost")
            await broker.publish(Send("parsed", b"y", "m1"))
            await broker.settle(delivery, Send("parsed", b"y", "m2"))
        await broker.settle(other)
    assert await site.held("parsed") == {"m1": 1, "m2": 1}
    assert not await site.held("incoming")


async def test_what_the_broker_calls_empty_is_not_believed(
    site: Site, product: ForkedConnector
) -> None:
    product.configure([], f"maildir://{product.folder}/mail/{{local}}", site.url)
    async with site.broker() as broker:
        await broker.publish(Send("parsed", b"y", "m1"))
        with without_majority(site, "parsed"):
            asked = asyncio.create_task(broker.depths(["parsed"]))
            shown = await asyncio.to_thread(product.cli, "topology", "show")
            with pytest.raises(BrokerUnavailable):
                await asked
    assert shown.returncode == 1
    assert "cannot say what is in parsed" in shown.stderr
    assert "Are the nodes of the broker running" in shown.stderr
    assert not shown.stdout
