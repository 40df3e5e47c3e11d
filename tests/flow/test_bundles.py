"""Over RabbitMQ small messages share entries of a queue, and nobody but RabbitMQ sees any of it."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import aclosing, suppress
from typing import cast

import pytest

from shared.broker import Delivery, Send
from shared.broker.rabbitmq import bundle_splitter
from shared.broker.rabbitmq.broker import RabbitBroker
from shared.broker.rabbitmq.subscription import Subscription
from shared.errors import DeliveryLost, Refused
from tests.deliveries import singly
from tests.flow.rabbitmq_site import PATIENCE, Site, eventually

ACCOUNT = {"account": "sales"}


def mail(count: int, queue: str = "incoming", size: int = 1_000) -> list[Send]:
    return [Send(queue, bytes([n]) * size, f"m{n}", ACCOUNT) for n in range(count)]


async def entries(broker: RabbitBroker, queue: str) -> int:
    return (await broker.depths([queue]))[queue]


async def taken(broker: RabbitBroker, count: int, queue: str = "incoming") -> list[Delivery]:
    """Return so many deliveries, which stay unsettled."""
    found: list[Delivery] = []
    async with (
        asyncio.timeout(PATIENCE),
        aclosing(broker.consume(queue, 500)) as deliveries,
    ):
        async for several in deliveries:
            found += several
            if len(found) >= count:
                return found
    raise AssertionError("the consumer ended")


async def lose(delivery: Delivery) -> None:
    """Let the channel of a delivery end without settling it, as a crash would."""
    session, _ = cast(tuple[Subscription, int], delivery.tag)
    session._channel.close()
    await eventually(lambda: session.lost is not None, "the channel to end")


async def test_many_small_ones_share_entries_and_an_operator_sees_how_many(site: Site) -> None:
    async with site.broker("fetcher") as broker:
        await broker.publish(*mail(100))
        assert await entries(broker, "incoming") == 7
    wanted = {"count": 7, "ackmode": "ack_requeue_true", "encoding": "base64"}
    seen = site.server.api("POST", f"queues/{site.vhost}/incoming/get", wanted)
    assert [found["properties"]["headers"]["messages"] for found in seen] == [16] * 6 + [4]
    steward = site.steward()
    by_message = [(m.message_id, dict(m.headers)) for m in steward.browse("incoming")]
    steward.close()
    signed = {**ACCOUNT, "instance": "pop3-connector"}
    assert by_message == [(f"m{n}", signed) for n in range(100)]
    assert await site.held("incoming") == Counter(f"m{n}" for n in range(100))


@pytest.mark.parametrize(
    "sends",
    [
        mail(7),
        mail(20, size=100_000),
        mail(20, "incoming.retry.1s"),
        mail(20, "incoming.failed"),
        mail(20, "quarantine"),
        [send._replace(headers={"account": send.message_id}) for send in mail(20)],
    ],
    ids=["few", "large", "retry tier", "Failed Mail", "quarantine", "other accounts"],
)
async def test_others_have_entries_of_their_own(site: Site, sends: list[Send]) -> None:
    async with site.broker() as broker:
        await broker.publish(*sends)
        assert await entries(broker, sends[0].queue) == len(sends)


async def test_an_entry_is_no_larger_than_a_frame(site: Site) -> None:
    async with site.broker("fetcher") as broker:
        await broker.publish(*mail(20, size=50_000))
        assert await entries(broker, "incoming") == 10
    assert await site.held("incoming") == Counter(f"m{n}" for n in range(20))


async def test_a_bundle_is_forgotten_with_the_last_of_its_messages(site: Site) -> None:
    async with site.broker() as broker:
        await broker.publish(*mail(16))
        first, *rest = await taken(broker, 16)
        assert await broker.settle_all([(d, []) for d in rest]) == [None] * 15
        assert isinstance((await broker.settle_all([(rest[0], [])]))[0], DeliveryLost)
        await lose(first)
        again = await taken(broker, 16)
        assert "m0" in [delivery.message_id for delivery in again]
        assert await broker.settle_all([(d, []) for d in again]) == [None] * 16
    assert not await site.held("incoming")


async def test_in_a_full_queue_a_bundle_cannot_be_taken_apart_and_goes_on(site: Site) -> None:
    async with site.broker() as broker:
        await broker.publish(*mail(16))
        first, *_ = await taken(broker, 16)
        policy = {"pattern": "^incoming$", "definition": {"max-length": 1}, "apply-to": "queues"}
        site.server.api("PUT", f"policies/{site.vhost}/full", policy)
        sent = await _filled(broker) + Counter(f"m{n}" for n in range(16))
        await lose(first)

        settled: Counter[str] = Counter()
        running = asyncio.create_task(_settle_all(broker, settled))
        await eventually(lambda: settled >= sent, "all of them")
        running.cancel()
        assert site.reported("cannot be split")
    assert not await site.held("incoming")


@pytest.fixture
def alarm(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return what raises an alarm, in which the broker takes no messages, or ends it."""
    monkeypatch.setattr(bundle_splitter, "PATIENCE", 0.5)

    def alarm(*, on: bool) -> None:
        amount = ["0.0000001"] if on else ["absolute", "2GB"]
        site.server.ctl("set_vm_memory_high_watermark", *amount)

    yield alarm
    alarm(on=False)


