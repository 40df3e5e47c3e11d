"""Which blobs of the spool nobody refers to any more: the judgement, without the deleting.

A blob is kept as long as any message in any queue may need it. Of a message that decodes, that is
the key in its envelope. What is no envelope (damaged, of a newer version, a bundle of envelopes)
keeps every blob whose key stands somewhere in its bytes, since msgpack writes text as it is, or
begins with its message id, of which our keys are made. It trusts the steward to show every message.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from shared.broker import Stored
from shared.broker.requeue import mail_in
from shared.message import Spooled

if TYPE_CHECKING:
    from shared.spool import StoredBlob

DAY: Final = 86_400.0
USUAL: Final = 7 * DAY
"""Seconds that a blob is kept, whether or not anybody refers to it, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class References:
    """What the messages in the queues refer to.

    Attributes:
        keys: of blobs, by the envelopes.
        unread: the bytes that are no envelope of this version, each with its message id. One
            without an id keeps every blob.
    """

    keys: frozenset[str]
    unread: tuple[tuple[str, bytes], ...]

    def hold(self, key: str) -> bool:
        """Return whether a message refers to the blob of this key, or may do so."""
        text = key.encode()
        return key in self.keys or any(
            text in body or key.startswith(id_) for id_, body in self.unread
        )


@dataclass(frozen=True, slots=True)
class AllBut:
    """All keys that there can be, less some: what is to be kept in a sweep."""

    keys: Collection[str]

    def __contains__(self, key: object) -> bool:
        return key not in self.keys


def references(messages: Iterable[Stored]) -> References:
    """Return what these messages refer to."""
    keys: set[str] = set()
    unread: set[tuple[str, bytes]] = set()
    for message in messages:
        found = mail_in(message.body)
        if found is None:
            unread.add((message.message_id, message.body))
        elif isinstance(found.payload.raw, Spooled):
            keys.add(found.payload.raw.key)
    return References(frozenset(keys), tuple(unread))


def orphans(blobs: Iterable[StoredBlob], held: References, before: float) -> list[StoredBlob]:
    """Return the blobs that were written before a moment and that nobody refers to."""
    known = (blob for blob in blobs if blob.trouble is None)
    return [blob for blob in known if blob.written < before and not held.hold(blob.key)]


def youngest(give_up_after: float) -> float:
    """Return the least age in seconds at which a blob may be taken for an orphan.

    A blob is there before anything refers to it, and should a message be out of sight against all
    expectation, it has had the time in which it is retried, and a day, to come to its end.
    """
    return give_up_after + DAY
