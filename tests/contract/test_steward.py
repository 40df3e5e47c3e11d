"""What the operator's side of every broker promises, and what ends in the operator's queues."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from shared import wire
from shared.broker import Delivery, Send, Stored
from shared.errors import Refused
from shared.message import Envelope, Failure, Fetched, Hop, Poll, Requeue, poll_id
from shared.queues import DELIVERY_LIMIT, plan
from tests.contract.conftest import TIERS, Bench
from tests.contract.messages import (
    FAILURE,
    MAIL,
    as_sent,
    eventually,
    failed,
    has_depth,
    one,
    send,
)
from tests.deliveries import singly
from tests.stewards import NOW, back, its_id, to


@pytest.mark.parametrize("bench", ["rabbitmq"], indirect=True)
async def test_what_a_broker_gives_up_by_itself_goes_to_quarantine(bench: Bench) -> None:
    """RabbitMQ does after so many hand-outs, with nobody there who puts it back before."""
    poison = wire.encode(replace(MAIL, id="poison"))
    broker = await bench.broker()
    await broker.publish(Send("incoming", poison, "poison", {"account": "sales"}))
    handouts = 0

    def quarantined() -> bool:
        return bench.steward.depths()["quarantine"] == 1

    while not quarantined():
        deliveries = singly(broker.consume("incoming", 1))
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

    assert handouts == DELIVERY_LIMIT + 1  # it counts the returns
    (stored,) = bench.steward.browse("quarantine")
    assert stored.body == poison
    assert stored.message_id == "poison"
    assert stored.headers["reason"] == (
        "handed out of incoming more often than RabbitMQ allows without being settled"
        " (delivery-limit)"
    )
    assert stored.headers["inbox"] == "incoming"
    assert stored.headers["stage"] == "parser"
    at = datetime.fromisoformat(str(stored.headers["failed-at"]))
    assert abs(at - datetime.now(UTC)) < timedelta(hours=1)
    assert stored.headers["account"] == "sales"
    assert stored.headers["subject"] == "hello"
    assert bench.steward.move("quarantine", ["poison"], back) == 1
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
    assert as_sent(seen[0].headers) == FAILURE
    await has_depth(broker, queue, 3)


async def test_a_look_that_is_broken_off_leaves_all_in_place(bench: Bench) -> None:
    broker = await bench.broker()
    await broker.publish(*(failed(n) for n in range(3)))
    await has_depth(broker, "incoming.failed", 3)

    browsing = bench.steward.browse("incoming.failed")
    next(browsing)
    del browsing

    await has_depth(broker, "incoming.failed", 3)


async def test_a_failed_message_is_tried_again_as_if_new_and_its_past_goes_along(
    bench: Bench,
) -> None:
    broker = await bench.broker()
    await broker.publish(*(failed(n) for n in range(3)))
    await has_depth(broker, "incoming.failed", 3)

    assert bench.steward.move("incoming.failed", ["id-1", "unknown"], back) == 1

    delivery = await one(bench.consume(broker, "incoming"))
    envelope = wire.decode(delivery.body, Fetched)
    assert envelope == replace(
        MAIL,
        id="id-1",
        payload=replace(MAIL.payload, released=True),
        attempt=0,
        first_failure=None,
        trail=(*MAIL.trail, Hop("requeue", NOW)),
        requeue=Requeue(
            failures=(Failure("parser", "550 no such user", 7, 1_700_000_100.0, 1_700_000_400.0),)
        ),
    )
    assert delivery.message_id == "id-1"
    assert delivery.headers["account"] == "sales"
    assert not {"reason", "attempts", "first-failure", "failed-at"} & set(delivery.headers)
    assert [s.message_id for s in bench.steward.browse("incoming.failed")] == ["id-0", "id-2"]


async def test_a_quarantined_message_is_moved_to_where_it_came_from(bench: Bench) -> None:
    broker = await bench.broker()
    garbage = Send("quarantine", b"no envelope", "id-1", {"inbox": "pickup", "reason": "why"})
    await broker.publish(garbage)
    await has_depth(broker, "quarantine", 1)

    assert bench.steward.move("quarantine", ["id-1"], back) == 1

    delivery = await one(bench.consume(broker, "pickup"))
    assert (delivery.body, delivery.message_id) == (b"no envelope", "id-1")


@pytest.mark.parametrize("queue", ["incoming.failed", "quarantine"])
async def test_what_nothing_is_said_of_is_known_by_its_envelope(bench: Bench, queue: str) -> None:
    broker = await bench.broker()
    job = wire.encode(Envelope(poll_id("sales"), "sales", Poll(), NOW))
    await broker.publish(Send(queue, wire.encode(MAIL), "id-1"), Send(queue, job, poll_id("sales")))
    await has_depth(broker, queue, 2)

    mail, poll = (dict(stored.headers) for stored in bench.steward.browse(queue))
    assert (mail["account"], mail["subject"], mail["attempts"]) == ("sales", "hello", 7)
    assert poll["account"] == "sales"
    assert {mail["reason"], poll["reason"]} == {
        "nothing tells why: moved here by hand, or by another program"
    }
    moved: list[Stored] = []
    assert bench.steward.move(queue, None, back, moved.append) == 2
    assert [stored.message_id for stored in moved] == ["id-1", "poll-sales"]
    assert (await one(bench.consume(broker, "incoming"))).message_id == "id-1"
    assert (await one(bench.consume(broker, "poll"))).body == job


async def test_of_more_than_are_held_at_once_each_is_seen_and_moved_once(bench: Bench) -> None:
    broker = await bench.broker()
    count = 3 * 100 + 1
    await broker.publish(*(failed(n) for n in range(count)))
    await has_depth(broker, "incoming.failed", count)
    ids = [f"id-{n}" for n in range(count)]
    assert [s.message_id for s in bench.steward.browse("incoming.failed")] == ids

    def odd(stored: Stored) -> Send | None:
        return back(stored) if int(stored.message_id[3:]) % 2 else None

    assert bench.steward.move("incoming.failed", None, odd) == count // 2
    assert [s.message_id for s in bench.steward.browse("incoming.failed")] == ids[::2]
    assert bench.steward.drop("incoming.failed", None, its_id) == ids[::2]
    assert [s.message_id for s in bench.steward.browse("incoming")] == ids[1::2]


async def test_moving_to_an_unknown_queue_leaves_the_message(bench: Bench) -> None:
    broker = await bench.broker()
    await broker.publish(failed(1))
    await has_depth(broker, "incoming.failed", 1)

    with pytest.raises(Refused):
        bench.steward.move("incoming.failed", ["id-1"], to("no-such-queue"))

    await has_depth(broker, "incoming.failed", 1)


async def test_a_dropped_message_is_gone_and_only_that(bench: Bench) -> None:
    broker = await bench.broker()
    await broker.publish(*(failed(n) for n in range(3)))
    await has_depth(broker, "incoming.failed", 3)

    dropped = bench.steward.drop("incoming.failed", ["id-0", "id-2", "unknown"], its_id)

    assert dropped == ["id-0", "id-2"]
    assert [s.message_id for s in bench.steward.browse("incoming.failed")] == ["id-1"]


async def test_of_the_parts_of_a_message_those_that_are_meant_are_moved_and_dropped(
    bench: Bench,
) -> None:
    broker = await bench.broker()
    parts = [Send("pickup.failed", b"part %d" % n, "id-1", {"inbox": "pickup"}) for n in range(4)]
    await broker.publish(*parts)
    await has_depth(broker, "pickup.failed", 4)

    def second(stored: Stored) -> Send | None:
        return back(stored) if stored.body == b"part 1" else None

    def third(stored: Stored) -> bytes | None:
        return stored.body if stored.body == b"part 2" else None

    assert bench.steward.move("pickup.failed", ["id-1"], second) == 1
    assert bench.steward.drop("pickup.failed", ["id-1"], third) == [b"part 2"]

    assert (await one(bench.consume(broker, "pickup"))).body == b"part 1"
    assert [s.body for s in bench.steward.browse("pickup.failed")] == [b"part 0", b"part 3"]


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
