"""RabbitMQ says no, or not yet: what is the user's to mend, what is waited for, what is refused."""

import asyncio
from collections.abc import Callable

import pytest

from shared.broker import Send
from shared.errors import ConfigError, Refused
from tests.deliveries import singly
from tests.flow.rabbitmq_site import PATIENCE, Site, eventually, one
from tests.servers.process import free_port
from tests.servers.rabbitmq import RabbitServer

WRITES = {"configure": "", "write": ".*"}


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
    deliveries = singly(broker.consume("incoming", 10))
    waiting = asyncio.create_task(one(deliveries))
    await eventually(lambda: site.reported("cannot consume yet"), "a report")

    await asyncio.to_thread(site.declare)
    async with asyncio.timeout(PATIENCE):
        await opening
    await site.publish("m1")
    await broker.settle(await waiting)
    await deliveries.aclose()
    await broker.close()


async def test_what_cannot_be_routed_is_refused_and_the_rest_is_not(site: Site) -> None:
    async with site.broker() as broker:
        deliveries = singly(broker.consume("incoming", 10))
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
    deliveries = singly(broker.consume("incoming", 10))
    waiting = asyncio.create_task(one(deliveries))
    await eventually(lambda: site.reported("ACCESS_REFUSED"), "a report")
    await site.publish("m1")
    site.server.api("PUT", f"permissions/{site.vhost}/shy", WRITES | {"read": ".*"})
    await broker.settle(await waiting)
    await deliveries.aclose()
    await broker.close()
    site.server.api("DELETE", "users/shy")
