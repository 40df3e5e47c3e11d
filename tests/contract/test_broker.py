"""What every broker promises: one suite, run against the embedded one and against RabbitMQ."""

import asyncio
from contextlib import aclosing

import pytest

from shared.broker import Broker, Header, Send
from shared.errors import DeliveryLost
from tests.contract.conftest import Bench
from tests.contract.messages import PATIENCE, as_sent, has_depth, one, send, take


async def round_trip(bench: Bench, broker: Broker) -> None:
    """Send a message through another queue: whatever was under way before has arrived now."""
    await broker.publish(send(0, "poll"))
    deliveries = bench.consume(broker, "poll")
    await broker.settle(await one(deliveries))
    await deliveries.aclose()


async def test_what_is_published_is_consumed_as_it_was(bench: Bench) -> None:
    broker = await bench.broker()
    headers: dict[str, Header] = {
        "account": "sales",
        "subject": "Grüße, 世界",
        "attempts": 3,
        "age": 1.5,
    }
    body = bytes(range(256))

    await broker.publish(Send("incoming", body, "id-1", headers))

    delivery = await one(bench.consume(broker, "incoming"))
    assert (delivery.queue, delivery.body, delivery.message_id) == ("incoming", body, "id-1")
    assert as_sent(delivery.headers) == headers
    assert delivery.redeliveries == 0


async def test_a_consumer_that_waits_gets_what_comes(bench: Bench) -> None:
    here, there = await bench.broker(), await bench.broker()
    waiting = asyncio.create_task(one(bench.consume(here, "incoming")))
    await round_trip(bench, here)

    await there.publish(send(1))

    assert (await waiting).message_id == "id-1"


async def test_messages_come_in_the_order_they_were_published(bench: Bench) -> None:
    broker = await bench.broker()
    for number in range(20):
        await broker.publish(send(number))

    got = await take(bench.consume(broker, "incoming"), 20)

    assert [d.message_id for d in got] == [f"id-{n}" for n in range(20)]


async def test_what_has_come_is_yielded_together(bench: Bench) -> None:
    broker = await bench.broker()
    async with aclosing(broker.consume("incoming", 50)) as deliveries:
        await broker.publish(send(0))
        assert [d.message_id for d in await anext(deliveries)] == ["id-0"]
        await broker.publish(*map(send, range(1, 10)))
        await has_depth(broker, "incoming", 0)
        await round_trip(bench, broker)

        assert [d.message_id for d in await anext(deliveries)] == [f"id-{n}" for n in range(1, 10)]


async def test_many_published_at_once_come_one_by_one(bench: Bench) -> None:
    here = await bench.broker()
    sent = [send(n, body=bytes([n]) * 1000) for n in range(100)]
    await here.publish(*sent)

    got = await take(bench.consume(here, "incoming", prefetch=100), 100)
    assert [(d.body, d.message_id, as_sent(d.headers), d.redeliveries) for d in got] == [
        (s.body, s.message_id, s.headers, 0) for s in sent
    ]
    assert await here.settle_all(
        [(d, [s._replace(queue="parsed")]) for d, s in zip(got, sent, strict=True)]
    ) == ([None] * 100)
    assert isinstance((await here.settle_all([(got[7], [])]))[0], DeliveryLost)
    await here.close()

    there = await bench.broker()
    await has_depth(there, "incoming", 0)
    moved = await take(bench.consume(there, "parsed", prefetch=100), 100)
    assert [d.body for d in moved] == [s.body for s in sent]


async def test_sends_of_one_publish_are_all_there(bench: Bench) -> None:
    broker = await bench.broker()

    await broker.publish(send(1), send(2, "parsed"), send(3, "pickup"))

    for number, queue in enumerate(("incoming", "parsed", "pickup"), 1):
        assert (await one(bench.consume(broker, queue))).message_id == f"id-{number}"


async def test_no_more_than_prefetch_are_out_at_a_time(bench: Bench) -> None:
    broker = await bench.broker()
    for number in range(10):
        await broker.publish(send(number))
    deliveries = bench.consume(broker, "incoming", prefetch=3)
    first, *_ = await take(deliveries, 3)

    fourth = asyncio.create_task(one(deliveries))
    await round_trip(bench, broker)
    await has_depth(broker, "incoming", 7)
    assert not fourth.done()

    await broker.settle(first)
    assert (await fourth).message_id == "id-3"


