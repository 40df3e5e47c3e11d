"""What an entry of a queue of RabbitMQ holds, for the operator: a message, or those of a bundle.

It trusts neither headers nor body: whatever is there is shown under some id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shared import wire
from shared.broker import Stored
from shared.broker.bundle_headers import each
from shared.broker.dead_letter import readable
from shared.broker.requeue import id_in
from shared.queues import QueueSpec


def stored_in(entry: Any, queue: str, queues: Sequence[QueueSpec]) -> Iterator[Stored]:
    """Yield the messages of an entry.

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
        yield stored(id_, each(headers), part)


def _id(entry: Any, body: bytes) -> str:
    """Return the message id; where it was lost, that of the envelope, or a name by the content."""
    return str(
        entry.properties.get("message_id")
        or id_in(body)
        or "unnamed-" + hashlib.sha256(body).hexdigest()[:16]
    )
