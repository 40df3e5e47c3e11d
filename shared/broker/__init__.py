"""The seam between the pipeline and what carries its queues.

``Broker`` is what the runner and the fetcher use; ``Steward`` is what the operator's side uses.
Two implementations each: RabbitMQ, and an embedded one over SQLite; one contract suite for both.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol, TypeAlias, TypeVar

Header: TypeAlias = str | int | float

CONNECTOR: Final = "pop3-connector"
"""The name of a connector to which nobody has given another."""

INSTANCE: Final = "instance"
"""The header that names the connector, at a broker that others can use, too. It comes with each
message that was sent; a message that is sent with one keeps it."""

LONGEST_KEPT: Final = 300
"""Bytes or characters of all headers up to which what they are encoded, or decoded, is kept for the
next message: mostly it is the account alone. A thousand of what others write would be 100 MB."""
HANDED_OUT: Final = "handed-out"
"""The header in which the hand-outs are kept that a broker's own count has lost: the message was
put back as a new entry, waits out a retry tier, or is in quarantine for what came of them."""

T = TypeVar("T")

# Of the next two there are six for each message on its way. They are named tuples because those are
# made faster than a frozen dataclass; neither shows the mail that is in it.


class Send(NamedTuple):
    """A message to put into a queue.

    Attributes:
        queue: the name of a queue of the topology.
        body: an encoded envelope, or for quarantine whatever bytes could not be decoded.
        message_id: the id of the envelope.
        headers: what an operator reads in the management UI, short and plain.
    """

    queue: str
    body: bytes
    message_id: str
    headers: Mapping[str, Header] = MappingProxyType({})

    def __repr__(self) -> str:
        return f"Send({self.queue!r}, {self.message_id!r})"


class Delivery(NamedTuple):
    """A message that the broker has handed to this process, not yet settled.

    Attributes:
        queue: the queue it came from.
        redeliveries: how often it had been handed out before without being settled.
        tag: the broker's own mark (delivery tag and channel, or lease); of no meaning outside it.
    """

    queue: str
    body: bytes
    message_id: str
    headers: Mapping[str, Header]
    redeliveries: int
    tag: object

    def __repr__(self) -> str:
        return f"Delivery({self.queue!r}, {self.message_id!r}, redeliveries={self.redeliveries})"


class Broker(Protocol):
    """Carries messages between stages, durably.

    It connects by itself, waits for its server with backoff, and rebuilds everything after a loss.
    """

    async def open(self) -> None:
        """Connect; return once the broker can be used, however long that takes.

        Raises:
            ConfigError: the URL is wrong, or the broker refuses user name and password.
        """

    async def close(self) -> None:
        """Give back what is unsettled and disconnect."""

    def consume(self, queue: str, prefetch: int) -> AsyncGenerator[Sequence[Delivery], None]:
        """Yield deliveries, at most ``prefetch`` of them unsettled at a time, until closed.

        Each time all that have come since the last time; never none. Where messages share an entry
        of the queue, all of an entry come at once, if that makes a few more; and what was settled
        of it comes again, should this process die before the rest of it is settled.

        It survives a cancelled consumer, a lost channel and a lost connection. When it is closed
        (``aclose``), deliveries it had not yet yielded go back to the queue; those it had yielded
        can still be settled.
        """

    async def settle(self, delivery: Delivery, *sends: Send) -> None:
        """Make the sends durable, then forget the delivery.

        Raises:
            Refused: a send was not taken (unroutable, queue full); the delivery is still ours.
            DeliveryLost: the delivery is no longer ours; it will be handed out again.
            BrokerUnavailable: the connection broke before the outcome was known.
        """

    async def settle_all(
        self, settlements: Sequence[tuple[Delivery, Sequence[Send]]]
    ) -> list[Exception | None]:
        """Settle many deliveries, each by itself, for less than as many calls of ``settle``.

        Args:
            settlements: deliveries, each with its sends.

        Returns:
            For each, in this order, None or what ``settle`` would have raised.
        """

    async def publish(self, *sends: Send) -> None:
        """Make the sends durable; return when they are.

        Raises:
            Refused: a send was not taken.
            BrokerUnavailable: the connection broke before the outcome was known.
        """

    async def depths(self, queues: Iterable[str]) -> Mapping[str, int]:
        """Return for each queue how many messages in it wait to be handed out.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """

    async def drained(self, queues: Iterable[str]) -> bool | None:
        """Return whether nothing is in these queues, neither waiting nor in anybody's hands.

        Returns:
            None where the broker cannot tell.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """

    @property
    def connected(self) -> bool:
        """Whether messages can be published and consumed just now."""

    @property
    def blocked(self) -> str | None:
        """Why the broker takes no publishes just now (an alarm), or None."""

    @property
    def unsubscribed(self) -> Sequence[str]:
        """The queues that are consumed, as far as we are concerned, and not yet for the broker."""

    @property
    def unroutable(self) -> Sequence[str]:
        """The queues to which messages were sent that came back, not long ago."""

    @property
    def unconfirmed(self) -> float:
        """Seconds for which the oldest publish has waited for its confirm; 0 if none does."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A message seen in a queue by the operator's side, and left there."""

    queue: str
    message_id: str
    headers: Mapping[str, Header]
    body: bytes = field(repr=False)


