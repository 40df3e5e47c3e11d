"""RabbitMQ fails in every way it can, and no message is lost, or doubled by one that settled."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import cast

import pytest

from shared import wire
from shared.broker import Delivery, Send
from shared.broker.rabbitmq import RabbitBroker
from shared.broker.rabbitmq.consumer import Session
from shared.broker.steward import KombuSteward
from shared.errors import BrokerUnavailable, ConfigError, DeliveryLost, Refused
from shared.message import Envelope, Fetched, Inline, Summary
from shared.queues import DELIVERY_LIMIT, Tier
from tests.servers.certificates import Certificates, make_certificates
from tests.servers.process import free_port
from tests.servers.rabbitmq import RabbitServer, rabbitmq

TIERS = (Tier("1s", 1.0),)
PATIENCE = 90.0
QUIET = 0.7
"""Seconds without a delivery after which a queue counts as empty."""
MESSAGES = 300

WRITES = {"configure": "", "write": ".*"}

_TLS = """\
listeners.ssl.1 = 127.0.0.1:{port}
ssl_options.cacertfile = {made.ca}
ssl_options.certfile = {made.cert}
ssl_options.keyfile = {made.key}
"""


class Site:
    """A node of this file's own, which may be restarted and killed, and a virtual host on it."""

    def __init__(self, server: RabbitServer, vhost: str) -> None:
        self.server = server
        self.vhost = vhost
        self.url = server.url(vhost)
        self.reports: list[str] = []

    def report(self, what: str, /, **about: object) -> None:
        self.reports.append(f"{what} {about}")

    def reported(self, what: str) -> bool:
        return any(what in line for line in self.reports)

    def steward(self) -> KombuSteward:
        return KombuSteward(self.url, TIERS)

    def declare(self) -> None:
        steward = self.steward()
        steward.declare()
        steward.close()

    def make(self, sender: str = "parser", url: str | None = None) -> RabbitBroker:
        return RabbitBroker(
            url or self.url,
            sender=sender,
            name=f"{sender}@test",
            tiers=TIERS,
            version="0",
            report=self.report,
        )

    @asynccontextmanager
    async def broker(self, sender: str = "parser") -> AsyncIterator[RabbitBroker]:
        broker = self.make(sender)
        try:
            async with asyncio.timeout(PATIENCE):
                await broker.open()
            yield broker
        finally:
            await broker.close()

    async def publish(self, *ids: str) -> None:
        async with self.broker("fetcher") as broker:
            await asyncio.gather(*(broker.publish(Send("incoming", b"x", id_)) for id_ in ids))

    async def held(self, queue: str) -> Counter[str]:
        """Return how often each message is in a queue, taking them out until none comes."""
        found: Counter[str] = Counter()
        async with self.broker("postmaster") as broker:
            deliveries = broker.consume(queue, 500)
            with suppress(TimeoutError):
                while True:
                    delivery = await asyncio.wait_for(anext(deliveries), QUIET)
                    found[delivery.message_id] += 1
                    await broker.settle(delivery)
        return found


@pytest.fixture(autouse=True)
def _quiet_pika() -> None:
    logging.getLogger("pika").setLevel(logging.CRITICAL)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates, tls_port: int
) -> Iterator[RabbitServer]:
    config = _TLS.format(port=tls_port, made=certificates)
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq"), config=config) as running:
        yield running


@pytest.fixture
def site(server: RabbitServer) -> Site:
    vhost = server.vhost()
    site = Site(server, vhost)
    site.declare()
    return site


async def eventually(true: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while not true():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"waited in vain for {what}")


async def one(deliveries: AsyncGenerator[Delivery, None]) -> Delivery:
    async with asyncio.timeout(PATIENCE):
        return await anext(deliveries)


class Hop:
    """A stage between two queues, which forwards every message until it has done so for all."""

    def __init__(self, broker: RabbitBroker) -> None:
        self.broker = broker
        self.settled: Counter[str] = Counter()
        self.doubtful: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        async for delivery in self.broker.consume("incoming", 50):
            task = asyncio.create_task(self._forward(delivery))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, delivery: Delivery) -> None:
        id_ = delivery.message_id
        while True:
            try:
                await self.broker.settle(delivery, Send("parsed", b"y", id_))
            except DeliveryLost:
                self.doubtful[id_] += 1
                return
            except BrokerUnavailable:
                self.doubtful[id_] += 1
                await eventually(lambda: self.broker.connected, "the broker to be back")
            else:
                self.settled[id_] += 1
                return


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
        deliveries = broker.consume("incoming", 10)
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
        await eventually(lambda: site.reported("broker not reached"), "a report")
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


