"""RabbitMQ fails in every way it can, and no message is lost, or doubled by one that settled."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import cast

import pytest
from amqp import Connection

from services import process
from shared import wire
from shared.broker import Delivery, Send, topology
from shared.broker.rabbitmq import broker as rabbitmq_broker
from shared.broker.rabbitmq import closing, kept_connection, subscription
from shared.broker.rabbitmq.broker import RabbitBroker
from shared.broker.rabbitmq.subscription import Subscription
from shared.errors import BrokerUnavailable, DeliveryLost
from shared.message import Envelope, Fetched, Inline, Summary
from shared.queues import DELIVERY_LIMIT
from tests.deliveries import singly
from tests.flow.forked import ForkedConnector
from tests.flow.hop import Hop
from tests.flow.rabbitmq_site import PATIENCE, TIERS, Site, eventually, one
from tests.servers.rabbitmq import RabbitServer, rabbitmq
from tests.stewards import back

MESSAGES = 300

GRACE_PERIOD = 45
"""Seconds that docker-compose.yml and the Helm chart give a process to end."""

ALARM = ("set_vm_memory_high_watermark", "0.0000001")
NO_ALARM = ("set_vm_memory_high_watermark", "absolute", "2GB")


@pytest.fixture(autouse=True)
def _quiet_pika() -> None:
    logging.getLogger("pika").setLevel(logging.CRITICAL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A node of this module's own: it is restarted and killed."""
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as running:
        yield running


@pytest.fixture
def site(server: RabbitServer) -> Site:
    vhost = server.vhost()
    site = Site(server, vhost)
    site.declare()
    return site


def _restart(site: Site) -> None:
    site.server.restart()


def _kill(site: Site) -> None:
    site.server.kill()
    site.server.start()


def _close_connections(site: Site) -> None:
    site.server.close_connections(site.vhost)


@pytest.mark.parametrize("fault", [_restart, _kill, _close_connections])
async def test_a_hop_survives(site: Site, fault: Callable[[Site], None]) -> None:
    ids = [f"m{n}" for n in range(MESSAGES)]
    await site.publish(*ids)
    async with site.broker() as broker, AsyncExitStack() as stack:
        hop = Hop(broker)
        running = asyncio.create_task(hop.run())
        stack.callback(running.cancel)
        await eventually(lambda: bool(hop.settled), "the first message to go through")

        await asyncio.to_thread(fault, site)
        await eventually(lambda: broker.connected, "the broker to be back")
        await site.publish("after")
        await eventually(lambda: {*ids, "after"} <= hop.settled.keys(), "all to be settled")

    arrived = await site.held("parsed")
    assert set(arrived) == {*ids, "after"}
    assert not [id_ for id_ in arrived if arrived[id_] > hop.settled[id_] + hop.doubtful[id_]]
    assert not await site.held("incoming")
    assert site.reported("broker connection lost")


async def test_while_the_broker_is_away(site: Site) -> None:
    async with site.broker() as broker:
        deliveries = singly(broker.consume("incoming", 10))
        await site.publish("m1")
        delivery = await one(deliveries)

        await asyncio.to_thread(site.server.kill)
        await eventually(lambda: not broker.connected, "the loss to be seen")
        with pytest.raises(BrokerUnavailable):
            await broker.publish(Send("parsed", b"y", "m1"))
        with pytest.raises(DeliveryLost):
            await broker.settle(delivery)
        with pytest.raises(BrokerUnavailable):
            await broker.depths(["parsed"])

        late = site.make()
        opening = asyncio.create_task(late.open())
        waiting = asyncio.create_task(one(deliveries))
        await eventually(lambda: site.reported("broker unreachable"), "a report")
        assert not late.connected
        await asyncio.to_thread(site.server.start)

        async with asyncio.timeout(PATIENCE):
            await opening
        await late.publish(Send("parsed", b"y", "m1"))
        await late.close()
        assert not late.connected
        again = await waiting
        assert (again.message_id, again.redeliveries) == ("m1", 1)
        await eventually(lambda: broker.connected, "the broker to be back")
        await broker.settle(again)
        await deliveries.aclose()
    assert not await site.held("incoming")
    assert await site.held("parsed") == {"m1": 1}


async def test_a_cancelled_consumer_starts_anew(site: Site) -> None:
    async with site.broker() as broker:
        deliveries = singly(broker.consume("incoming", 10))
        await site.publish("m1")
        old = await one(deliveries)
        waiting = asyncio.create_task(one(deliveries))

        site.server.api("DELETE", f"queues/{site.vhost}/incoming")
        await eventually(lambda: site.reported("consumer lost"), "a report")
        with pytest.raises(DeliveryLost):
            await broker.settle(old)

        await asyncio.to_thread(site.declare)
        await site.publish("m2")
        found = await waiting
        assert found.message_id == "m2"
        await broker.settle(found)
        await deliveries.aclose()
    assert not await site.held("incoming")


