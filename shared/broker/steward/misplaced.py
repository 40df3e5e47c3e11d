"""Mail in a queue of RabbitMQ that carries none: a person or a shovel has moved it there.

Whoever takes the notes that belong there meets it, and puts it into quarantine: published and
confirmed there before it is acknowledged here, so that killed in between it leaves it in both. What
quarantine does not take stays where it is, until the next time. It trusts that no mail looks like a
note. What a queue has dropped by its own arguments before that is gone: ``ledger`` keeps the last
message alone.
"""

# kombu has few annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from amqp import Message
from kombu.connection import Connection

from shared.broker.dead_letter import own
from shared.broker.steward.outgoing import PERSISTENT, publish_one
from shared.errors import Refused
from shared.failpoint import reach
from shared.log import Report
from shared.queues import QUARANTINE

_KEPT: Final = ("message_id", "content_type", "content_encoding")
"""Properties that say what a message is; the others say how it is to travel."""


def notes(
    connection: Connection,
    taking: Any,
    queue: str,
    is_note: Callable[[bytes], bool],
    exchange: str,
    report: Report,
) -> list[Any]:
    """Take all messages of a queue; return the notes, and put what is none into quarantine.

    Args:
        connection: open, with publisher confirms.
        taking: a channel of it, for this alone; what is not acknowledged goes back with it.
        queue: where they are.
        is_note: tells by its bytes whether a message belongs there.
        exchange: over which quarantine is reached.
        report: is told what has moved, or could not be.

    Returns:
        The notes, the oldest first, not acknowledged.
    """
    taking.auto_decode = False  # a body stays bytes, whatever its sender says of it
    found: list[Any] = []
    moved, left = 0, 0
    refused: Refused | None = None
    with connection.channel() as giving:
        while (message := taking.basic_get(queue)) is not None:
            if is_note(message.body):
                found.append(message)
                continue
            if refused is None:
                try:
                    _quarantine(giving, message, exchange)
                except Refused as error:
                    refused = error
            if refused is not None:
                left += 1
                continue
            reach("misplaced", "copied")
            taking.basic_ack(message.delivery_tag)
            moved += 1
    if moved:
        report("mail was in a queue that carries none; now in quarantine", queue=queue, mail=moved)
    if refused is not None:
        what = "mail is in a queue that carries none, and cannot go to quarantine"
        report(what, queue=queue, mail=left, why=refused.why)
    return found


def _quarantine(channel: Any, message: Any, exchange: str) -> None:
    """Put a copy into quarantine, or raise Refused."""
    known = {name: message.properties[name] for name in _KEPT if name in message.properties}
    copy = Message(
        message.body,
        delivery_mode=PERSISTENT,
        application_headers=own(message.properties.get("application_headers")),
        **known,
    )
    publish_one(channel, copy, exchange, QUARANTINE)
