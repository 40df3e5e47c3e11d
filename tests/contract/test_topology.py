"""The topology in AMQP's terms, and what a real RabbitMQ makes of it."""

import pytest

from shared.broker import topology
from shared.broker.steward.steward import KombuSteward
from shared.errors import ConfigError
from shared.queues import DECLARED, HELD, MARK, SENDERS, Tier, plan, reachable
from tests.contract.messages import publish
from tests.servers.process import wait_until
from tests.servers.rabbitmq import RabbitServer

TIERS = (Tier("30s", 30.0), Tier("5m", 300.0))
PLAN = {spec.name: spec for spec in plan(TIERS)}


def declare(server: RabbitServer, vhost: str, tiers: tuple[Tier, ...] = TIERS) -> list[str]:
    steward = KombuSteward(server.url(vhost), tiers)
    try:
        return list(steward.declare())
    finally:
        steward.close()


def test_a_work_queue_gives_up_into_quarantine_and_loses_nothing_on_the_way() -> None:
    assert topology.arguments(PLAN["incoming"]) == {
        "x-queue-type": "quorum",
        "x-delivery-limit": topology.NEVER,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "quarantine",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def test_a_retry_queue_passes_back_to_its_inbox_after_its_time() -> None:
    assert topology.arguments(PLAN["pickup.retry.5m"]) == {
        "x-queue-type": "quorum",
        "x-delivery-limit": topology.NEVER,
        "x-message-ttl": 300_000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "pickup",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("incoming.failed", "quarantine"),
        ("parsed.failed", "quarantine"),
        ("pickup.failed", "quarantine"),
        ("quarantine", "quarantine.held"),
    ],
)
def test_what_is_kept_for_the_operator_never_expires(name: str, instead: str) -> None:
    assert topology.arguments(PLAN[name]) == {
        "x-queue-type": "quorum",
        "x-delivery-limit": topology.NEVER,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": instead,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def test_everything_is_declared_as_planned_and_again_without_effect(
    server: RabbitServer, vhost: str
) -> None:
    declare(server, vhost)
    declare(server, vhost)

    queues = {q["name"]: q for q in server.api("GET", f"queues/{vhost}")}
    assert queues.pop(MARK)["arguments"]["x-max-length"] == 1
    assert queues.keys() == PLAN.keys() | {DECLARED, HELD}
    assert {name: q["arguments"] for name, q in queues.items()} == {
        spec.name: topology.arguments(spec) for spec in topology.every(TIERS)
    }
    assert all(q["type"] == "quorum" and q["durable"] for q in queues.values())


@pytest.mark.parametrize("sender", SENDERS)
def test_an_exchange_reaches_what_its_sender_may_send_to(
    server: RabbitServer, vhost: str, sender: str
) -> None:
    declare(server, vhost)
    exchange = server.api("GET", f"exchanges/{vhost}/{sender}")
    assert (exchange["type"], exchange["durable"]) == ("direct", True)
    bindings = server.api("GET", f"exchanges/{vhost}/{sender}/bindings/source")
    marks = (MARK,) if sender in ("fetcher", "postmaster") else ()
    assert {(b["destination"], b["routing_key"]) for b in bindings} == {
        (queue, queue) for queue in (*reachable(sender, plan(TIERS)), *marks)
    }


def test_a_message_comes_back_from_a_retry_queue(server: RabbitServer, vhost: str) -> None:
    declare(server, vhost, (Tier("soon", 0.05),))
    publish(server, vhost, "pickup.retry.soon")
    get = {"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"}
    wait_until(lambda: bool(server.api("POST", f"queues/{vhost}/pickup/get", get)), "its return")


def test_a_queue_of_other_properties_is_named_and_left_alone(
    server: RabbitServer, vhost: str
) -> None:
    other = {"durable": True, "arguments": {"x-queue-type": "quorum"}}
    server.api("PUT", f"queues/{vhost}/incoming", other)
    with pytest.raises(ConfigError, match=r"queue incoming: .*delete it") as caught:
        declare(server, vhost)
    assert "PRECONDITION_FAILED" in caught.value.what
    assert server.api("GET", f"queues/{vhost}/incoming")["arguments"] == other["arguments"]


def test_a_queue_of_an_earlier_version_is_used_on_and_named(
    server: RabbitServer, vhost: str
) -> None:
    before = {"x-queue-type": "quorum", "x-delivery-limit": topology.NEVER}
    for name in ("pickup.failed", DECLARED):
        server.api("PUT", f"queues/{vhost}/{name}", {"durable": True, "arguments": before})
    for _ in range(2):
        assert declare(server, vhost) == ["pickup.failed", DECLARED]
    assert server.api("GET", f"queues/{vhost}/pickup.failed")["arguments"] == before
    bindings = server.api("GET", f"queues/{vhost}/pickup.failed/bindings")
    assert {b["source"] for b in bindings} == {"", "deliverer", "rewriter", "postmaster"}


def test_another_tier_length_is_found_out(server: RabbitServer, vhost: str) -> None:
    declare(server, vhost, (Tier("5m", 300.0),))
    with pytest.raises(ConfigError, match=r"queue incoming\.retry\.5m"):
        declare(server, vhost, (Tier("5m", 301.0),))


def test_who_may_not_configure_is_told(server: RabbitServer, vhost: str) -> None:
    url = server.user(f"low-{vhost}", "hush", vhost, {"configure": "", "write": ".*", "read": ".*"})
    steward = KombuSteward(url, TIERS)
    with pytest.raises(ConfigError, match="permission to configure") as caught:
        steward.declare()
    steward.close()
    assert "hush" not in str(caught.value)
    server.api("DELETE", f"users/low-{vhost}")


def test_depths_tell_what_is_not_declared(server: RabbitServer, vhost: str) -> None:
    declare(server, vhost, (Tier("5m", 300.0),))
    steward = KombuSteward(server.url(vhost), TIERS)
    depths = steward.depths()
    steward.close()
    assert depths["incoming"] == 0
    assert depths["incoming.retry.30s"] is None


@pytest.mark.parametrize("queue", ["pickup.failed", "quarantine"])
def test_a_curious_operator_loses_nothing(server: RabbitServer, vhost: str, queue: str) -> None:
    declare(server, vhost)
    publish(server, vhost, queue)
    get = {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}
    for _ in range(100):
        wait_until(lambda: bool(server.api("POST", f"queues/{vhost}/{queue}/get", get)), "it")
