"""Who holds what: hand-outs, owners that freeze or die, brokers that close; and retry tiers."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from shared import wire
from shared.broker import HANDED_OUT, Header, Send
from shared.broker.embedded import owners
from shared.broker.embedded.steward import EmbeddedSteward
from shared.errors import DeliveryLost
from shared.message import Requeue
from tests.clock import ManualClock
from tests.contract.messages import MAIL
from tests.deliveries import singly
from tests.unit.embedded.conftest import PATIENCE, TIERS, Open, has_depth, send, take


async def test_only_what_was_seen_counts_as_handed_out(opened: Open) -> None:
    broker = await opened()
    await broker.publish(send(0))
    deliveries = broker.consume("incoming", 4)
    await anext(deliveries)
    await broker.publish(*map(send, range(1, 4)))
    await has_depth(broker, "incoming", 0)
    await deliveries.aclose()
    unseen = broker.consume("incoming", 2)
    assert [(d.message_id, d.redeliveries) for d in await anext(unseen)] == [
        ("id-1", 0),
        ("id-2", 0),
    ]
    await broker.close()

    again = await take(await opened(), 4)

    assert [(d.message_id, d.redeliveries) for d in again] == [
        ("id-0", 1),
        ("id-1", 1),
        ("id-2", 1),
        ("id-3", 0),
    ]


def given_up(number: int, queue: str, body: bytes = b"body") -> Send:
    """Return what is sent on of a message that crashes its process."""
    told: dict[str, Header] = {"inbox": queue, "reason": "it crashed", HANDED_OUT: 2}
    return Send("quarantine", body, f"id-{number}", told)


async def test_copies_of_a_fetched_message_that_crashes_are_one_in_quarantine(
    opened: Open, path: Path
) -> None:
    """And counted; in pickup one id can stand for several parts, each with its own recipients."""
    broker = await opened()
    for queue in ("incoming", "pickup"):
        for _ in range(3):
            await broker.publish(send(1, queue))
            (delivery,) = await take(broker, 1, queue)
            await broker.settle(delivery, given_up(1, queue))
    with closing(EmbeddedSteward(path, TIERS)) as steward:
        kept = list(steward.browse("quarantine"))
    found = Counter((m.headers["inbox"], m.headers.get("copies", 1)) for m in kept)
    assert found == {("incoming", 3): 1, ("pickup", 1): 3}
    assert await broker.depths(["incoming", "pickup"]) == {"incoming": 0, "pickup": 0}


async def test_parts_of_a_message_that_an_operator_sent_again_are_no_copies(
    opened: Open, path: Path
) -> None:
    broker = await opened()
    whole = replace(MAIL, id="id-1")
    parts = [replace(whole, requeue=Requeue(undelivered=(r,))) for r in ("a@b", "c@d")]
    bodies = [wire.encode(e) for e in (whole, whole, *parts, parts[0])]
    for body in bodies:
        await broker.publish(given_up(1, "incoming", body))
    with closing(EmbeddedSteward(path, TIERS)) as steward:
        kept = [(m.body, m.headers.get("copies", 1)) for m in steward.browse("quarantine")]
    assert Counter(kept) == Counter([(bodies[0], 2), (bodies[2], 2), (bodies[3], 1)])


async def test_what_is_corrupt_is_no_copy_of_what_crashes(opened: Open, path: Path) -> None:
    broker = await opened()
    corrupt = given_up(1, "incoming")
    await broker.publish(given_up(1, "incoming"))
    for _ in range(2):
        await broker.publish(corrupt._replace(headers={"inbox": "incoming"}))
    with closing(EmbeddedSteward(path, TIERS)) as steward:
        assert len(list(steward.browse("quarantine"))) == 3


async def test_hand_outs_alone_put_nothing_into_quarantine(opened: Open) -> None:
    broker = await opened()
    await broker.publish(send(1))
    for turn in range(30):
        (delivery,) = await take(broker)
        assert delivery.redeliveries == turn
        await broker.close()
        await broker.open()
    assert await broker.depths(["incoming", "quarantine"]) == {"incoming": 1, "quarantine": 0}


async def test_two_consumers_that_wait_take_turns(opened: Open) -> None:
    broker = await opened()
    consumers = [singly(broker.consume("incoming", 5)) for _ in range(2)]
    waiting = [asyncio.create_task(anext(consumer)) for consumer in consumers]
    await asyncio.sleep(0)
    await broker.depths([])  # both wait by now

    for number in range(2):
        await broker.publish(send(number))

    async with asyncio.timeout(PATIENCE):
        got = await asyncio.gather(*waiting)
    assert sorted(d.message_id for d in got) == ["id-0", "id-1"]


async def test_a_delivery_is_lost_when_its_broker_closes(opened: Open) -> None:
    broker = await opened()
    await broker.publish(send(1))
    (delivery,) = await take(broker)
    await broker.close()
    with pytest.raises(DeliveryLost):
        await broker.settle(delivery, send(1, "parsed"))

    await broker.open()
    with pytest.raises(DeliveryLost):
        await broker.settle(delivery, send(1, "parsed"))

    (again,) = await take(broker)
    assert again.redeliveries == 1
    assert await broker.depths(["parsed"]) == {"parsed": 0}


async def test_a_delivery_of_another_broker_is_not_ours(opened: Open) -> None:
    here, there = await opened(), await opened()
    await here.publish(send(1))
    (delivery,) = await take(here)

    with pytest.raises(DeliveryLost):
        await there.settle(delivery)

    await here.settle(delivery, send(1, "parsed"))
    assert await here.depths(["parsed"]) == {"parsed": 1}


async def test_what_a_frozen_owner_holds_is_taken_over_in_the_end(opened: Open) -> None:
    clock = ManualClock()
    frozen, other = await opened(clock), await opened(clock)
    await frozen.publish(send(1))
    deliveries = singly(frozen.consume("incoming", 5))
    delivery = await anext(deliveries)
    await frozen.publish(send(2))
    await has_depth(frozen, "incoming", 0)

    await clock.advance(owners.FROZEN_AFTER - 1)
    taking = asyncio.create_task(take(other, 2))
    await has_depth(other, "incoming", 0)
    assert not taking.done()
    await clock.advance(2)

    again = await taking
    assert [(d.message_id, d.redeliveries) for d in again] == [("id-1", 1), ("id-2", 1)]
    with pytest.raises(DeliveryLost):
        await frozen.settle(delivery, send(1, "parsed"))
    await other.settle(again[0], send(1, "parsed"))
    await other.settle(again[1])
    await frozen.publish(send(3))
    after = await anext(deliveries)
    assert after.message_id == "id-3"  # and not id-2, which it had before it froze
    await frozen.settle(after)
    assert await frozen.depths(["incoming", "parsed"]) == {"incoming": 0, "parsed": 1}


HOLDER = """
import asyncio, os, sys
from pathlib import Path
from shared.broker.embedded.broker import EmbeddedBroker
from shared.queues import Tier

