"""Failed Mail and the quarantine: what waits in these folders for the operator, found and moved.

Works through the Steward of either broker. It trusts nothing in a queue: bytes that are no
envelope are shown by their headers, and exported as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Protocol

from services.postmaster.errors import NotFound
from shared.broker import Send, Steward, Stored
from shared.broker.requeue import Order, again, hindrance, mail_in
from shared.envelope_check import owns
from shared.errors import SpoolUnavailable
from shared.log import printable
from shared.message import Inline, Spooled
from shared.queues import QUARANTINE, RETRIED, failed_queue

if TYPE_CHECKING:
    from shared.spool import Spool


@dataclass(frozen=True, slots=True)
class MailFolder:
    """Queues in which messages wait for the operator, as one place.

    Attributes:
        name: of the group of commands.
        title: what a person calls it.
        again: the command that sends a message round again, and ``done``, what it then was.
        queues: that it consists of.
    """

    name: str
    title: str
    again: str
    done: str
    queues: tuple[str, ...]


FAILED: Final = MailFolder(
    "failed",
    "Failed Mail",
    "requeue",
    "requeued",
    tuple(map(failed_queue, RETRIED)),
)
QUARANTINED: Final = MailFolder("quarantine", "quarantine", "release", "released", (QUARANTINE,))


def browse(steward: Steward, folder: MailFolder) -> Generator[Stored]:
    """Yield the messages in a folder, oldest first in each queue; all stay there.

    A queue that seems empty is looked into as well: others may have its messages in hand. Who does
    not want all of them closes it, before the broker.
    """
    depths = steward.depths()
    for queue in folder.queues:
        if depths.get(queue) is not None:
            yield from steward.browse(queue)


def find(steward: Steward, folder: MailFolder, wanted: Sequence[str]) -> list[Stored]:
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


def _the_one(folder: MailFolder, prefix: str, ids: Iterable[str]) -> str:
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


class MessageChoice(Protocol):
    """Which messages of a folder are meant."""

    count: int
    """How many are known to be meant, so far."""

    def places(self, steward: Steward) -> Iterable[tuple[str, Sequence[str] | None]]:
        """Return the queues to look into, each with the ids there that alone matter."""

    def takes(self, message: Stored) -> bool:
        """Return whether a message, in hand now, is meant."""


class Chosen:
    """The messages that an operator has chosen, by what they are: those, and no others.

    An id alone does not tell: it can stand for several parts, and while the operator thinks, a part
    can go and another one come.

    Args:
        messages: the messages as they were found.
    """

    def __init__(self, messages: Iterable[Stored]) -> None:
        self.ids: dict[str, dict[str, None]] = {}
        self._digests: set[bytes] = set()
        self.count = 0
        for message in messages:
            self.ids.setdefault(message.queue, {})[message.message_id] = None
            self._digests.add(_digest(message))
            self.count += 1

    def places(self, _: Steward) -> Iterable[tuple[str, Sequence[str]]]:
        """Return the queues where they were, each with their ids there."""
        return [(queue, list(ids)) for queue, ids in self.ids.items()]

    def takes(self, message: Stored) -> bool:
        """Return whether a message is one of them."""
        return _digest(message) in self._digests


class Matching:
    """The messages in a folder of which something holds, as each is in hand: none is kept in mind.

    Args:
        folder: the folder.
        holds: says so of a message.
    """

    def __init__(self, folder: MailFolder, holds: Callable[[Stored], bool]) -> None:
        self._folder = folder
        self._holds = holds
        self.count = 0

    def places(self, steward: Steward) -> Iterable[tuple[str, None]]:
        """Return the queues of the folder."""
        depths = steward.depths()
        return [(queue, None) for queue in self._folder.queues if depths.get(queue) is not None]

    def takes(self, message: Stored) -> bool:
        """Return whether it holds of a message."""
        holds = self._holds(message)
        self.count += holds
        return holds


def _digest(message: Stored) -> bytes:
    whole = blake2b(
        repr((message.message_id, sorted(message.headers.items()))).encode(), digest_size=16
    )
    whole.update(message.body)
    return whole.digest()


@dataclass(slots=True)
class Sent:
    """What became of messages that were to be sent round again.

    Attributes:
        count: how many went.
        stayed: how many did not, by the reason.
    """

    count: int = 0
    stayed: Counter[str] = field(default_factory=Counter)

    def note(self, _: Stored) -> None:
        """Count one that has gone."""
        self.count += 1


def send_again(steward: Steward, choice: MessageChoice, order: Order, sent: Sent) -> None:
    """Send messages round again, as if for the first time.

    Args:
        steward: the broker.
        choice: which messages.
        order: what the operator says of them.
        sent: is told what becomes of each, whatever is raised.

    Raises:
        Refused: the queue takes no messages.
        BrokerUnavailable: the broker cannot be used just now.
    """

    def onward(message: Stored) -> Send | None:
        if not choice.takes(message):
            return None
        if (why := hindrance(message, order)) is not None:
            sent.stayed[why] += 1
            return None
        return again(message, order)

    for queue, ids in choice.places(steward):
        steward.move(queue, ids, onward, sent.note)


@dataclass(slots=True)
class Dropped:
    """What was deleted.

    Attributes:
        messages: how many.
        left: the keys of their blobs that could not be deleted, each with the reason.
    """

    messages: int = 0
    left: dict[str, str] = field(default_factory=dict)


async def drop(steward: Steward, blobs: Spool, choice: MessageChoice, dropped: Dropped) -> None:
    """Delete messages for good, and what those that are gone have in the spool.

    Args:
        steward: the broker.
        blobs: the spool.
        choice: which messages.
        dropped: is told what is gone of each queue in turn, whatever is raised at a later one.

    Raises:
        BrokerUnavailable: the broker cannot be used just now.
    """

    def note(message: Stored) -> str | None:
        return _key(message) if choice.takes(message) else None

    for queue, ids in choice.places(steward):
        keys = steward.drop(queue, ids, note)
        dropped.messages += len(keys)
        for key in filter(None, keys):
            try:
                await blobs.delete(key)
            except SpoolUnavailable as error:
                dropped.left[key] = str(error)


def _key(message: Stored) -> str:
    """Return the key of the blob that goes with a message, "" where none of its own does."""
    mail = mail_in(message.body)
    if mail is None or not isinstance(raw := mail.payload.raw, Spooled):
        return ""
    return raw.key if owns(mail.id, raw.key) else ""


def without_blob(message: Stored) -> str | None:
    """Return why no blob can belong to a message that refers to one, None where one can.

    Such an envelope was damaged, or written by somebody else: our keys are hashes.
    """
    from shared.spool import valid  # with a library that only few commands need

    mail = mail_in(message.body)
    if mail is None or not isinstance(raw := mail.payload.raw, Spooled):
        return None
    key = printable(raw.key, 80)
    if not owns(mail.id, raw.key):
        return f"its envelope refers to a blob '{key}', which belongs to another message"
    if valid(raw.key):
        return None
    return f"its envelope refers to a blob '{key}', and none can have such a key"


async def chunks(blobs: Spool, message: Stored) -> AsyncIterator[bytes]:
    """Yield the raw message, exactly as the POP3 server sent it.

    Of a queue message that is no envelope, the bytes of that queue message.

    Raises:
        SpoolMissing: it was in the spool, and is there no more.
        SpoolUnavailable: the spool cannot be read.
    """
    mail = mail_in(message.body)
    match None if mail is None else mail.payload.raw:
        case Inline(data):
            yield data
        case Spooled(key):
            async for chunk in blobs.chunks(key):
                yield chunk
        case None:
            yield message.body