async def test_no_more_than_prefetch_are_handed_to_one_that_waits(bench: Bench) -> None:
    broker = await bench.broker()
    waiting = asyncio.create_task(take(bench.consume(broker, "incoming", prefetch=3), 3))
    await round_trip(bench, broker)

    for number in range(10):
        await broker.publish(send(number))

    assert [d.message_id for d in await waiting] == ["id-0", "id-1", "id-2"]
    await has_depth(broker, "incoming", 7)
    rest = await take(bench.consume(broker, "incoming"), 7)
    assert [d.message_id for d in rest] == [f"id-{n}" for n in range(3, 10)]


async def test_closing_a_consumer_that_waits_loses_nothing(bench: Bench) -> None:
    broker = await bench.broker()
    deliveries = bench.consume(broker, "incoming")
    waiting = asyncio.create_task(one(deliveries))
    await round_trip(bench, broker)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await deliveries.aclose()

    await broker.publish(send(1))

    assert (await one(bench.consume(broker, "incoming"))).message_id == "id-1"


async def test_two_consumers_share_a_queue_without_overlap(bench: Bench) -> None:
    here, there = await bench.broker(), await bench.broker()
    await here.publish(*map(send, range(100)))
    seen: list[str] = []
    full = asyncio.Event()

    async def work(broker: Broker) -> None:
        async for delivery in bench.consume(broker, "incoming", prefetch=10):
            await broker.settle(delivery)
            seen.append(delivery.message_id)
            if len(seen) >= 100:
                full.set()

    workers = [asyncio.create_task(work(broker)) for broker in (here, there)]
    async with asyncio.timeout(PATIENCE):
        await full.wait()
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)

    assert sorted(seen) == sorted(f"id-{n}" for n in range(100))
    await has_depth(here, "incoming", 0)


async def test_a_retry_tier_gives_the_message_back_to_the_inbox(bench: Bench) -> None:
    broker = await bench.broker()
    await broker.publish(send(1))
    deliveries = bench.consume(broker, "incoming")

    await broker.settle(await one(deliveries), send(1, "incoming.retry.200ms", b"tried once"))

    again = await one(deliveries)
    assert (again.queue, again.message_id, again.body) == ("incoming", "id-1", b"tried once")
    assert again.redeliveries == 0
    await broker.settle(again)
    await has_depth(broker, "incoming.retry.200ms", 0)


async def test_a_longer_tier_does_not_hold_up_a_shorter_one(bench: Bench) -> None:
    broker = await bench.broker()

    await broker.publish(send(1, "incoming.retry.5m"), send(2, "incoming.retry.200ms"))

    assert (await one(bench.consume(broker, "incoming"))).message_id == "id-2"
    await has_depth(broker, "incoming.retry.5m", 1)


async def test_a_large_body_comes_through_whole(bench: Bench) -> None:
    broker = await bench.broker()
    body = bytes(range(256)) * (10 * 1024 * 1024 // 256)

    await broker.publish(send(1, body=body))
    delivery = await one(bench.consume(broker, "incoming"))
    await broker.settle(delivery, send(1, "parsed", delivery.body))

    assert (await one(bench.consume(broker, "parsed"))).body == body


async def test_a_thousand_publishes_at_once(bench: Bench) -> None:
    broker = await bench.broker()

    await asyncio.gather(*(broker.publish(send(n)) for n in range(1000)))

    got = await take(bench.consume(broker, "incoming", prefetch=1000), 1000)
    assert {d.message_id for d in got} == {f"id-{n}" for n in range(1000)}
    await asyncio.gather(*(broker.settle(d, send(0, "parsed")) for d in got))
    await has_depth(broker, "parsed", 1000)
    await has_depth(broker, "incoming", 0)


async def test_messages_outlive_the_connection(bench: Bench) -> None:
    broker = await bench.broker()
    assert (broker.connected, broker.blocked) == (True, None)
    await broker.publish(*map(send, range(3)))

    await broker.close()

    assert (broker.connected, broker.blocked) == (False, None)
    other = await bench.broker()
    got = await take(bench.consume(other, "incoming"), 3)
    assert [d.message_id for d in got] == ["id-0", "id-1", "id-2"]
    assert all(d.redeliveries == 0 for d in got)
