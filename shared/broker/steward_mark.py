"""The mark at a RabbitMQ: which state database its queues were filled with (``shared.mark``).

One message in a queue of its own, which holds one and drops the older: what is published replaces
what is there. The fetcher alone writes and reads it, over the exchange that it sends with, so
whoever declares the topology makes the queue. It trusts no policy to leave it alone: where the mark
is gone, there is nothing to compare with, and nothing is held.
"""

# kombu has few annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from amqp import Message
from kombu.connection import Connection

from shared.queues import MARK
from shared.topology import NEVER

_ARGUMENTS: Final = {
    "x-queue-type": "quorum",
    "x-delivery-limit": NEVER,
    "x-max-length": 1,
    "x-overflow": "drop-head",
}
_SENDERS: Final = ("fetcher", "postmaster")
"""Who may poll: a fetcher by itself, or all in one process."""

_PERSISTENT: Final = 2

_LOOKS: Final = 10
_TURN: Final = 0.02
"""Seconds between looks at a queue that has nothing: to write a mark takes some milliseconds."""


def declare(connection: Connection) -> None:
    """Make the queue exist, with the ways into it.

    Args:
        connection: open, of a user who may configure; the exchanges exist.
    """
    with connection.channel() as channel:
        channel.queue_declare(MARK, durable=True, auto_delete=False, arguments=_ARGUMENTS)
        for sender in _SENDERS:
            channel.queue_bind(MARK, sender, MARK)


def read(connection: Connection) -> bytes | None:
    """Return what is written there; it stays. None where nothing is.

    Args:
        connection: open.

    Raises:
        amqp.exceptions.NotFound: the topology was declared by an older version.
        amqp.exceptions.AccessRefused: this user may not read it.
    """
    with connection.channel() as channel:  # what was taken goes back with it
        message = _taken(channel)
        return None if message is None else _body(message)


def write(
    connection: Connection, sender: str, change: Callable[[bytes | None], str], patience: float
) -> None:
    """Put a mark in the place of the one that is there; it is durable on return.

    The one that is there is in hand until the new one is confirmed: who else means to write finds
    nothing before, and the new one then. Should this be killed in between, the older of the two is
    at the head, and dropped.

    Args:
        connection: open, with publisher confirms.
        sender: whose exchange to use.
        change: returns the mark, given the one that is there.
        patience: seconds to wait for the confirm.
    """
    with connection.channel() as channel:
        before = _taken(channel)
        channel.basic_publish(
            Message(change(None if before is None else _body(before)), delivery_mode=_PERSISTENT),
            sender,
            MARK,
            mandatory=True,
            confirm_timeout=patience,
        )
        if before is not None:
            channel.basic_ack(before.delivery_tag)


def _taken(channel: Any) -> Any:
    """Take what is there: another connector, or another process, may have it in hand just now."""
    for _ in range(_LOOKS - 1):
        if (message := channel.basic_get(MARK)) is not None:
            return message
        time.sleep(_TURN)
    return channel.basic_get(MARK)


def _body(message: Any) -> bytes:
    body = message.body
    return body if isinstance(body, bytes) else str(body).encode()