async def test_open_can_be_given_up(site: Site) -> None:
    broker = site.make(url=f"amqp://guest:guest@127.0.0.1:{free_port()}/")
    opening = asyncio.create_task(broker.open())
    await eventually(lambda: site.reported("broker not reached"), "a report")
    opening.cancel()
    await asyncio.wait([opening])
    await broker.close()
    assert not [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]


async def test_a_stage_waits_for_the_topology(server: RabbitServer) -> None:
    site = Site(server, server.vhost())
    broker = site.make()
    opening = asyncio.create_task(broker.open())
    await eventually(lambda: site.reported("not declared yet"), "a report")
    deliveries = broker.consume("incoming", 10)
    waiting = asyncio.create_task(one(deliveries))
    await eventually(lambda: site.reported("cannot consume yet"), "a report")

    await asyncio.to_thread(site.declare)
    async with asyncio.timeout(PATIENCE):
        await opening
    await site.publish("m1")
    await broker.settle(await waiting)
    await deliveries.aclose()
    await broker.close()


async def test_a_cancelled_consumer_starts_anew(site: Site) -> None:
    async with site.broker() as broker:
        deliveries = broker.consume("incoming", 10)
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
        deliveries = broker.consume("incoming", 10)
        await site.publish("m1")
        delivery = await one(deliveries)
        site.server.api("DELETE", f"exchanges/{site.vhost}/parser")

        with pytest.raises(BrokerUnavailable):
            async with asyncio.timeout(PATIENCE):
                await broker.settle(delivery, Send("parsed", b"y", "m1"))
        await eventually(lambda: site.reported("not declared yet"), "a report")
        assert not broker.connected
        await asyncio.to_thread(site.declare)
        await eventually(lambda: broker.connected, "the channel to be back")

        await broker.settle(delivery, Send("parsed", b"y", "m1"))
        await deliveries.aclose()
    assert await site.held("parsed") == {"m1": 1}
    assert not await site.held("incoming")


async def test_what_cannot_be_routed_is_refused_and_the_rest_is_not(site: Site) -> None:
    async with site.broker() as broker:
        deliveries = broker.consume("incoming", 10)
        await site.publish("m1")
        delivery = await one(deliveries)
        site.server.api("DELETE", f"queues/{site.vhost}/parsed")

        outcomes = await asyncio.gather(
            broker.settle(delivery, Send("parsed", b"y", "m1")),
            broker.publish(Send("parsed", b"y", "m2")),
            broker.publish(Send("quarantine", b"y", "m3")),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [Refused, Refused, type(None)]
        assert "NO_ROUTE" in str(outcomes[0])

        await broker.settle(delivery, Send("quarantine", b"y", "m1"))
        await deliveries.aclose()
    assert await site.held("quarantine") == {"m1": 1, "m3": 1}
    assert not await site.held("incoming")


async def test_a_full_queue_refuses(site: Site) -> None:
    site.server.api(
        "PUT",
        f"policies/{site.vhost}/short",
        {"pattern": "^parsed$", "definition": {"max-length": 1}, "apply-to": "queues"},
    )
    async with site.broker() as broker:
        taken = 0
        with pytest.raises(Refused, match="could not store"):
            async with asyncio.timeout(PATIENCE):
                while True:
                    await broker.publish(Send("parsed", b"y", f"m{taken}"))
                    taken += 1
    assert set(await site.held("parsed")) == {f"m{n}" for n in range(taken)}


async def test_acknowledgements_out_of_order_spare_what_is_unsettled(site: Site) -> None:
    ids = [f"m{n:02}" for n in range(40)]
    for id_ in ids:
        await site.publish(id_)
    async with site.broker() as broker:
        deliveries = broker.consume("incoming", len(ids))
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
        deliveries = broker.consume("incoming", 10)
        first, second = await one(deliveries), await one(deliveries)
        await asyncio.to_thread(site.server.ctl, "set_vm_memory_high_watermark", "0.0000001")
        publishing = asyncio.create_task(broker.settle(first, Send("parsed", b"y", "m1")))
        try:
            await eventually(lambda: broker.blocked is not None, "the alarm")
            assert "memory" in str(broker.blocked)
            assert not publishing.done()
            await broker.settle(second)
        finally:
            await asyncio.to_thread(
                site.server.ctl, "set_vm_memory_high_watermark", "absolute", "2GB"
            )
        async with asyncio.timeout(PATIENCE):
            await publishing
        await eventually(lambda: broker.blocked is None, "the end of the alarm")
        await deliveries.aclose()
    assert not await site.held("incoming")
    assert await site.held("parsed") == {"m1": 1}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda url: url.replace("guest:guest", "guest:hush"), "user name and password"),
        (lambda url: url.rsplit("/", 1)[0] + "/nowhere", "no such virtual host"),
    ],
)
async def test_what_the_broker_refuses_is_the_users_to_mend(
    site: Site, wrong: Callable[[str], str], said: str
) -> None:
    broker = site.make(url=wrong(site.url))
    with pytest.raises(ConfigError, match=said) as caught:
        async with asyncio.timeout(PATIENCE):
            await broker.open()
    assert "hush" not in str(caught.value)
    await broker.close()