async def test_a_closed_publishing_channel_is_opened_again(site: Site) -> None:
    async with site.broker() as broker:
        deliveries = singly(broker.consume("incoming", 10))
        await site.publish("m1")
        delivery = await one(deliveries)
        site.server.api("DELETE", f"exchanges/{site.vhost}/parser")

        with pytest.raises(BrokerUnavailable):
            async with asyncio.timeout(PATIENCE):
                await broker.settle(delivery, Send("parsed", b"y", "m1"))
        assert not broker.connected
        await eventually(lambda: site.reported("not declared yet"), "a report")
        await asyncio.to_thread(site.declare)
        await eventually(lambda: broker.connected, "the channel to be back")

        await broker.settle(delivery, Send("parsed", b"y", "m1"))
        await deliveries.aclose()
    assert await site.held("parsed") == {"m1": 1}
    assert not await site.held("incoming")


async def test_acknowledgements_out_of_order_spare_what_is_unsettled(site: Site) -> None:
    ids = [f"m{n:02}" for n in range(40)]
    for id_ in ids:
        await site.publish(id_)
    async with site.broker() as broker:
        deliveries = singly(broker.consume("incoming", len(ids)))
        taken = [await one(deliveries) for _ in ids]
        kept = {"m00", "m07", "m31", "m39"}
        for delivery in (*taken[20:], *taken[:20]):
            if delivery.message_id not in kept:
                await broker.settle(delivery)
                if delivery.message_id[-1] in "37":
                    await asyncio.sleep(0)
        await deliveries.aclose()
    assert set(await site.held("incoming")) == kept


async def test_an_alarm_blocks_publishing_and_not_consuming(site: Site) -> None:
    await site.publish("m1", "m2")
    async with site.broker() as broker:
        deliveries = singly(broker.consume("incoming", 10))
        first, second = await one(deliveries), await one(deliveries)
        await asyncio.to_thread(site.server.ctl, *ALARM)
        publishing = asyncio.create_task(broker.settle(first, Send("parsed", b"y", "m1")))
        try:
            await eventually(lambda: broker.blocked is not None, "the alarm")
            assert "memory" in str(broker.blocked)
            assert not publishing.done()
            await broker.settle(second)
        finally:
            await asyncio.to_thread(site.server.ctl, *NO_ALARM)
        async with asyncio.timeout(PATIENCE):
            await publishing
        await eventually(lambda: broker.blocked is None, "the end of the alarm")
        await deliveries.aclose()
    assert not await site.held("incoming")
    assert await site.held("parsed") == {"m1": 1}


async def test_a_queue_that_is_deleted_ends_what_was_handed_out_of_it(site: Site) -> None:
    await site.publish("m1", "m2")
    async with site.broker() as broker:
        deliveries = singly(broker.consume("incoming", 10))
        first, second = await one(deliveries), await one(deliveries)
        await broker.settle(first)
        waiting = asyncio.ensure_future(one(deliveries))
        site.server.api("DELETE", f"queues/{site.vhost}/incoming")
        await eventually(lambda: site.reported("the broker cancelled the consumer"), "its end")
        with pytest.raises(DeliveryLost, match="the broker cancelled the consumer"):
            await broker.settle(second)
        site.declare()
        await site.publish("m3")
        third = await waiting
        assert third.message_id == "m3"
        site.server.api("DELETE", f"queues/{site.vhost}/incoming")
        await deliveries.aclose()  # the channel may know of it by now, or not
        with pytest.raises(DeliveryLost):
            await broker.settle(third)


async def test_a_process_ends_in_time_while_the_broker_says_nothing(
    site: Site, product: ForkedConnector, tmp_path: Path
) -> None:
    """It has a message in hand that it cannot settle, and every question stays unanswered."""
    product.configure([], f"maildir://{tmp_path}/mail/{{local}}", site.url, retry={"tiers": ["1s"]})
    product.first = _hurried
    product.start("parser")
    steward = site.steward()
    await eventually(lambda: "incoming" in steward.consumers(), "the parser")
    steward.close()
    site.server.api("DELETE", f"queues/{site.vhost}/quarantine")  # where it would go
    await site.publish("m1")
    await eventually(lambda: product.count("parser", "settling failed; it is retried") > 0, "m1")
    site.server.freeze()
    try:
        assert await asyncio.to_thread(product.stop, "parser", GRACE_PERIOD) == 0
    finally:
        site.server.thaw()


def _hurried() -> None:
    """Do not wait for a broker as long as production does, each time that it is waited for."""
    for module in (subscription, closing):
        vars(module)["PARTING"] = 1.0
    vars(kept_connection)["CLOSING"] = 1.0
    vars(process)["GRACE"] = 1.0