async def test_during_an_alarm_a_bundle_goes_on(site: Site, alarm: Callable[..., None]) -> None:
    async with site.broker() as broker:
        first = await _bundle_before_an_alarm(broker, alarm)
        await lose(first)
        settled: Counter[str] = Counter()
        running = asyncio.create_task(_settle_all(broker, settled))
        await eventually(lambda: settled.total() >= 16, "all of them")
        assert broker.blocked
        running.cancel()
        alarm(on=False)
    assert set(settled) == {f"m{n}" for n in range(16)}


async def test_a_bundle_goes_back_if_its_consumer_has_ended_meanwhile(
    site: Site, alarm: Callable[..., None]
) -> None:
    async with site.broker() as here, site.broker() as there:
        first = await _bundle_before_an_alarm(here, alarm)
        await lose(first)
        ended = asyncio.create_task(_settle_all(here, Counter()))
        await eventually(lambda: bool(here._splitter._tasks), "the bundle to be here")
        ended.cancel()
        await asyncio.wait([ended])
        settled: Counter[str] = Counter()
        running = asyncio.create_task(_settle_all(there, settled))
        await eventually(lambda: settled.total() >= 16, "all of them")
        running.cancel()
        alarm(on=False)
    assert set(settled) == {f"m{n}" for n in range(16)}


async def _bundle_before_an_alarm(broker: RabbitBroker, alarm: Callable[..., None]) -> Delivery:
    """Return a message of a bundle that is in hand; nothing can be published any more."""
    await broker.publish(*mail(16))
    first, *_ = await taken(broker, 16)
    alarm(on=True)
    with suppress(TimeoutError):
        await asyncio.wait_for(broker.publish(Send("parsed", b"x", "m")), 1)
    return first


async def _settle_all(broker: RabbitBroker, settled: Counter[str]) -> None:
    """Settle what comes, one after the other."""
    async with aclosing(singly(broker.consume("incoming", 1))) as deliveries:
        async for delivery in deliveries:
            await broker.settle(delivery)
            settled[delivery.message_id] += 1


async def _filled(broker: RabbitBroker) -> Counter[str]:
    """Publish to the queue until it takes no more; return what it took."""
    took: Counter[str] = Counter()
    async with asyncio.timeout(PATIENCE):
        while True:
            send = Send("incoming", b"x", f"filler{took.total()}", ACCOUNT)
            try:
                await broker.publish(send)
            except Refused:
                return took
            took[send.message_id] += 1
