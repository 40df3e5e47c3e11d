"""The mark at a RabbitMQ: which state database its queues were filled with (``shared.mark``).

One message in a queue of its own, which holds one and drops the older: what is published replaces
what is there. The fetcher alone writes and reads it, over the exchange that it sends with, so
whoever declares the topology makes the queue. It trusts no policy to leave it alone: where the mark
is gone, there is nothing to compare with, and nothing is held. Mail that somebody moves there is
put into quarantine by whoever declares or writes; of several that came since, all but the last were
dropped by then.
"""

# kombu has few annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Final

from amqp import Message
from kombu.connection import Connection

from shared.broker.steward.misplaced import notes
from shared.broker.steward.outgoing import ANSWERING, PERSISTENT
from shared.broker.topology import NEVER
from shared.log import Report
from shared.queues import MARK

_ARGUMENTS: Final = {
    "x-queue-type": "quorum",
    "x-delivery-limit": NEVER,
    "x-max-length": 1,
    "x-overflow": "drop-head",
}
_SENDERS: Final = ("fetcher", "postmaster")
"""Who may poll: a fetcher by itself, or all in one process."""

_LOOKS: Final = 10
_TURN: Final = 0.02
"""Seconds between looks at a queue that has nothing: to write a mark takes some milliseconds."""


def declare(connection: Connection, report: Report) -> None:
    """Make the queue exist, with the ways into it; mail that lies there goes to quarantine.

    Args:
        connection: open, of a user who may configure, with publisher confirms; the exchanges and
            quarantine exist.
        report: is told of mail.
    """
    with connection.channel() as channel:
        channel.queue_declare(MARK, durable=True, auto_delete=False, arguments=_ARGUMENTS)
        for sender in _SENDERS:
            channel.queue_bind(MARK, sender, MARK)
    with connection.channel() as channel:  # what was taken goes back with it
        notes(connection, channel, MARK, _is_mark, "", report)


def read(connection: Connection) -> bytes | None:
    """Return what is written there; it stays. None where nothing is.

    Args:
        connection: open.

    Raises:
        amqp.exceptions.NotFound: the topology was declared by an older version.
        amqp.exceptions.AccessRefused: this user may not read it.
    """
    with connection.channel() as channel:  # what was taken goes back with it
        channel.auto_decode = False
        for _ in _looks():
            while (message := channel.basic_get(MARK)) is not None:
                if _is_mark(message.body):
                    return bytes(message.body)
    return None


def write(
    connection: Connection,
    sender: str,
    change: Callable[[bytes | None], str],
    report: Report,
) -> None:
    """Put a mark in the place of the one that is there; it is durable on return.

    The one that is there is in hand until the new one is confirmed: who else means to write finds
    nothing before, and the new one then. Should this be killed in between, the older of the two is
    at the head, and dropped. Mail that lies there goes to quarantine before it would be dropped.

    Args:
        connection: open, with publisher confirms.
        sender: whose exchange to use.
        change: returns the mark, given the one that is there.
        report: is told of mail.
    """
    with connection.channel() as channel, connection.channel() as taking:
        for _ in _looks():
            if before := notes(connection, taking, MARK, _is_mark, sender, report):
                break
        text = change(bytes(before[-1].body) if before else None)
        channel.basic_publish(
            Message(text, delivery_mode=PERSISTENT),
            sender,
            MARK,
            mandatory=True,
            confirm_timeout=ANSWERING,
        )
        for mark in before:
            taking.basic_ack(mark.delivery_tag)


def _looks() -> Iterator[None]:
    """Look again: another connector, or another process, may have it in hand just now."""
    for _ in range(_LOOKS - 1):
        yield
        time.sleep(_TURN)
    yield


def _is_mark(body: bytes) -> bool:
    """Return whether this is a mark, or those of several connectors by their names."""
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False
