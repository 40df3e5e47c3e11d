"""Whether a queue that is said to be empty is: RabbitMQ says so of one that does not answer, too.

Of a quorum queue that has lost the majority of its nodes, or is slow to answer, the broker says
that nobody consumes it and nothing is in it (``rabbit_quorum_queue:stat`` waits for a quarter of a
second, and reports zero). To take a message from it needs the majority; so one is asked for, and
given back.
"""

# kombu has few annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

from typing import Final

from amqp import spec
from amqp.exceptions import AccessRefused, NotFound
from kombu.connection import Connection

from shared.errors import QueueSilent

ANSWERING: Final = 10.0
"""Seconds that a queue has to say that it is empty."""

NO_ANSWER: Final = "the broker cannot say what is in {queue}: the queue does not answer"


def require_answer(connection: Connection, queue: str) -> None:
    """Make sure that a queue which is said to be empty answers.

    Who may not read it gets the broker's word for it. Where no answer comes, the connection is
    of no use any more, and is closed.

    Args:
        connection: open.
        queue: its name.

    Raises:
        QueueSilent: it does not answer.
    """
    channel = connection.channel()
    try:
        channel.send_method(spec.Basic.Get, "Bsb", (0, queue, False))
        channel.wait([spec.Basic.GetOk, spec.Basic.GetEmpty], timeout=ANSWERING, returns_tuple=True)
    except (AccessRefused, NotFound):
        return
    except TimeoutError as error:
        connection.collect()
        raise QueueSilent(NO_ANSWER.format(queue=queue)) from error
    channel.close()