@pytest.fixture
def impatient(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the broker take back what was not acknowledged for half a second."""
    monkeypatch.setattr(rabbitmq_broker, "LONGEST_PAUSE", 0.2)
    times = "consumer_timeout, {}), application:set_env(rabbit, channel_tick_interval, {}"
    site.server.ctl("eval", f"application:set_env(rabbit, {times.format(500, 200)}).")
    yield
    site.server.ctl("eval", f"application:set_env(rabbit, {times.format(1_800_000, 60_000)}).")


def _as_an_earlier_version(site: Site, queue: str) -> None:
    """Let a queue have the arguments, and so the delivery limit, of an earlier version."""
    spec = next(spec for spec in topology.every(TIERS) if spec.name == queue)
    with (
        Connection(f"127.0.0.1:{site.server.port}", virtual_host=site.vhost) as connection,
        connection.channel() as channel,
    ):
        channel.queue_delete(queue)
        (before,) = topology.earlier(spec)
        channel.queue_declare(queue, durable=True, auto_delete=False, arguments=before)
    site.declare()


@pytest.mark.usefixtures("impatient")
async def test_an_alarm_that_lasts_sends_nothing_to_quarantine(site: Site) -> None:
    """Two processes hold what cannot be published, and RabbitMQ takes it back time and again."""
    _as_an_earlier_version(site, "incoming")
    await site.publish("m1")
    steward = site.steward()

    async def passing_on(broker: RabbitBroker) -> None:
        async for delivery in singly(broker.consume("incoming", 10)):
            settling.append(asyncio.ensure_future(_settle(broker, delivery)))

    settling: list[asyncio.Future[None]] = []
    async with site.broker() as here, site.broker() as there:
        await asyncio.to_thread(site.server.ctl, *ALARM)
        consuming = [asyncio.create_task(passing_on(broker)) for broker in (here, there)]
        # Each is told of the alarm when it sends; one of them may have nothing to send.
        blocked = [asyncio.create_task(b.publish(Send("parsed", b"", "no"))) for b in (here, there)]

        def over() -> bool:
            waits = not steward.consumers() and steward.depths()["incoming"]
            return bool(waits and site.reported("nothing is taken")) or quarantined()

        def quarantined() -> bool:
            return bool(steward.depths()["quarantine"])

        try:
            await eventually(over, "nobody to take it any more")
            assert not quarantined()
        finally:
            await asyncio.to_thread(site.server.ctl, *NO_ALARM)
        await asyncio.wait(blocked)
        await eventually(lambda: not steward.depths()["incoming"], "it to be passed on")
        for task in consuming:
            task.cancel()
        await asyncio.wait([*consuming, *settling])
    steward.close()
    assert "m1" in await site.held("parsed")
    assert not await site.held("quarantine")
    assert not await site.held("incoming")


async def _settle(broker: RabbitBroker, delivery: Delivery) -> None:
    with suppress(DeliveryLost, BrokerUnavailable):
        await broker.settle(delivery, Send("parsed", b"y", delivery.message_id))


async def test_what_crashes_its_process_is_explained_in_quarantine(site: Site) -> None:
    site.server.impose(site.vhost, "^incoming$", {"delivery-limit": DELIVERY_LIMIT})
    envelope = Envelope(
        "id", "sales", Fetched(Inline(b"x"), "u", "s", Summary("a@b", "hello")), 1.0, attempt=3
    )
    async with site.broker("fetcher") as broker:
        await broker.publish(Send("incoming", wire.encode(envelope), "m1", {"account": "sales"}))
        handed_out = 0
        while not (await broker.depths(["quarantine"]))["quarantine"]:
            deliveries = singly(broker.consume("incoming", 1))
            try:
                delivery = await asyncio.wait_for(anext(deliveries), 1)
            except TimeoutError:
                continue
            assert delivery.redeliveries == handed_out
            assert delivery.headers == {"account": "sales", "instance": "pop3-connector"}
            handed_out += 1
            await _lose(site, broker, delivery)
            await deliveries.aclose()
    assert handed_out == DELIVERY_LIMIT + 1

    steward = site.steward()
    (stored,) = steward.browse("quarantine")
    assert "handed out" in str(stored.headers["reason"])
    assert (
        stored.headers.items()
        >= {
            "account": "sales",
            "subject": "hello",
            "inbox": "incoming",
            "stage": "parser",
        }.items()
    )
    assert steward.move("quarantine", ["m1"], back) == 1
    (moved,) = steward.browse("incoming")
    assert wire.decode(moved.body, Fetched).attempt == 0
    steward.close()


async def _lose(site: Site, broker: RabbitBroker, delivery: Delivery) -> None:
    """Let the channel of a delivery end without settling it, as a crash would."""
    session, _ = cast(tuple[Subscription, int], delivery.tag)
    session._channel.close()
    await eventually(lambda: session.lost is not None, "the channel to end")
