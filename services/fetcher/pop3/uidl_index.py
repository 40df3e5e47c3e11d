"""Message numbers by UIDL, of a maildrop so large that a dict of them would not fit into memory.

Of a million UIDLs of 70 characters a dict takes 250 MB: an object for each UIDL and each number.
Here they are blocks of text and some arrays, 100 MB, and a look is dearer. The first ones stay in
the dict that they are in: of them, a look costs what it did.

It trusts no UIDL: their hashes are seeded (PEP 456), and where two are the same the texts decide.
Known limit: room for the most that there may be is taken at once, 26 bytes for each: arrays that
grow leave holes behind that took as much again.
"""

from __future__ import annotations

from array import array
from collections.abc import ItemsView, Iterator, Mapping, Sequence
from typing import Any, Final

FIRST: Final = 100_000
"""UIDLs that are kept in a dict: 25 MB."""

_BLOCK: Final = 64 * 1024
"""Characters of a block; none goes over its end."""


class UidlIndex(Mapping[str, int]):
    """A mapping that grows, and of which messages can be left out in the end.

    Args:
        first: what is in it at first; it is kept, and looked at first.
        most: how many more there may be.
    """

    def __init__(self, first: dict[str, int], most: int) -> None:
        self._first = first
        self._most = most
        self._count = 0
        self._blocks: list[bytearray] = []  # one UIDL after the other, in Latin-1
        self._end = 0
        self._starts = array("I", [0]) * most
        self._lengths = array("H", [0]) * most
        self._hashes = array("q", [0]) * most
        self._numbers = array("I", [0]) * most
        size = 1 << (most + most // 2).bit_length()
        self._mask = size - 1
        self._table = array("I", [0]) * size  # by hash: one more than where it is in the others
        self._without: frozenset[int] = frozenset()
        self._up_to = 0
        self._left_out = 0

    def empty(self) -> UidlIndex:
        """Return one for as many, with nothing in it."""
        return UidlIndex({}, len(self._first) + self._most)

    def add(self, uidls: Sequence[str], numbers: Sequence[int]) -> list[tuple[str, int]]:
        """Add UIDLs of Latin-1 characters; return those that are in it already, and stay as is."""
        first, table, mask, hashes = self._first, self._table, self._mask, self._hashes
        again = []
        for uidl, number in zip(uidls, numbers, strict=True):
            hashed = hash(uidl)
            slot = hashed & mask
            while entry := table[slot]:
                if hashes[entry - 1] == hashed and self._uidl(entry - 1) == uidl:
                    break
                slot = (slot + 1) & mask
            if entry or uidl in first:
                again.append((uidl, number))
                continue
            index = self._count
            hashes[index], self._numbers[index] = hashed, number
            self._keep(index, uidl.encode("latin-1"))
            self._count = table[slot] = index + 1
        return again

    def _keep(self, index: int, uidl: bytes) -> None:
        length = len(uidl)
        if self._end + length > len(self._blocks) * _BLOCK:
            self._end = len(self._blocks) * _BLOCK
            self._blocks.append(bytearray(_BLOCK))
        offset = self._end % _BLOCK
        self._blocks[-1][offset : offset + length] = uidl
        self._starts[index], self._lengths[index] = self._end, length
        self._end += length

    def __setitem__(self, uidl: str, number: int) -> None:
        index = self._find(uidl)
        if uidl in self._first:
            self._first[uidl] = number
        elif index is not None:
            self._numbers[index] = number
        else:
            self.add((uidl,), (number,))

    def leave_out(self, numbers: frozenset[int] = frozenset(), *, beyond: int = 0) -> None:
        """Leave messages out, once nothing is added any more.

        Args:
            numbers: of these messages.
            beyond: and of all with a higher one, unless it is 0.
        """
        self._without |= numbers
        self._up_to = beyond or self._up_to
        self._first = {u: n for u, n in self._first.items() if self._is_in(n)}
        added = self._numbers[: self._count]
        self._left_out = sum(map(self._without.__contains__, added))
        if self._up_to:
            high = filter(self._up_to.__lt__, added)
            self._left_out += sum(n not in self._without for n in high)

    def _is_in(self, number: int) -> bool:
        return number not in self._without and not 0 < self._up_to < number

    def _uidl(self, index: int) -> str:
        block, offset = divmod(self._starts[index], _BLOCK)
        return self._blocks[block][offset : offset + self._lengths[index]].decode("latin-1")

    def _find(self, uidl: str) -> int | None:
        hashed, table, mask = hash(uidl), self._table, self._mask
        slot = hashed & mask
        while entry := table[slot]:
            if self._hashes[entry - 1] == hashed and self._uidl(entry - 1) == uidl:
                return entry - 1
            slot = (slot + 1) & mask
        return None

    def get(self, key: str, default: Any = None) -> Any:
        """Return the number of a message, the default where there is none."""
        number = self._first.get(key)
        if number is None and (index := self._find(key)) is not None:
            number = self._numbers[index]
        return default if number is None or not self._is_in(number) else number

    def __getitem__(self, uidl: str) -> int:
        number: int | None = self.get(uidl)
        if number is None:
            raise KeyError(uidl)
        return number

    def __contains__(self, uidl: object) -> bool:
        return isinstance(uidl, str) and self.get(uidl) is not None

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._first) + self._count - self._left_out

    def __iter__(self) -> Iterator[str]:
        return (uidl for uidl, _ in self.pairs())

    def items(self) -> ItemsView[str, int]:
        """Return UIDLs with numbers, in the order in which they were added."""
        return _Pairs(self)

    def pairs(self) -> Iterator[tuple[str, int]]:
        """Yield the same."""
        yield from self._first.items()
        for index in range(self._count):
            number = self._numbers[index]
            if self._is_in(number):
                yield self._uidl(index), number


class _Pairs(ItemsView[str, int]):
    def __init__(self, numbered: UidlIndex) -> None:
        super().__init__(numbered)
        self._numbered = numbered

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return self._numbered.pairs()