async def test_a_refusal_after_the_start_is_tried_again(site: Site) -> None:
    url = site.server.user(
        "late", "one", site.vhost, {"configure": "", "write": ".*", "read": ".*"}
    )
    broker = site.make(url=url)
    await broker.open()
    site.server.api("PUT", "users/late", {"password": "two", "tags": ""})
    await asyncio.to_thread(site.server.close_connections, site.vhost)
    await eventually(lambda: site.reported("broker refuses us"), "a report")
    site.server.api("PUT", "users/late", {"password": "one", "tags": ""})
    await eventually(lambda: broker.connected, "the broker to be back")
    await broker.close()
    site.server.api("DELETE", "users/late")


async def test_a_queue_that_is_not_ours_to_read_is_reported(site: Site) -> None:
    url = site.server.user("shy", "pw", site.vhost, WRITES | {"read": "^$"})
    broker = site.make(url=url)
    await broker.open()
    deliveries = broker.consume("incoming", 10)
    waiting = asyncio.create_task(one(deliveries))
    await eventually(lambda: site.reported("ACCESS_REFUSED"), "a report")
    await site.publish("m1")
    site.server.api("PUT", f"permissions/{site.vhost}/shy", WRITES | {"read": ".*"})
    await broker.settle(await waiting)
    await deliveries.aclose()
    await broker.close()
    site.server.api("DELETE", "users/shy")


async def test_tls_trusts_the_given_authority_and_no_other(
    site: Site, certificates: Certificates, tls_port: int
) -> None:
    url = f"amqps://guest:guest@localhost:{tls_port}/{site.vhost}"
    steward = KombuSteward(url, TIERS, ca_file=str(certificates.ca))
    assert steward.depths()["parsed"] == 0
    steward.close()
    with pytest.raises(BrokerUnavailable):
        KombuSteward(url, TIERS).depths()

    broker = RabbitBroker(
        url,
        sender="parser",
        name="parser@test",
        tiers=TIERS,
        version="0",
        ca_file=str(certificates.ca),
    )
    await broker.open()
    await broker.publish(Send("parsed", b"y" * 300_000, "m1"))
    await broker.close()
    assert await site.held("parsed") == {"m1": 1}

    stranger = site.make(url=url)
    opening = asyncio.create_task(stranger.open())
    await eventually(lambda: site.reported("CERTIFICATE_VERIFY_FAILED"), "a report")
    opening.cancel()
    await asyncio.wait([opening])
    await stranger.close()


async def test_what_crashes_its_process_is_explained_in_quarantine(site: Site) -> None:
    letter = Envelope(
        "id", "sales", Fetched(Inline(b"x"), "u", "s", Summary("a@b", "hello")), 1.0, attempt=3
    )
    async with site.broker("fetcher") as broker:
        await broker.publish(Send("incoming", wire.encode(letter), "m1", {"account": "sales"}))
        handed_out = 0
        while not (await broker.depths(["quarantine"]))["quarantine"]:
            deliveries = broker.consume("incoming", 1)
            try:
                delivery = await asyncio.wait_for(anext(deliveries), 1)
            except TimeoutError:
                continue
            assert delivery.redeliveries == handed_out
            assert delivery.headers == {"account": "sales"}
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
    assert steward.move("quarantine", ["m1"], None) == 1
    (moved,) = steward.browse("incoming")
    assert wire.decode(moved.body, Fetched).attempt == 0
    steward.close()


async def _lose(site: Site, broker: RabbitBroker, delivery: Delivery) -> None:
    """Let the channel of a delivery end without settling it, as a crash would."""
    session, _ = cast(tuple[Session, int], delivery.tag)
    session._channel.close()
    await eventually(lambda: session.lost is not None, "the channel to end")
