"""Bundles: small messages that go to one queue together, as one entry of it.

What a hop costs RabbitMQ, most of it is for the entry, and little for what is in it. So where many
are published at once (a maildrop is emptied, a backlog moves), those for the same inbox with the
same headers share entries; where few are, each keeps an entry of its own. Only this broker knows:
what consumes gets messages, and settles each by itself.

Retry tiers, Failed Mail and quarantine hold no bundles, and a bundle that is handed out again is
taken apart (``bundle_splitter``): a message that crashes its process stands there alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from shared import wire
from shared.broker import Send
from shared.broker.bundle_headers import COUNT
from shared.queues import RETRIED

MOST: Final = wire.BUNDLED
"""Messages in a bundle: with twice as many, what is left of the cost is hardly any smaller."""

FEW: Final = 8
"""Fewer than these are not worth it: an operator sees them in their queue one by one."""

SIZE: Final = 120_000
"""Bytes of all that is in a bundle. It fits into one frame (128 KiB) with what stands around it."""


class Item(NamedTuple):
    """A message that can be sent.

    Attributes:
        group: the place of its group among those that are published together.
        table: its headers, encoded.
    """

    group: int
    send: Send
    table: bytes


def arrange(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Yield the messages in the entries that they go in: bundles, and those that go alone."""
    if len(items) < FEW:
        yield from ([item] for item in items)
        return
    alike: dict[tuple[str, bytes], list[Item]] = {}
    for item in items:
        send = item.send
        if send.queue in RETRIED and 2 * len(send.body) <= SIZE:
            alike.setdefault((send.queue, item.table), []).append(item)
        else:
            yield [item]
    for several in alike.values():
        if len(several) < FEW:
            yield from ([item] for item in several)
        else:
            yield from _cut(several)


def _cut(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    part: list[Item] = []
    size = 0
    for item in items:
        size += len(item.send.body)
        if len(part) == MOST or size > SIZE:
            yield part
            part, size = [], len(item.send.body)
        part.append(item)
    yield part


def join(items: Sequence[Item]) -> Send:
    """Return a bundle as a message by itself; the header ``messages`` tells how many it holds."""
    sends = [item.send for item in items]
    first = sends[0]
    body = wire.bundle([(send.message_id, send.body) for send in sends])
    return Send(first.queue, body, first.message_id, {**first.headers, COUNT: len(sends)})
