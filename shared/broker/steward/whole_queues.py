"""Whole queues of RabbitMQ: how much is in them, and how they are made, emptied and deleted.

What is in a queue goes to another one by one, each confirmed there before it is acknowledged here:
killed at any point, a message is in one of the two, at worst in both. A queue is deleted only if
nothing is in it, as far as RabbitMQ tells: it cannot be told to delete a quorum queue if it is
empty, so what comes in at that moment is lost, and said.

Of a quorum queue that has lost the majority of its nodes, or is slow to answer, the broker says
that nobody consumes it and nothing is in it (``rabbit_quorum_queue:stat`` waits for a quarter of a
second, and reports zero). To take a message from it needs the majority; so to know that it is empty
one is asked for, and given back.
"""

# kombu has few annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from amqp import Message, spec
from amqp.exceptions import AccessRefused, NotFound
from kombu.connection import Connection

from shared.broker import topology
from shared.broker.steward.copies import copied, known_by, left
from shared.broker.steward.outgoing import publish_one
from shared.errors import MigrationRefused, QueueSilent
from shared.failpoint import reach
from shared.queues import QueueSpec
from shared.words import counted

_TAKING: Final = (
    "consumer takes messages from it, or holds some",
    "consumers take messages from it, or hold some",
)
_ANSWERING: Final = 10.0
"""Seconds that a queue has to say that it is empty."""
COMING: Final = "messages keep coming in, or somebody takes some; stop that, and migrate again"


def taking(consumers: int) -> str:
    """Return why nothing can be done while so many take messages from a queue, and what to do."""
    return f"{counted(consumers, *_TAKING)}; stop the stages, and whoever looks into it"


def declare_passive(connection: Connection, name: str) -> Any:
    """Return what the broker says of a queue, None where there is none of this name."""
    with connection.channel() as channel:
        try:
            return channel.queue_declare(name, passive=True)
        except NotFound:
            return None


def require_answer(connection: Connection, name: str) -> None:
    """Make sure that a queue which is said to be empty answers.

    Who may not read it gets the broker's word for it. Where no answer comes, the connection is
    of no use any more, and is closed.

    Raises:
        QueueSilent: it does not answer.
    """
    channel = connection.channel()
    try:
        channel.send_method(spec.Basic.Get, "Bsb", (0, name, False))
        channel.wait(
            [spec.Basic.GetOk, spec.Basic.GetEmpty], timeout=_ANSWERING, returns_tuple=True
        )
    except (AccessRefused, NotFound):
        return
    except TimeoutError as error:
        connection.collect()
        why = f"the broker cannot say what is in {name}: the queue does not answer"
        raise QueueSilent(why) from error
    channel.close()


@dataclass(frozen=True, slots=True)
class WholeQueues:
    """The queues of one RabbitMQ.

    Attributes:
        connection: open, of a user who may configure, with publisher confirms.
        balance: how many messages were put into each queue, less those that were taken out of it.
    """

    connection: Connection
    balance: Counter[str] = field(default_factory=Counter)

    def declare_passive(self, name: str) -> Any:
        """Return what the broker says of a queue, None where there is none of this name."""
        return declare_passive(self.connection, name)

    def count(self, name: str) -> int | None:
        """Return how many messages wait in a queue, None where there is none of this name."""
        said = self.declare_passive(name)
        return None if said is None else int(said.message_count)

    def make(self, wanted: QueueSpec) -> None:
        """Make a queue that is in no topology."""
        arguments = topology.arguments(wanted)
        with self.connection.channel() as channel:
            channel.queue_declare(wanted.name, durable=True, auto_delete=False, arguments=arguments)

    def move(
        self,
        source: str,
        target: str,
        ttl: float | None = None,
        most: int | None = None,
        there: Iterable[bytes] = (),
        changed: Callable[[Message], Message] | None = None,
    ) -> int:
        """Move the messages of a queue to another; return how many.

        Args:
            source: where they are.
            target: where they go.
            ttl: seconds that they have to wait there in all; None for ever.
            most: how many at the most; None for all.
            there: what messages are known by that may be there already, from a run that was killed.
            changed: returns a message as it is to be there; None for as it is.

        Raises:
            Refused: the other queue does not take them.
        """
        moved, found = 0, set[bytes | None](there)
        with self.connection.channel() as taking, self.connection.channel() as giving:
            taking.auto_decode = False  # a body stays bytes, whatever its sender says of it
            while moved != most and (message := taking.basic_get(source)) is not None:
                copy = copied(message) if changed is None else changed(copied(message))
                known = known_by(copy)
                if known is None or known not in found:
                    self._publish(giving, copy, target, None if ttl is None else left(ttl, copy))
                    moved += 1
                    self.balance[target] += 1
                found.add(known)
                reach("migrate", "copied")
                taking.basic_ack(message.delivery_tag)
                self.balance[source] -= 1
                reach("migrate", "taken")
        return moved

    def _publish(self, channel: Any, message: Message, target: str, wait: int | None) -> None:
        if wait is not None:
            message = Message(message.body, **message.properties, expiration=str(wait))
        publish_one(channel, message, "", target)

    def delete(self, name: str) -> None:
        """Delete a queue that is empty.

        Raises:
            Refused: it is not, or somebody takes from it, or messages were lost with it.
        """
        with self.connection.channel() as channel:
            reach("migrate", "deleting")
            said = channel.queue_declare(name, passive=True)
            if said.consumer_count:
                raise MigrationRefused(name, taking(said.consumer_count))
            if said.message_count:
                raise MigrationRefused(name, COMING)
            gone = channel.queue_delete(name)
            reach("migrate", "deleted")
        if gone:
            what = "messages came in at the moment of its deletion, and are LOST; stop what sends"
            raise MigrationRefused(name, f"{gone} {what} to it, and migrate again")
