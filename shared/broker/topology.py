"""The topology as AMQP objects: what ``shared.queues`` plans, declared on a RabbitMQ.

Everything semantic is declared here over AMQP alone, and means the same on RabbitMQ 3.10 to 4.x;
what is a matter of taste (maximum length and the like) is left to the operator's policies.
Declaring again is a no-op; a queue that exists with other arguments is never touched. If those are
of an earlier version of this program it is used on as it is (the steward's ``migrate`` changes it);
any others are an error.

What is kept survives a policy that somebody sets on every queue, as far as arguments can see to it:
a full queue refuses, and what is expired or was looked at too often goes to another queue, by
dead-lettering at least once. Where a number is both in a policy and in the arguments the lower one
counts, so that none of this can be switched off by arguments; see ``shared.broker.policies``.
"""

# kombu has few annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed
from kombu.connection import Connection
from kombu.entity import Exchange, Queue, binding

from shared.broker.refusal_words import refusal
from shared.errors import BrokerRefuses, ConfigError
from shared.log import printable
from shared.queues import (
    DECLARED,
    DELIVERY_LIMIT,
    HELD,
    MARK,
    QUARANTINE,
    SENDERS,
    QueueSpec,
    Tier,
    plan,
    reachable,
)

NEVER: Final = 1_000_000_000
"""A delivery limit that no curious operator reaches. From 4.0 on a quorum queue without one drops
a message after 20 deliveries, each "Get" in the management UI among them; -1 for "none" is refused
by 3.x, and a number this large is taken by all."""

FOREIGN: Final = (
    "it exists already, with other properties than any version of this program gives it, and"
    " topology migrate leaves it alone. Move its messages away, delete it, and run topology declare"
)
"""What to do about a queue that is not ours."""

_DEFAULT_EXCHANGE: Final = ""


def exchange(sender: str) -> Exchange:
    """Return the exchange that a sender publishes to, by the name of the sender."""
    return Exchange(sender, type="direct", durable=True)


def arguments(spec: QueueSpec) -> dict[str, Any]:
    """Return the arguments that a queue is declared with.

    See https://www.rabbitmq.com/docs/quorum-queues#dead-lettering for at-least-once dead-lettering,
    which needs ``reject-publish``.
    """
    return {"x-queue-type": "quorum"} | _ARGUMENTS[spec.kind](spec)


def passed_on(spec: QueueSpec) -> bool:
    """Return whether an earlier version let RabbitMQ move messages of a queue to another one."""
    return "x-dead-letter-exchange" in (*earlier(spec), arguments(spec))[0]


def every(tiers: Sequence[Tier]) -> tuple[QueueSpec, ...]:
    """Return the queues of the topology, and those that only a RabbitMQ has."""
    return (*plan(tiers), QueueSpec(HELD, "held"), QueueSpec(DECLARED, "memory"))


def protected(tiers: Sequence[Tier]) -> tuple[QueueSpec, ...]:
    """Return the queues in which a policy could do harm."""
    return (*every(tiers), QueueSpec(MARK, "mark"))


def earlier(spec: QueueSpec) -> Sequence[dict[str, Any]]:
    """Return the arguments that earlier versions declared a queue with, if others."""
    before = _EARLIER.get(spec.kind)
    return () if before is None else ({"x-queue-type": "quorum"} | before,)


def declare(connection: Connection, tiers: Sequence[Tier]) -> list[str]:
    """Make every exchange and queue exist.

    Args:
        connection: an open connection of a user who may configure.
        tiers: the retry tiers.

    Returns:
        The queues that have the arguments of an earlier version, and are left so.

    Raises:
        ConfigError: one exists with other properties, or this user may not declare it.
        amqp.exceptions.AMQPError, OSError: the broker does not answer; the caller translates.
    """
    with connection.channel() as channel:
        for sender in SENDERS:
            _declare_or_explain("exchange", sender, exchange(sender).bind(channel).declare)
    return [spec.name for spec in every(tiers) if not declare_queue(connection, spec)]


def declare_queue(connection: Connection, spec: QueueSpec) -> bool:
    """Make one queue and its bindings exist; return whether it has the arguments of this version.

    Args:
        connection: an open connection of a user who may configure.
        spec: the queue.

    Raises:
        ConfigError: it has arguments of no version, or this user may not declare it.
    """
    wanted = _queue(spec)
    try:
        with connection.channel() as channel:
            _declare_or_explain("queue", spec.name, wanted.bind(channel).declare)
    except BrokerRefuses:
        raise
    except ConfigError:
        if not any(_is(connection, spec, before) for before in earlier(spec)):
            raise
        with connection.channel() as channel:
            _bind(channel, wanted)
        return False
    return True