async def main():
    broker = EmbeddedBroker(Path(sys.argv[1]), tiers=[Tier("5m", 300.0)], name="holder")
    await broker.open()
    delivery = await anext(broker.consume("incoming", 1))
    child = os.fork()
    if child:
        print(child, flush=True)
    while True:
        await asyncio.sleep(3600)

asyncio.run(main())
"""


async def test_a_forked_child_does_not_keep_a_dead_owner_alive(path: Path, opened: Open) -> None:
    broker = await opened()
    await broker.publish(send(1))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    child = int(await asyncio.to_thread(holder.stdout.readline))
    try:
        holder.kill()
        holder.wait()
        holder.stdout.close()

        (delivery,) = await take(broker)

        assert delivery.redeliveries == 1
        os.kill(child, 0)  # the child lives, and holds nothing
    finally:
        os.kill(child, signal.SIGKILL)
    owners_left = list(path.with_name("queue.db.owners").iterdir())
    assert len(owners_left) == 1


async def test_a_message_waits_out_its_tier_by_the_clock(opened: Open) -> None:
    clock = ManualClock()
    broker = await opened(clock)
    await broker.publish(send(1, "incoming.retry.2h"), send(2, "incoming.retry.5m"))
    taking = asyncio.create_task(take(broker, 2))

    await clock.advance(299)
    await has_depth(broker, "incoming.retry.5m", 1)
    await clock.advance(2)
    await has_depth(broker, "incoming.retry.5m", 0)
    assert await broker.depths(["incoming.retry.2h"]) == {"incoming.retry.2h": 1}
    await clock.advance(7200)

    assert [d.message_id for d in await taking] == ["id-2", "id-1"]


async def test_what_fell_due_while_nobody_ran_comes_at_once(opened: Open) -> None:
    clock = ManualClock()
    broker = await opened(clock)
    await broker.publish(send(1, "incoming.retry.5m"))
    await broker.close()
    await clock.advance(301)

    (delivery,) = await take(await opened(clock))

    assert delivery.queue == "incoming"


async def test_a_clock_set_back_does_not_hold_up_retries(opened: Open) -> None:
    broker = await opened(ManualClock(1_700_000_000.0))
    await broker.publish(send(1, "incoming.retry.5m"))
    await broker.close()

    (delivery,) = await take(await opened(ManualClock(1_700_000_000.0 - 3600.0)))

    assert delivery.message_id == "id-1"


async def test_a_clock_set_back_a_little_changes_nothing(opened: Open) -> None:
    clock = ManualClock(1_700_000_000.0)
    broker = await opened(clock)
    await broker.publish(send(1, "incoming.retry.5m"))
    await broker.close()
    earlier = ManualClock(1_700_000_000.0 - 30.0)
    other = await opened(earlier)

    await other.publish(send(2, "parsed.retry.5m"))
    await earlier.advance(301)  # the second is due, the first has 29 seconds to go
    (delivery,) = await take(other, queue="parsed")

    assert delivery.message_id == "id-2"
    assert await other.depths(["incoming.retry.5m"]) == {"incoming.retry.5m": 1}
