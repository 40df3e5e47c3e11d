"""Messages as they are moved from queue to queue: their copies, and which of two are one message.

A move publishes a copy, and then forgets the message. Killed in between, it leaves the message in
both queues, and where in them nobody knows: what a queue takes back, it puts behind what it took
back before. So a message is known by what it is: its id, its body, and what its sender says of it.
"""

# kombu has few annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from amqp import Message
from amqp.exceptions import NotFound
from kombu.connection import Connection

from shared.broker.dead_letter import ROUTING, readable
from shared.queues import QueueSpec

_COUNTERS: Final = ("x-delivery-count", "x-acquired-count")
"""Headers that a quorum queue adds for whoever takes a message."""


def copied(message: Any) -> Message:
    """Return the same message to be sent, without what belongs to the queue that it was in."""
    properties: dict[str, Any] = dict(message.properties)
    headers: Mapping[str, Any] = properties.pop("application_headers", None) or {}
    properties.pop("expiration", None)
    kept = {name: value for name, value in headers.items() if name not in (*_COUNTERS, *ROUTING)}
    return Message(message.body, application_headers=kept, **properties)


def explained(message: Message, queue: str, queues: Sequence[QueueSpec]) -> Message:
    """Return a message for the operator that says itself why it is there, and not by ``x-death``.

    A message that expires in a queue for the second time by what that says is in a cycle: RabbitMQ
    3.10 does not pass it on again, ever.

    Args:
        message: it is changed.
        queue: where it is to be.
        queues: the topology.
    """
    headers: dict[str, Any] = message.properties.get("application_headers") or {}
    body = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
    kept = {name: value for name, value in headers.items() if not name.startswith("x-")}
    said = kept | readable(headers, body, queue, queues)
    return Message(message.body, **{**message.properties, "application_headers": said})


def known_by(message: Message) -> bytes | None:
    """Return what tells a message from others; None of one without an id, which may be any.

    What RabbitMQ adds to a message that it moves itself makes it no other one.
    """
    properties: dict[str, Any] = dict(message.properties)
    headers: Mapping[str, Any] = properties.pop("application_headers", None) or {}
    properties.pop("expiration", None)
    if not properties.get("message_id"):
        return None
    said = sorted((name, value) for name, value in headers.items() if not name.startswith("x-"))
    body = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
    told = repr((sorted(properties.items()), said)).encode()
    return hashlib.blake2b(told + b"\0" + body, digest_size=16).digest()


def waiting(connection: Connection, queue: str) -> Iterator[bytes]:
    """Yield what the messages of a queue are known by; all stay, and it need not exist."""
    with connection.channel() as channel:
        channel.auto_decode = False  # a body stays bytes, whatever its sender says of it
        try:
            count = channel.queue_declare(queue, passive=True).message_count
        except NotFound:
            return
        for _ in range(count):
            if (message := channel.basic_get(queue)) is None:
                return
            if (known := known_by(message)) is not None:
                yield known


def left(ttl: float, message: Message) -> int | None:
    """Return the milliseconds that a message has still to wait in a retry tier, None for all of it.

    The headers of our stages say when the wait began.
    """
    since = (message.properties.get("application_headers") or {}).get("failed-at")
    if not isinstance(since, str):
        return None
    try:
        began = datetime.fromisoformat(since)
    except ValueError:
        return None
    waited = (datetime.now(UTC) - began.replace(tzinfo=began.tzinfo or UTC)).total_seconds()
    return round(min(max(ttl - waited, 0.0), ttl) * 1000)