def unnoticed(_: Stored) -> None:
    """Tell nobody of a message that was moved."""


Onward: TypeAlias = Callable[[Stored], Send | None]
"""Returns what a message is sent on as, and where to; None for one that stays where it is."""


class Steward(Protocol):
    """The operator's side of a broker. Blocking; used by the command line, never by a stage."""

    def declare(self) -> Sequence[str]:
        """Make every queue and exchange of the topology exist; a no-op where they do.

        Returns:
            The queues that have the arguments of an earlier version, and are used on as they are.

        Raises:
            ConfigError: something of that name exists with other arguments, or access is refused.
            BrokerUnavailable: the broker does not answer.
        """

    def outdated(self) -> Sequence[str]:
        """Return one line on each thing that ``migrate`` would do; nothing is changed."""

    def foreign(self) -> Sequence[str]:
        """Return the queues of the topology that have arguments of no version of this program."""

    def migrate(self, say: Callable[[str], None], /) -> int:
        """Give queues of an earlier version the arguments of this one, and keep their messages.

        Returns:
            How many queues were changed; ``say`` was told of each.

        Raises:
            Refused: a stage takes messages, or a queue does not take them back.
        """

    def depths(self) -> Mapping[str, int | None]:
        """Return for each queue of the topology how many messages wait in it, None if absent."""

    def strays(self) -> Mapping[str, int]:
        """Return the queues that were declared once, are in no topology now, and hold messages.

        Returns:
            How many messages wait in each.
        """

    def looked_into(self) -> Sequence[str]:
        """Return the queues whose messages another command has in hand, so that none count them."""

    def neighbours(self) -> Sequence[str]:
        """Return the names of other connectors that have declared their queues in this place."""

    def browse(self, queue: str) -> Iterator[Stored]:
        """Yield the waiting messages of a queue, oldest first; all stay in it.

        Not those that come after it began. How many there are makes no difference to the memory
        that it takes.
        """

    def everything(self) -> Iterator[Stored]:
        """Yield every message of every queue that carries mail, some of them twice; all stay.

        A message that is only on its way from one queue to another, or just being looked at by
        somebody else, is not missed. One that a stage has in hand is, if ``consumers`` says so.
        """

    def consumers(self) -> Mapping[str, int]:
        """Return the queues with consumers whose messages in hand ``everything`` cannot show.

        Returns:
            How many consumers each has; nothing where messages in hand are shown too.
        """

    def move(
        self,
        queue: str,
        message_ids: Sequence[str] | None,
        onward: Onward,
        moved: Callable[[Stored], None] = unnoticed,
    ) -> int:
        """Send messages on, each as ``onward`` says when it is in our hands; return how many.

        Each is durable at its destination before it is gone here.

        Args:
            queue: where they are.
            message_ids: their ids, None for all that wait now.
            onward: says what each becomes.
            moved: is told of each that is moved for certain, whatever is raised afterwards.

        Raises:
            Refused: a destination takes no messages, or does not exist.
        """

    def drop(
        self,
        queue: str,
        message_ids: Sequence[str] | None,
        note: Callable[[Stored], T | None],
    ) -> list[T]:
        """Delete messages for good.

        Args:
            queue: where they are.
            message_ids: their ids, None for all that wait now.
            note: is shown each of them; one for which it returns None stays.

        Returns:
            What it returned for those that are gone now.
        """

    def close(self) -> None:
        """Disconnect."""
