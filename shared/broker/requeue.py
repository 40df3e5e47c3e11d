"""What the operator's side of any broker knows about the envelopes that it moves and shows.

It trusts nothing in a queue: what does not decode is moved as it is, and described by nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from shared import wire
from shared.broker import Header
from shared.errors import NewerSchema, Undecodable
from shared.log import printable
from shared.message import Addressed, Fetched, Parsed, Poll
from shared.queues import INCOMING, PARSED, PICKUP, POLL

FAILURE_HEADERS: Final = frozenset({"reason", "attempts", "first-failure", "failed-at", "copies"})
"""Headers that tell of a failure; they are left behind when the message is moved on."""

_KINDS: Final[dict[str, type[Poll | Fetched | Parsed | Addressed]]] = {
    POLL: Poll,
    INCOMING: Fetched,
    PARSED: Parsed,
    PICKUP: Addressed,
}


def fresh(body: bytes, queue: str) -> bytes:
    """Return an envelope as it goes into a queue for a new start: no attempts, no failure.

    Args:
        body: an encoded envelope, or bytes that are none.
        queue: where it goes; the inbox of a stage, or any other queue.

    Returns:
        The envelope encoded anew; ``body`` itself if it is not of the kind that this queue takes.
    """
    kind = _KINDS.get(queue)
    if kind is None:
        return body
    try:
        envelope = wire.decode(body, kind)
    except (Undecodable, NewerSchema):
        return body
    return wire.encode(replace(envelope, attempt=0, first_failure=None))


def described(body: bytes, inbox: str) -> dict[str, Header]:
    """Return what an envelope says of its message, as the headers that an operator reads.

    Args:
        body: an encoded envelope, or bytes that are none.
        inbox: the queue whose stage it was meant for.

    Returns:
        Account, from, subject and message-id, as far as they can be read.
    """
    kind = _KINDS.get(inbox)
    if kind is None:
        return {}
    try:
        envelope = wire.decode(body, kind)
    except (Undecodable, NewerSchema):
        return {}
    headers: dict[str, Header] = {"account": printable(envelope.account)}
    if not isinstance(envelope.payload, Poll):
        summary = envelope.payload.summary
        headers["from"] = printable(summary.from_)
        headers["subject"] = printable(summary.subject)
        headers["message-id"] = printable(summary.message_id)
    return headers
