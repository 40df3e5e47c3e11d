"""What one session has to do, in plain data and in little room; see ``compare``.

A message to be fetched, with its UIDL, takes 25 bytes: a tuple, a number, a size and a UIDL for
each are 200, and there may be a million. So a message is made of them when it is its turn; until
then they lie in some arrays.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final, NamedTuple

_UNKNOWN: Final = -1


class ListedMessage(NamedTuple):
    """A message in a maildrop.

    Attributes:
        number: in this session.
        uidl: None where it is not usable.
        size: what LIST says, None where it does not.
    """

    number: int
    uidl: str | None
    size: int | None = None

    @property
    def key(self) -> str:
        """What tells it from the others in another session, as far as anything does."""
        # No UIDL begins with a blank.
        return f" {self.number} {self.size}" if self.uidl is None else self.uidl


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


class FetchList:
    """Messages in a maildrop, in the order in which they were added.

    Attributes:
        numbers: their numbers.
    """

    def __init__(self) -> None:
        self.numbers = array("I")
        self._sizes = array("q")
        self._uidls = bytearray()  # one after the other, in Latin-1; nothing where there is none
        self._ends = array("I", [0])

    @classmethod
    def of(cls, messages: Iterable[ListedMessage]) -> FetchList:
        """Return a list of these."""
        made = cls()
        for message in messages:
            made.add(*message)
        return made

    def add(self, number: int, uidl: str | None, size: int | None = None) -> None:
        """Add a message (see ``ListedMessage``)."""
        self.numbers.append(number)
        self._sizes.append(_UNKNOWN if size is None else size)
        if uidl is not None:
            self._uidls += uidl.encode("latin-1")
        self._ends.append(len(self._uidls))

    def pages(self, size: int) -> Iterator[Sequence[ListedMessage]]:
        """Yield them, so many at a time."""
        for start in range(0, len(self), size):
            yield [self.at(index) for index in range(start, min(start + size, len(self)))]

    def backwards(self) -> FetchList:
        """Return them from the last to the first."""
        return FetchList.of(map(self.at, range(len(self) - 1, -1, -1)))

    def unnamed(self) -> FetchList:
        """Return those without a UIDL."""
        ends = self._ends
        return FetchList.of(self.at(i) for i in range(len(self)) if ends[i] == ends[i + 1])

    def with_sizes(self, sizes: Mapping[int, int]) -> FetchList:
        """Return the same messages with these sizes.

        Args:
            sizes: what LIST says, by message number, as far as it was asked.
        """
        made = FetchList()
        made.numbers, made._uidls, made._ends = self.numbers, self._uidls, self._ends
        made._sizes = array("q", (sizes.get(number, _UNKNOWN) for number in self.numbers))
        return made

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.numbers)

    def __iter__(self) -> Iterator[ListedMessage]:
        """Yield them."""
        return map(self.at, range(len(self)))

    def at(self, index: int) -> ListedMessage:
        """Return the message at an index, from 0."""
        start, end = self._ends[index], self._ends[index + 1]
        uidl = self._uidls[start:end].decode("latin-1") if start < end else None
        size = self._sizes[index]
        return ListedMessage(self.numbers[index], uidl, None if size < 0 else size)

    def indexes(self, keys: Collection[str]) -> dict[str, int]:
        """Return where messages with these keys (``ListedMessage.key``) are, by key."""
        unnamed = {key for key in keys if key.startswith(" ")}
        uidls = {key.encode("latin-1"): key for key in keys if key not in unnamed}
        found = {}
        start = 0
        for index, end in enumerate(islice(self._ends, 1, None) if uidls else ()):
            if (uidl := uidls.get(bytes(self._uidls[start:end]))) is not None:
                found[uidl] = index
            start = end
        numbers = {int(key.split()[0]) for key in unnamed}
        for index, number in enumerate(self.numbers if numbers else ()):
            if number in numbers and (key := self.at(index).key) in unnamed:
                found[key] = index
        return found


class PendingMessages:
    """Messages that are not asked for yet.

    Attributes:
        first: the next one; None where there is none.
    """

    def __init__(self) -> None:
        self._rest: Iterator[ListedMessage] = iter(())
        self.first: ListedMessage | None = None

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return self.first is not None

    def extend(self, messages: Iterable[ListedMessage]) -> None:
        """Let these come after the others."""
        self._rest = chain(self._rest, messages)
        if self.first is None:
            self.first = next(self._rest, None)

    def take(self) -> ListedMessage:
        """Return the next one, and go on.

        Raises:
            IndexError: there is none.
        """
        message, self.first = self.first, next(self._rest, None)
        if message is None:
            raise IndexError("no message waits")
        return message


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
        unlooked: what another program has fetched, and nobody here has looked at.
    """

    found: int
    fetch: FetchList
    changed: ChangedSizes
    due: tuple[SafeMessage, ...]
    unnamed: int
    more: bool = False
    adopted: Container[str] = ()
    unlooked: tuple[SafeMessage, ...] = ()


def age(since: float, now: float) -> float:
    """Return for how many seconds a message has been here.

    Not negative: after a clock was set back, what is not to be kept is not kept for that long.
    """
    return max(0.0, now - since)
