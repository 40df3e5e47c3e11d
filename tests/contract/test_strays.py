"""Queues at RabbitMQ that the configuration no longer names: they are found again."""

from shared.broker.steward.steward import KombuSteward
from shared.queues import DECLARED, Tier, plan
from tests.contract.messages import publish
from tests.servers.process import wait_until
from tests.servers.rabbitmq import RabbitServer

OLD = (Tier("30s", 30.0), Tier("7m", 420.0))
NEW = (Tier("30s", 30.0), Tier("9m", 540.0))


def strays(server: RabbitServer, vhost: str, tiers: tuple[Tier, ...]) -> dict[str, int]:
    steward = KombuSteward(server.url(vhost), tiers)
    found = dict(steward.strays())
    steward.close()
    return found


def declare(server: RabbitServer, vhost: str, tiers: tuple[Tier, ...]) -> None:
    steward = KombuSteward(server.url(vhost), tiers)
    steward.declare()
    steward.close()


def test_rabbitmq_remembers_what_was_declared_before(server: RabbitServer, vhost: str) -> None:
    assert strays(server, vhost, NEW) == {}
    declare(server, vhost, OLD)
    publish(server, vhost, "pickup.retry.7m")
    publish(server, vhost, "pickup.retry.30s")
    for _ in range(2):  # that they are declared anew is no reason to forget
        declare(server, vhost, NEW)
        wait_until(
            lambda: strays(server, vhost, NEW) == {"pickup.retry.7m": 1}, "the removed tier", 20
        )
    wait_until(lambda: strays(server, vhost, OLD) == {}, "nothing where it is configured", 20)
    assert server.api("GET", f"queues/{vhost}/{DECLARED}")["arguments"]["x-queue-type"] == "quorum"


def test_who_may_not_look_sees_the_topology_all_the_same(server: RabbitServer, vhost: str) -> None:
    declare(server, vhost, OLD)
    url = server.user(f"low-{vhost}", "hush", vhost, {"configure": "", "write": "", "read": "^pic"})
    steward = KombuSteward(url, OLD)
    assert steward.strays() == {}
    assert set(steward.depths()) == {spec.name for spec in plan(OLD)}
    steward.close()
    server.api("DELETE", f"users/low-{vhost}")
