"""RabbitMQ says no, or not yet: what is the user's to mend, what is waited for, what is refused."""

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.health import Health
from shared.broker import Send, topology
from shared.broker.rabbitmq.lasting_refusals import FIRST, RETURNED_FOR
from shared.broker.refusal_words import PATIENCE as PATIENCE_WITH_LOGINS
from shared.broker.steward.steward import KombuSteward
from shared.clock import SystemClock
from shared.errors import BrokerLimit, ConfigError, Refused
from shared.log import MailLog
from shared.log_lines import configure
from shared.queues import PARSED, plan
from tests.clock import ShiftedClock
from tests.deliveries import singly
from tests.flow.forked import ForkedConnector
from tests.flow.rabbitmq_site import PATIENCE, TIERS, Site, eventually, one
from tests.servers.process import free_port
from tests.servers.rabbitmq import RabbitServer

WRITES = {"configure": "", "write": ".*"}
OTHER = "somebody"


async def test_open_can_be_given_up(site: Site) -> None:
    broker = site.make(url=f"amqp://guest:guest@127.0.0.1:{free_port()}/")
    opening = asyncio.create_task(broker.open())
    await eventually(lambda: site.reported("broker unreachable"), "a report")
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


@contextmanager
def limited(site: Site) -> Iterator[None]:
    """Let the queue ``parsed`` take hardly anything."""
    policy = f"policies/{site.vhost}/short"
    definition = {"max-length": 1, "overflow": "reject-publish"}
    site.server.api(
        "PUT", policy, {"pattern": "^parsed$", "definition": definition, "apply-to": "queues"}
    )
    yield
    site.server.api("DELETE", policy)


async def test_a_full_queue_refuses(site: Site) -> None:
    taken = 0
    with limited(site):
        async with site.broker() as broker:
            with pytest.raises(Refused, match="could not store"):
                async with asyncio.timeout(PATIENCE):
                    while True:
                        await broker.publish(Send("parsed", b"y", f"m{taken}"))
                        taken += 1
    assert set(await site.held("parsed")) == {f"m{n}" for n in range(taken)}


async def test_refusals_that_stay_when_there_is_room_again_end_with_another_channel(
    site: Site, tmp_path: Path
) -> None:
    clock = ShiftedClock(tmp_path / "clock")
    broker = site.make(clock=clock)
    await broker.open()
    taken: list[str] = []

    async def takes(*ids: str) -> bool:
        """Return whether all are taken, each by itself, and remember which are."""
        sends = [broker.publish(Send("parsed", b"y", id_)) for id_ in ids]
        answers = await asyncio.gather(*sends, return_exceptions=True)
        taken.extend(id_ for id_, answer in zip(ids, answers, strict=True) if answer is None)
        assert all(answer is None or isinstance(answer, Refused) for answer in answers)
        return len(answers) == answers.count(None)

    with limited(site):
        async with asyncio.timeout(PATIENCE):
            while await takes(f"full-{len(taken)}"):
                pass
        clock.advance(FIRST)
        assert not await takes("m1", "m2")
        await eventually(lambda: site.reported("trying another channel"), "a report")
        clock.advance(FIRST)
        assert not await takes("m3")
        assert not site.reported("another connection")
        clock.advance(FIRST)
        assert not await takes("m4")
        await eventually(lambda: site.reported("broker reconnected"), "another connection")
        await eventually(lambda: broker.connected, "the broker to be back")
        assert not await takes("m5")
    clock.advance(4 * FIRST)
    async with asyncio.timeout(PATIENCE):
        while not await takes("m6"):  # 3.10: the channel that met the limit goes on refusing
            await asyncio.sleep(0.1)
    await broker.close()
    assert await site.held("parsed") == dict.fromkeys(taken, 1)


async def test_a_login_that_is_refused_for_long_is_the_users_to_mend(
    site: Site, tmp_path: Path
) -> None:
    clock = ShiftedClock(tmp_path / "clock")
    broker = site.make(url=site.url.replace("guest:guest", "guest:hush"), clock=clock)
    opening = asyncio.create_task(broker.open())
    await eventually(lambda: site.reported("broker refused the connection"), "a report")
    assert not opening.done()
    clock.advance(PATIENCE_WITH_LOGINS)
    with pytest.raises(ConfigError, match="user name and password") as caught:
        async with asyncio.timeout(PATIENCE):
            await opening
    assert "hush" not in f"{caught.value}{site.reports}"
    await broker.close()


def _late_user(site: Site) -> None:
    site.server.api("DELETE", f"users/{OTHER}")


def _late_permission(site: Site) -> None:
    site.server.api("DELETE", f"permissions/{site.vhost}/{OTHER}")


def _late_vhost(site: Site) -> None:
    site.server.drop_vhost(site.vhost)


def _no_connections_of_the_user(site: Site) -> None:
    site.server.api("PUT", f"user-limits/{OTHER}/max-connections", {"value": 0})


def _no_channels_of_the_user(site: Site) -> None:
    site.server.api("PUT", f"user-limits/{OTHER}/max-channels", {"value": 0})


def _no_connections_to_the_vhost(site: Site) -> None:
    site.server.api("PUT", f"vhost-limits/{site.vhost}/max-connections", {"value": 0})


