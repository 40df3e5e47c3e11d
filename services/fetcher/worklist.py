"""What one session has to do, in plain data; see ``compare``."""

from __future__ import annotations

from array import array
from collections.abc import Container
from dataclasses import dataclass
from typing import NamedTuple

from services.fetcher.fetch_list import FetchList, ListedMessage


class SafeMessage(NamedTuple):
    """A message that is safe with us and may be deleted at the server.

    Attributes:
        head: the hash of its header block, None where it is not known.
    """

    number: int
    uidl: str | None
    id: str
    size: int | None = None
    head: str | None = None

    @property
    def listed(self) -> ListedMessage:
        """The message as the server lists it."""
        return ListedMessage(self.number, self.uidl, self.size)

    @property
    def key(self) -> str:
        """See ``ListedMessage.key``."""
        return self.listed.key


class ChangedSizes:
    """What the ledger knows messages as whose UIDL it knows with another size, 8 bytes for each.

    Hashes of their identities, which are seeded: that two are the same by chance may make us
    believe that the server says other sizes of the same message, once in 2**63.

    Args:
        count: how many messages there are.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._hashes = array("q")  # by number; 0 where it is none of them

    def add(self, number: int, id_: str) -> None:
        """Note a message, and what it was."""
        if not self._hashes:
            self._hashes = array("q", [0]) * (self._count + 1)
        self._hashes[number] = hash(id_) | 1

    def __contains__(self, number: object) -> bool:
        """Return whether the message of this number is one of them."""
        return bool(self._hashes) and isinstance(number, int) and self._hashes[number] != 0

    def was(self, number: int, id_: str) -> bool:
        """Return whether it is one of them, and is what it was."""
        return number in self and self._hashes[number] == hash(id_) | 1


@dataclass(frozen=True, slots=True)
class Worklist:
    """What to do in one session.

    Attributes:
        found: how many messages the server has.
        fetch: messages that the ledger does not know.
        changed: those among them whose UIDL it knows with another size.
        due: messages that it knows, and whose time on the server is over.
        unnamed: how many messages have no usable UIDL.
        more: whether there is more to be fetched than a session does.
        adopted: those to be fetched that count as delivered, by UIDL.
    """

    found: int
    fetch: FetchList
    changed: ChangedSizes
    due: tuple[SafeMessage, ...]
    unnamed: int
    more: bool = False
    adopted: Container[str] = ()


def age(since: float, now: float) -> float:
    """Return for how many seconds a message has been here.

    Not negative: after a clock was set back, what is not to be kept is not kept for that long.
    """
    return max(0.0, now - since)
