"""What every broker does with a delivery that is settled, or is not."""

import asyncio
from contextlib import aclosing

import pytest

from shared.broker import Broker, Delivery
from shared.errors import DeliveryLost, Refused
from tests.contract.conftest import Bench
from tests.contract.messages import has_depth, one, send, take


async def test_what_is_not_settled_comes_again_one_by_one(bench: Bench) -> None:
    here = await bench.broker()
    await here.publish(*[send(n, body=bytes([n])) for n in range(20)])
    got = await take(bench.consume(here, "incoming"), 20)
    assert await here.settle_all([(d, []) for d in got if int(d.message_id[3:]) % 20 != 3]) == (
        [None] * 19
    )
    await here.close()

    there = await bench.broker()
    again = bench.consume(there, "incoming")
    while (await one(again)).message_id != "id-3":
        pass


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
    await broker.publish(send(0))
    deliveries = bench.consume(broker, "incoming", prefetch=5)
    first = await one(deliveries)
    await broker.publish(*map(send, range(1, 5)))
    await has_depth(broker, "incoming", 0)

    await deliveries.aclose()

    rest = await take(bench.consume(broker, "incoming"), 4)
    assert {d.message_id for d in rest} == {"id-1", "id-2", "id-3", "id-4"}
    await broker.settle(first, send(0, "parsed"))
    assert (await one(bench.consume(broker, "parsed"))).message_id == "id-0"


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


async def test_many_settled_at_once_are_each_settled_by_itself(bench: Bench) -> None:
    broker = await bench.broker()
    await broker.publish(*map(send, range(5)))
    deliveries = await take(bench.consume(broker, "incoming"), 5)
    await broker.settle(deliveries[1])
    follows = [[send(0, "parsed")], [send(1, "parsed")], [send(2, "no-such-queue")], []]

    answers = await broker.settle_all(
        [*zip(deliveries, follows, strict=False), (deliveries[4], [send(4, "parsed")] * 2)]
    )

    assert [type(answer) for answer in answers] == [
        type(None),
        DeliveryLost,
        Refused,
        type(None),
        type(None),
    ]
    await has_depth(broker, "parsed", 3)
    await broker.settle(deliveries[2], send(2, "pickup"))  # it is still ours
    await broker.close()
    other = await bench.broker()
    await has_depth(other, "incoming", 0)
    await has_depth(other, "pickup", 1)


async def test_what_is_in_hand_is_not_drained(bench: Bench) -> None:
    """Not by anybody's account; RabbitMQ cannot tell, and says neither."""
    here, there = await bench.broker(), await bench.broker()
    can_tell = await there.drained(["incoming"]) is not None
    assert await there.drained(["incoming", "parsed"]) is (True if can_tell else None)
    await here.publish(send(1), send(2, "quarantine"), send(3, "incoming.retry.5m"))
    assert await there.drained(["incoming", "parsed"]) is (False if can_tell else None)
    delivery = await one(bench.consume(here, "incoming"))
    for broker in (here, there):
        assert await broker.drained(["parsed", "incoming"]) is (False if can_tell else None)

    await here.settle(delivery, send(1, "parsed"))

    for queues, empty in ((["incoming"], True), (["incoming", "parsed"], False)):
        assert await there.drained(queues) is (empty if can_tell else None)


@pytest.mark.parametrize("stopped", [True, False])
@pytest.mark.parametrize("left", [0, 1])
async def test_a_consumer_that_ends_leaves_nothing_that_was_settled(
    bench: Bench, left: int, stopped: bool
) -> None:
    """The first is settled last, or never: so each of the others is acknowledged by itself."""
    broker, there = await bench.broker(), await bench.broker()
    await asyncio.gather(*(broker.publish(send(number)) for number in range(200)))
    async with aclosing(broker.consume("incoming", 200)) as consumer:
        got = list(await anext(consumer))
        while len(got) < 200:
            got += await anext(consumer)
        if stopped:
            await consumer.aclose()
        await _ends(bench, broker, there, got, left)


async def _ends(
    bench: Bench, broker: Broker, there: Broker, got: list[Delivery], left: int
) -> None:
    answers = await broker.settle_all([(delivery, ()) for delivery in got[1:]])
    await asyncio.sleep(0)  # acknowledgements of one turn go out together
    if not left:
        answers += await broker.settle_all([(got[0], ())])
    await broker.close()

    assert answers == [None] * (200 - left)
    again = bench.consume(there, "incoming", 500)
    await there.publish(send(777))
    come = []
    while "id-777" not in come:
        come.append((await one(again)).message_id)
    assert len(come) == 1 + left
