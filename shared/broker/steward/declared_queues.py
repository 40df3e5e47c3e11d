"""Which queues were ever declared at a RabbitMQ: AMQP has no way to ask which there are.

One message in a queue of its own holds their names. Two who declare at once may leave two messages,
which count together; at no moment is there none for longer than somebody looks at it. Queues that
were declared by versions before this one are not in it. The names of the connectors that declared
are among them. It trusts nobody to keep mail out: what is no list of names is put into quarantine
(``misplaced``), or left where it is by whoever only looks.
"""

# kombu has few annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from amqp import Message
from amqp.exceptions import AccessRefused, NotFound
from kombu.connection import Connection

from shared.broker.steward.misplaced import notes
from shared.broker.steward.outgoing import ANSWERING, PERSISTENT
from shared.log import Report, silent
from shared.queues import DECLARED

NAMED: Final = "connector="
"""What a name begins with that is a connector's, and no queue's: a version that does not know of
these takes it for a queue that does not exist."""


def remember(connection: Connection, names: Iterable[str], report: Report = silent) -> None:
    """Add names to those that were declared; mail that lies among them goes to quarantine.

    Args:
        connection: open, of a user who may configure, with publisher confirms; the queue is there.
        names: of queues.
        report: is told of mail.
    """
    with connection.channel() as channel:
        messages = notes(connection, channel, DECLARED, _is_list, "", report)
        known = _named(messages)
        every = known.union(names)
        if every == known and len(messages) == 1:
            return  # what was taken goes back with the channel
        channel.basic_publish(
            Message(json.dumps(sorted(every)), delivery_mode=PERSISTENT),
            "",
            DECLARED,
            mandatory=True,
            confirm_timeout=ANSWERING,
        )
        for message in messages:
            channel.basic_ack(message.delivery_tag)


def remembered(connection: Connection) -> frozenset[str]:
    """Return the names of all queues that were declared; none where nobody remembers, or may look.

    Args:
        connection: open.
    """
    with connection.channel() as channel:
        try:
            return _named(_all(channel))
        except (NotFound, AccessRefused):  # declared by an older version, or permissions of one
            return frozenset()


def _all(channel: Any) -> Iterator[Any]:
    channel.auto_decode = False
    while (message := channel.basic_get(DECLARED)) is not None:
        yield message


def _named(messages: Iterable[Any]) -> frozenset[str]:
    return frozenset(name for message in messages for name in _names(message.body))


def _is_list(body: bytes) -> bool:
    return _read(body) is not None


def _names(body: bytes) -> list[str]:
    return _read(body) or []


def _read(body: bytes) -> list[str] | None:
    """Return the names in a message, None where it is no list of names."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    is_list = isinstance(found, list) and all(isinstance(name, str) for name in found)
    return found if is_list else None
