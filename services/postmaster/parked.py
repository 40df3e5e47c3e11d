"""Failed Mail and the quarantine: the messages that wait for the operator, found and moved.

Works through the Steward of either broker. It trusts nothing in a queue: bytes that are no
envelope are shown by their headers, and exported as they are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from services.postmaster.errors import NotFound
from shared import wire
from shared.broker import Steward, Stored
from shared.errors import NewerSchema, SpoolUnavailable, Undecodable
from shared.log import printable
from shared.message import Addressed, Envelope, Fetched, Inline, Mail, Parsed, Spooled
from shared.queues import QUARANTINE, RETRIED, failed_queue

Letter: TypeAlias = Envelope[Mail]


@dataclass(frozen=True, slots=True)
class Folder:
    """A kind of queue that keeps messages for the operator.

    Attributes:
        name: of the group of commands.
        title: what a person calls it.
        again: the command that sends a message round again, and ``done``, what it then was.
        queues: each queue of this kind, with the inbox that its messages return to; None where
            each message's own ``inbox`` header says so.
    """

    name: str
    title: str
    again: str
    done: str
    queues: tuple[tuple[str, str | None], ...]


FAILED: Final = Folder(
    "failed",
    "Failed Mail",
    "requeue",
    "requeued",
    tuple((failed_queue(inbox), inbox) for inbox in RETRIED),
)
QUARANTINED: Final = Folder(
    "quarantine", "quarantine", "release", "released", ((QUARANTINE, None),)
)


class Blobs(Protocol):
    """What is needed of the spool."""

    def chunks(self, key: str) -> AsyncIterator[bytes]:
        """Yield the blob."""

    async def delete(self, key: str) -> None:
        """Delete the blob; no error where there is none."""


def browse(steward: Steward, folder: Folder) -> Iterator[Stored]:
    """Yield the messages in a folder, oldest first in each queue; all stay there."""
    depths = steward.depths()
    for queue, _ in folder.queues:
        if depths.get(queue):
            yield from steward.browse(queue)


def find(steward: Steward, folder: Folder, wanted: Sequence[str]) -> list[Stored]:
    """Return the messages with these ids.

    One id can stand for several: parts of a message that failed for different recipients.

    Args:
        steward: the broker.
        folder: where to look.
        wanted: ids, each whole or cut to a beginning that no other message shares.

    Raises:
        NotFound: one of them names no message, or several different ones.
    """
    found = [s for s in browse(steward, folder) if any(map(s.message_id.startswith, wanted))]
    ids = {s.message_id for s in found}
    chosen = {_the_one(folder, prefix, ids) for prefix in wanted}
    return [s for s in found if s.message_id in chosen]


def _the_one(folder: Folder, prefix: str, ids: Iterable[str]) -> str:
    """Return the one id that begins so; an id that is exactly this wins over longer ones."""
    matching = [id_ for id_ in ids if id_.startswith(prefix)]
    if prefix in matching:
        return prefix
    if not matching:
        raise NotFound(
            f"no message {prefix!r} in {folder.title}; see: pop3-connector {folder.name} list"
        )
    if len(matching) > 1:
        raise NotFound(
            f"{len(matching)} messages in {folder.title} begin with {prefix!r}; give more of the id"
        )
    return matching[0]


def move_back(steward: Steward, folder: Folder, messages: Iterable[Stored]) -> int:
    """Send messages to the inbox that they failed in, as if for the first time; return how many."""
    ids = _ids_by_queue(messages)
    return sum(
        steward.move(queue, ids[queue], inbox) for queue, inbox in folder.queues if queue in ids
    )


@dataclass(frozen=True, slots=True)
class Dropped:
    """What was deleted.

    Attributes:
        messages: how many.
        left: the keys of their blobs that could not be deleted, each with the reason.
    """

    messages: int
    left: Mapping[str, str]


async def drop(steward: Steward, blobs: Blobs, messages: Sequence[Stored]) -> Dropped:
    """Delete messages for good, and then what they have in the spool."""
    keys = [raw.key for m in messages if isinstance(raw := raw_of(m), Spooled)]
    dropped = sum(steward.drop(queue, ids) for queue, ids in _ids_by_queue(messages).items())
    left = {}
    for key in keys:
        try:
            await blobs.delete(key)
        except SpoolUnavailable as error:
            left[key] = str(error)
    return Dropped(dropped, left)


def without_blob(message: Stored) -> str | None:
    """Return why no blob can belong to a message that refers to one, None where one can.

    Such an envelope was damaged, or written by somebody else: our keys are hashes.
    """
    from shared.spool import valid  # with a library that only few commands need

    raw = raw_of(message)
    if not isinstance(raw, Spooled) or valid(raw.key):
        return None
    key = printable(raw.key, 80)
    return f"its envelope refers to a blob '{key}', and none can have such a key"


async def chunks(blobs: Blobs, message: Stored) -> AsyncIterator[bytes]:
    """Yield the raw message, exactly as the POP3 server sent it.

    Of a queue message that is no envelope, the bytes of that queue message.

    Raises:
        SpoolMissing: it was in the spool, and is there no more.
        SpoolUnavailable: the spool cannot be read.
    """
    match raw_of(message):
        case Inline(data):
            yield data
        case Spooled(key):
            async for chunk in blobs.chunks(key):
                yield chunk
        case None:
            yield message.body


def raw_of(message: Stored) -> Inline | Spooled | None:
    """Return where the raw message is, None if the bytes in the queue are no envelope."""
    envelope = letter(message)
    return None if envelope is None else envelope.payload.raw


def letter(message: Stored) -> Letter | None:
    """Return the envelope in a queue message, whatever stage it was meant for, or None."""
    return (
        _decoded(message.body, Addressed)
        or _decoded(message.body, Parsed)
        or _decoded(message.body, Fetched)
    )


def _decoded(body: bytes, kind: type[Fetched | Parsed | Addressed]) -> Letter | None:
    try:
        return wire.decode(body, kind)
    except (Undecodable, NewerSchema):
        return None


def _ids_by_queue(messages: Iterable[Stored]) -> dict[str, list[str]]:
    ids: dict[str, dict[str, None]] = {}
    for message in messages:
        ids.setdefault(message.queue, {})[message.message_id] = None
    return {queue: list(found) for queue, found in ids.items()}
