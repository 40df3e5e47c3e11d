"""What every broker promises: one suite, run against the embedded one and against RabbitMQ."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace

import pytest

from shared import wire
from shared.broker import Broker, Delivery, Header, Send
from shared.errors import DeliveryLost, Refused
from shared.message import Envelope, Fetched, Hop, Inline, Summary
from shared.queues import DELIVERY_LIMIT, plan
from tests.contract.conftest import TIERS, Bench

PATIENCE = 60.0
"""Seconds after which a condition that does not come true fails the test."""

LETTER = Envelope(
    "f" * 64,
    "sales",
    Fetched(Inline(b"Subject: hello\r\n\r\nbody\r\n"), "u1", "pop:995", Summary("a@b", "hello")),
    1_700_000_000.0,
    attempt=7,
    first_failure=1_700_000_100.0,
    trail=(Hop("fetcher", 1_700_000_000.0),),
)

FAILURE: dict[str, Header] = {
    "account": "sales",
    "reason": "550 no such user",
    "stage": "parser",
    "inbox": "incoming",
    "attempts": 7,
    "first-failure": "2023-11-14T22:15:00+00:00",
    "failed-at": "2023-11-14T22:20:00+00:00",
}


def send(number: int, queue: str = "incoming", body: bytes | None = None) -> Send:
    content = b"body %d" % number if body is None else body
    return Send(queue, content, f"id-{number}", {"account": "sales", "size": len(content)})


def failed(number: int, queue: str = "incoming.failed") -> Send:
    letter = wire.encode(replace(LETTER, id=f"id-{number}"))
    return Send(queue, letter, f"id-{number}", FAILURE)


async def take(deliveries: AsyncGenerator[Delivery, None], count: int = 1) -> list[Delivery]:
    async with asyncio.timeout(PATIENCE):
        return [await anext(deliveries) for _ in range(count)]


async def one(deliveries: AsyncGenerator[Delivery, None]) -> Delivery:
    (delivery,) = await take(deliveries)
    return delivery


async def eventually(true: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while not await true():
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"waited in vain for {what}")


async def has_depth(broker: Broker, queue: str, depth: int) -> None:
    async def true() -> bool:
        return (await broker.depths([queue]))[queue] == depth

    await eventually(true, f"{depth} messages in {queue}")


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
    assert dict(delivery.headers) == headers
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


async def test_sends_of_one_publish_are_all_there(bench: Bench) -> None:
    broker = await bench.broker()

    await broker.publish(send(1), send(2, "parsed"), send(3, "pickup"))

    for number, queue in enumerate(("incoming", "parsed", "pickup"), 1):
        assert (await one(bench.consume(broker, queue))).message_id == f"id-{number}"


async def test_no_more_than_prefetch_are_out_at_a_time(bench: Bench) -> None:
    broker = await bench.broker()
    await broker.publish(*map(send, range(10)))
    deliveries = bench.consume(broker, "incoming", prefetch=3)
    first, *_ = await take(deliveries, 3)

    fourth = asyncio.create_task(one(deliveries))
    await round_trip(bench, broker)
    await has_depth(broker, "incoming", 7)
    assert not fourth.done()

    await broker.settle(first)
    assert (await fourth).message_id == "id-3"


async def test_settling_moves_the_message_on(bench: Bench) -> None:
    broker = await bench.broker()
    await broker.publish(send(1))
    delivery = await one(bench.consume(broker, "incoming"))

    await broker.settle(delivery, send(1, "parsed"), send(2, "pickup"))
    await broker.close()

    other = await bench.broker()
    await has_depth(other, "parsed", 1)
    await has_depth(other, "pickup", 1)
    await has_depth(other, "incoming", 0)
    assert (await one(bench.consume(other, "parsed"))).message_id == "id-1"


async def test_what_was_not_settled_comes_again(bench: Bench) -> None:
    broker = await bench.broker()
    await broker.publish(send(1), send(2))
    settled, _ = await take(bench.consume(broker, "incoming"), 2)
    await broker.settle(settled)

    await broker.close()

    other = await bench.broker()
    again = await one(bench.consume(other, "incoming"))
    assert again.message_id == "id-2"
    assert again.redeliveries == 1


async def test_closing_a_consumer_gives_back_what_it_has_not_yielded(bench: Bench) -> None:
    broker = await bench.broker()
    await broker.publish(*map(send, range(5)))
    deliveries = bench.consume(broker, "incoming", prefetch=5)
    first = await one(deliveries)
    await has_depth(broker, "incoming", 0)

    await deliveries.aclose()

    rest = await take(bench.consume(broker, "incoming"), 4)
    assert {d.message_id for d in rest} == {"id-1", "id-2", "id-3", "id-4"}
    await broker.settle(first, send(0, "parsed"))
    assert (await one(bench.consume(broker, "parsed"))).message_id == "id-0"


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


async def test_a_delivery_is_settled_once(bench: Bench) -> None:
    broker = await bench.broker()
    await broker.publish(send(1))
    delivery = await one(bench.consume(broker, "incoming"))
    await broker.settle(delivery, send(1, "parsed"))

    with pytest.raises(DeliveryLost):
        await broker.settle(delivery, send(1, "parsed"))

    await has_depth(broker, "parsed", 1)


async def test_a_delivery_of_a_connection_that_is_gone_is_lost(bench: Bench) -> None:
    old = await bench.broker()
    await old.publish(send(1))
    delivery = await one(bench.consume(old, "incoming"))
    await old.close()
    new = await bench.broker()
    again = await one(bench.consume(new, "incoming"))

    with pytest.raises(DeliveryLost):
        await new.settle(delivery)

    await new.settle(again, send(2, "parsed"))
    assert (await one(bench.consume(new, "parsed"))).message_id == "id-2"


async def test_an_unknown_queue_is_refused_and_the_delivery_stays_ours(bench: Bench) -> None:
    broker = await bench.broker()
    with pytest.raises(Refused):
        await broker.publish(send(1, "no-such-queue"))
    await broker.publish(send(1))
    delivery = await one(bench.consume(broker, "incoming"))

    with pytest.raises(Refused) as refused:
        await broker.settle(delivery, send(1, "no-such-queue"))

    assert refused.value.queue == "no-such-queue"
    await broker.settle(delivery, send(1, "parsed"))
    assert (await one(bench.consume(broker, "parsed"))).message_id == "id-1"


async def test_a_refusal_concerns_nobody_else(bench: Bench) -> None:
    broker = await bench.broker()

    outcomes = await asyncio.gather(
        *(broker.publish(send(n, "incoming" if n % 2 else "no-such-queue")) for n in range(20)),
        return_exceptions=True,
    )

    assert [isinstance(o, Refused) for o in outcomes] == [not n % 2 for n in range(20)]
    got = await take(bench.consume(broker, "incoming"), 10)
    assert {d.message_id for d in got} == {f"id-{n}" for n in range(20) if n % 2}


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


async def test_what_is_handed_out_too_often_goes_to_quarantine(bench: Bench) -> None:
    poison = wire.encode(replace(LETTER, id="poison"))
    broker = await bench.broker()
    await broker.publish(Send("incoming", poison, "poison", {"account": "sales"}))
    handouts = 0

    def quarantined() -> bool:
        return bench.steward.depths()["quarantine"] == 1

    while not quarantined():
        deliveries = broker.consume("incoming", 1)
        taken = asyncio.create_task(one(deliveries))

        async def moved(taken: asyncio.Task[Delivery] = taken) -> bool:
            return taken.done() or quarantined()

        await eventually(moved, "another hand-out or the quarantine")
        handouts += taken.done()
        taken.cancel()
        await asyncio.gather(taken, return_exceptions=True)
        await deliveries.aclose()
        await broker.close()
        broker = await bench.broker()

    # A broker may count the hand-outs, or the returns, of which there is one less.
    assert handouts in (DELIVERY_LIMIT, DELIVERY_LIMIT + 1)
    (stored,) = bench.steward.browse("quarantine")
    assert stored.body == poison
    assert stored.message_id == "poison"
    assert str(stored.headers["reason"]).startswith("handed out")
    assert str(stored.headers["reason"]).endswith(
        "times without being settled: it may crash the process that takes it"
    )
    assert stored.headers["inbox"] == "incoming"
    assert stored.headers["stage"] == "parser"
    assert stored.headers["account"] == "sales"
    assert stored.headers["subject"] == "hello"
    assert bench.steward.move("quarantine", ["poison"], None) == 1
    assert (await one(bench.consume(broker, "incoming"))).redeliveries == 0


@pytest.mark.parametrize("queue", ["incoming.failed", "quarantine"])
async def test_looking_a_hundred_times_loses_nothing(bench: Bench, queue: str) -> None:
    broker = await bench.broker()
    await broker.publish(*(failed(n, queue) for n in range(3)))
    await has_depth(broker, queue, 3)

    for _ in range(100):
        seen = list(bench.steward.browse(queue))
        assert [s.message_id for s in seen] == ["id-0", "id-1", "id-2"]

    assert seen[0].queue == queue
    assert seen[0].body == failed(0).body
    assert dict(seen[0].headers) == FAILURE
    await has_depth(broker, queue, 3)


async def test_a_look_that_is_broken_off_leaves_all_in_place(bench: Bench) -> None:
    broker = await bench.broker()
    await broker.publish(*(failed(n) for n in range(3)))
    await has_depth(broker, "incoming.failed", 3)

    browsing = bench.steward.browse("incoming.failed")
    next(browsing)
    del browsing

    await has_depth(broker, "incoming.failed", 3)


@pytest.mark.parametrize("destination", [None, "incoming"])
async def test_a_failed_message_is_moved_back_for_a_new_start(
    bench: Bench, destination: str | None
) -> None:
    broker = await bench.broker()
    await broker.publish(*(failed(n) for n in range(3)))
    await has_depth(broker, "incoming.failed", 3)

    assert bench.steward.move("incoming.failed", ["id-1", "unknown"], destination) == 1

    delivery = await one(bench.consume(broker, "incoming"))
    envelope = wire.decode(delivery.body, Fetched)
    assert envelope == replace(LETTER, id="id-1", attempt=0, first_failure=None)
    assert delivery.message_id == "id-1"
    assert delivery.headers["account"] == "sales"
    assert not {"reason", "attempts", "first-failure", "failed-at"} & set(delivery.headers)
    assert [s.message_id for s in bench.steward.browse("incoming.failed")] == ["id-0", "id-2"]


async def test_a_quarantined_message_is_moved_to_where_it_came_from(bench: Bench) -> None:
    broker = await bench.broker()
    garbage = Send("quarantine", b"no envelope", "id-1", {"inbox": "pickup", "reason": "why"})
    await broker.publish(garbage)
    await has_depth(broker, "quarantine", 1)

    assert bench.steward.move("quarantine", ["id-1"], None) == 1

    delivery = await one(bench.consume(broker, "pickup"))
    assert (delivery.body, delivery.message_id) == (b"no envelope", "id-1")


async def test_moving_to_an_unknown_queue_leaves_the_message(bench: Bench) -> None:
    broker = await bench.broker()
    await broker.publish(failed(1))
    await has_depth(broker, "incoming.failed", 1)

    with pytest.raises(Refused):
        bench.steward.move("incoming.failed", ["id-1"], "no-such-queue")

    await has_depth(broker, "incoming.failed", 1)


async def test_a_dropped_message_is_gone_and_only_that(bench: Bench) -> None:
    broker = await bench.broker()
    await broker.publish(*(failed(n) for n in range(3)))
    await has_depth(broker, "incoming.failed", 3)

    assert bench.steward.drop("incoming.failed", ["id-0", "id-2", "unknown"]) == 2

    assert [s.message_id for s in bench.steward.browse("incoming.failed")] == ["id-1"]


async def test_the_steward_counts_every_queue_of_the_topology(bench: Bench) -> None:
    broker = await bench.broker()
    await broker.publish(send(1), send(2), send(3, "quarantine"), send(4, "pickup.retry.5m"))
    await has_depth(broker, "pickup.retry.5m", 1)

    depths = bench.steward.depths()

    assert set(depths) == {q.name for q in plan(TIERS)}
    filled = {"incoming": 2, "quarantine": 1, "pickup.retry.5m": 1}
    assert depths == dict.fromkeys(depths, 0) | filled


async def test_declaring_twice_changes_nothing(bench: Bench) -> None:
    broker = await bench.broker()
    await broker.publish(send(1))
    before = bench.steward.depths()

    bench.steward.declare()

    assert bench.steward.depths() == before
    assert (await one(bench.consume(broker, "incoming"))).message_id == "id-1"


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