def outdated(connection: Connection, spec: QueueSpec) -> bool:
    """Return whether a queue exists with the arguments of an earlier version; none is made."""
    return not _is(connection, spec, arguments(spec)) and any(
        _is(connection, spec, before) for before in earlier(spec)
    )


def is_foreign(connection: Connection, spec: QueueSpec) -> bool:
    """Return whether a queue exists with arguments of no version; not so where none may be asked.

    Limit: to ask takes the permission to configure.
    """
    try:
        known = (arguments(spec), *earlier(spec))
        return _exists(connection, spec) and not any(_is(connection, spec, a) for a in known)
    except AccessRefused:
        return False


def _exists(connection: Connection, spec: QueueSpec) -> bool:
    try:
        with connection.channel() as channel:
            channel.queue_declare(spec.name, passive=True)
    except NotFound:
        return False
    return True


def _is(connection: Connection, spec: QueueSpec, expected: dict[str, Any]) -> bool:
    """Return whether a queue exists with these arguments."""
    try:
        with connection.channel() as channel:
            channel.queue_declare(spec.name, passive=True)
            channel.queue_declare(spec.name, durable=True, auto_delete=False, arguments=expected)
    except (NotFound, PreconditionFailed):
        return False
    return True


def _queue(spec: QueueSpec) -> Queue:
    """Return a queue, with its bindings to the exchanges of those who may send to it."""
    return Queue(
        spec.name,
        durable=True,
        queue_arguments=arguments(spec),
        bindings=[
            binding(exchange(sender), routing_key=spec.name)
            for sender in SENDERS
            if reachable(sender, (spec,))
        ],
    )


def _bind(channel: Any, queue: Queue) -> None:
    for bound in queue.bindings:
        channel.queue_bind(queue.name, bound.exchange.name, bound.routing_key)


def _declare_or_explain(what: str, name: str, make: Callable[[], object]) -> None:
    try:
        make()
    except PreconditionFailed as error:
        if (limit := refusal([str(error)], f"{what} {name}")) is not None:
            raise limit from error
        raise ConfigError(
            f"{what} {name}",
            f"{FOREIGN}. RabbitMQ says: {printable(str(error))}",
        ) from error
    except AccessRefused as error:
        raise BrokerRefuses(
            f"{what} {name}",
            "this user may not declare it; use one with the permission to configure. "
            f"RabbitMQ says: {printable(str(error))}",
            login=False,
        ) from error


def _dead_letters_to(routing_key: str) -> dict[str, Any]:
    return {
        "x-dead-letter-exchange": _DEFAULT_EXCHANGE,
        "x-dead-letter-routing-key": routing_key,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def _retry(spec: QueueSpec) -> dict[str, Any]:
    if spec.ttl is None or spec.back_to is None:
        raise ValueError(f"{spec.name}: a retry queue needs a time to wait and a way back")
    ttl = {"x-message-ttl": round(spec.ttl * 1000)}
    return _ENDLESS | ttl | _dead_letters_to(spec.back_to)


_ENDLESS: Final[dict[str, Any]] = {"x-delivery-limit": NEVER}
_ARGUMENTS: Final[Mapping[str, Callable[[QueueSpec], dict[str, Any]]]] = {
    # Straight to quarantine: through a retry tier it would be a cycle, which the broker drops.
    "work": lambda _: _ENDLESS | _dead_letters_to(QUARANTINE),
    "retry": _retry,
    "failed": lambda _: _ENDLESS | _dead_letters_to(QUARANTINE),
    "quarantine": lambda _: _ENDLESS | _dead_letters_to(HELD),
    # As a rule nothing has that name: what cannot be passed on at least once, RabbitMQ keeps in
    # this queue. Were there always one, messages would expire in that; and to name a queue in which
    # they have expired before makes a cycle, into which RabbitMQ passes nothing on, ever.
    "held": lambda spec: _ENDLESS | _dead_letters_to(f"{spec.name}.held"),
    "memory": lambda _: _ENDLESS | {"x-overflow": "reject-publish"},
}
_EARLIER: Final[Mapping[str, dict[str, Any]]] = {
    "work": {"x-delivery-limit": DELIVERY_LIMIT} | _dead_letters_to(QUARANTINE),
    "failed": _ENDLESS,
    "quarantine": _ENDLESS,
    "memory": _ENDLESS,
}