def _all_is_well(site: Site) -> str:
    site.server.api("PUT", f"vhosts/{site.vhost}")
    url = site.server.user(OTHER, "pw", site.vhost, WRITES | {"configure": ".*", "read": ".*"})
    for of, limit in (
        (f"user-limits/{OTHER}", "connections"),
        (f"user-limits/{OTHER}", "channels"),
    ):
        site.server.api("PUT", f"{of}/max-{limit}", {"value": -1})
    site.server.api("PUT", f"vhost-limits/{site.vhost}/max-connections", {"value": -1})
    return url


@pytest.mark.parametrize(
    ("harm", "said", "wanted"),
    [
        (_late_user, "Login was refused", ConfigError),
        (_late_permission, "refused for user", ConfigError),
        (_late_vhost, "not found", ConfigError),
        (_no_connections_of_the_user, "user connection limit (0) is reached", BrokerLimit),
        (_no_channels_of_the_user, "maximum allowed user limit of (0)", BrokerLimit),
        (_no_connections_to_the_vhost, "connection limit (0) is reached", BrokerLimit),
    ],
)
async def test_what_the_broker_may_let_us_do_later_is_waited_for(
    site: Site, harm: Callable[[Site], None], said: str, wanted: type[Exception]
) -> None:
    url = _all_is_well(site)
    harm(site)
    broker = site.make(url=url)
    opening = asyncio.create_task(broker.open())
    try:
        await eventually(lambda: site.reported(said), "the broker's own words")
        with pytest.raises(wanted, match=re.escape(said)):
            await asyncio.to_thread(KombuSteward(url, TIERS).declare)
        assert not opening.done()
        _all_is_well(site)
        await asyncio.to_thread(site.declare)
        async with asyncio.timeout(PATIENCE):
            await opening
        await broker.publish(Send("parsed", b"y", "m1"))
    finally:
        opening.cancel()
        await broker.close()
        site.server.api("DELETE", f"users/{OTHER}")
    assert await site.held("parsed") == {"m1": 1}


def test_a_limit_makes_a_process_wait_and_a_command_fail(
    site: Site, product: ForkedConnector
) -> None:
    product.configure([], f"maildir://{product.folder}/mail/{{local}}", site.url)
    limit = f"vhost-limits/{site.vhost}/max-connections"
    site.server.api("PUT", limit, {"value": 0})
    product.start("run", "parser")
    for name, event in (("run", "waiting for the broker"), ("parser", "broker unreachable")):
        product.wait(lambda n=name, e=event: product.count(n, e), f"{event!r} from {name}")
    shown = product.cli("topology", "show")
    assert shown.returncode == 1
    assert "connection limit (0) is reached" in shown.stderr
    assert "the limit" in shown.stderr.splitlines()[-1]

    site.server.api("PUT", limit, {"value": -1})
    for name in ("run", "parser"):
        product.wait(lambda n=name: product.count(n, "started"), f"{name} to start")
        assert product.stop(name) == 0, product.tail()


async def test_a_refusal_after_the_start_is_tried_again(site: Site) -> None:
    url = site.server.user(
        "late", "one", site.vhost, {"configure": "", "write": ".*", "read": ".*"}
    )
    broker = site.make(url=url)
    await broker.open()
    site.server.api("PUT", "users/late", {"password": "two", "tags": ""})
    await asyncio.to_thread(site.server.close_connections, site.vhost)
    await eventually(lambda: site.reported("broker refused the connection"), "a report")
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


async def test_a_process_is_not_ready_while_nothing_leads_to_a_queue_it_sends_to(
    site: Site,
) -> None:
    broker = site.make()
    vitals = Health(broker, SystemClock(), MailLog("parser", lines=configure("INFO")).metrics, "0")
    vitals.started = True
    wanted = next(topology.arguments(spec) for spec in plan(TIERS) if spec.name == PARSED)
    site.server.api("DELETE", f"queues/{site.vhost}/{PARSED}")
    await broker.open()
    for _ in range(2):
        await broker.publish(Send("incoming", b"x", "elsewhere"))
        with pytest.raises(Refused, match="NO_ROUTE"):
            await broker.publish(Send(PARSED, b"x", "m"))
        said = b"nothing leads to parsed; run: pop3-connector topology declare\n"
        assert vitals.answer("/readyz")[::2] == (503, said)
        # As somebody makes it anew in the management UI: without its bindings.
        queue = {"durable": True, "arguments": wanted}
        site.server.api("PUT", f"queues/{site.vhost}/{PARSED}", queue)
    await asyncio.to_thread(site.declare)
    await broker.publish(Send(PARSED, b"x", "m"))
    assert vitals.answer("/readyz")[0] == 200
    await broker.close()


async def test_what_came_back_once_is_forgotten_where_nobody_sends_again(
    site: Site, tmp_path: Path
) -> None:
    clock = ShiftedClock(tmp_path / "clock")
    broker = site.make(clock=clock)
    site.server.api("DELETE", f"queues/{site.vhost}/{PARSED}")
    await broker.open()
    with pytest.raises(Refused, match="NO_ROUTE"):
        await broker.publish(Send(PARSED, b"x", "m"))
    assert list(broker.unroutable) == [PARSED]
    clock.advance(RETURNED_FOR + 1)
    assert not list(broker.unroutable)
    await broker.close()
