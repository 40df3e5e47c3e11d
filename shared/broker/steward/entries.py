"""Entries of a queue of RabbitMQ: what they hold, and how they are moved or dropped together.

What follows from entries is published and confirmed, then they are forgotten.
Of an entry that holds several messages (a bundle), those that stay are published anew to where they
are, each by itself, and the entry is forgotten when all of it is confirmed. A process that is
killed in between leaves copies; nothing is ever in no queue. It trusts neither headers nor body:
whatever is there is shown under some id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from shared import wire
from shared.broker import Send, Stored
from shared.broker.bundle_headers import headers_of_each
from shared.broker.dead_letter import readable
from shared.broker.requeue import id_in
from shared.broker.steward.look import Look
from shared.broker.steward.outgoing import Outgoing
from shared.failpoint import reach
from shared.queues import QueueSpec

T = TypeVar("T")

TOGETHER: Final = 200
TOGETHER_SIZE: Final = 4_000_000
"""Entries, and bytes, that are published with one wait for their confirms."""


def stored_in(entry: Any, queue: str, queues: Sequence[QueueSpec]) -> Iterator[Stored]:
    """Yield the messages of an entry: one, or those of a bundle.

    Args:
        entry: as the library has it.
        queue: where it is.
        queues: the topology.
    """

    def stored(id_: str, headers: Mapping[str, Any], body: bytes) -> Stored:
        return Stored(queue, id_, readable(headers, body, queue, queues), body)

    body = entry.body if isinstance(entry.body, bytes) else str(entry.body).encode()
    bundle = wire.unbundled(body)
    headers = entry.headers or {}
    if bundle is None:
        yield stored(_id(entry, body), headers, body)
        return
    for id_, part in bundle:
        yield stored(id_, headers_of_each(headers), part)


def _id(entry: Any, body: bytes) -> str:
    """Return the message id; where it was lost, that of the envelope, or a name by the content."""
    return str(
        entry.properties.get("message_id")
        or id_in(body)
        or "unnamed-" + hashlib.sha256(body).hexdigest()[:16]
    )


@dataclass(frozen=True, slots=True)
class QueueEntry(Generic[T]):
    """An entry of a queue, and what is to become of the messages in it.

    Attributes:
        message: the entry, as the library has it.
        taken: those that go, each with what is to become of it.
        staying: those that stay.
    """

    message: Any
    taken: list[tuple[Stored, T]]
    staying: list[Stored]

    def decide(self, stored: Stored, what: T | None) -> None:
        """Note what becomes of a message in it, None for one that stays."""
        if what is None:
            self.staying.append(stored)
        else:
            self.taken.append((stored, what))


class PendingMoves(Generic[T]):
    """Entries of which the publishes are under way.

    Args:
        look: where they are from.
        out: takes what is published.
    """

    def __init__(self, look: Look, out: Outgoing) -> None:
        self._look = look
        self._out = out
        self._entries: list[tuple[QueueEntry[T], list[int]]] = []
        self._size = 0

    @property
    def is_full(self) -> bool:
        """Whether it is time to wait for the confirms."""
        return len(self._entries) >= TOGETHER or self._size >= TOGETHER_SIZE

    def add(self, entry: QueueEntry[T], sent: Callable[[T], Send | None]) -> None:
        """Publish what follows from an entry, and all that is to stay of it."""
        sends = [send for _, what in entry.taken if (send := sent(what)) is not None]
        sends += [Send(s.queue, s.body, s.message_id, s.headers) for s in entry.staying]
        self._entries.append((entry, [self._out.send(send) for send in sends]))
        self._size += sum(len(send.body) for send in sends)

    def settle(self) -> Iterator[QueueEntry[T]]:
        """Acknowledge the entries, but those of which something was refused.

        Raises:
            Refused: something was; the others are acknowledged.
        """
        entries, self._entries, self._size = self._entries, [], 0
        refused = self._out.wait_settled()
        reach("steward", "before-ack")
        done = [entry for entry, numbers in entries if refused.keys().isdisjoint(numbers)]
        for entry in done:
            self._look.take(entry.message)
        self._look.acknowledge()
        yield from done
        for error in refused.values():
            raise error
