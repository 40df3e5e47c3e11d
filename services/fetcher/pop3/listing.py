"""Reads the multi-line listings of a POP3 server as they come: UIDL and LIST; and what CAPA says.

A maildrop may hold a million messages, and a hostile server list more lines than there is memory
for. So a listing is read in pieces and never held as a whole, and of its lines no more are read
than a maildrop may have messages. What servers really send is split in one go, only other pieces
are read line by line. No line is trusted: a UIDL that cannot be one counts for none, and a line
without a number that a message can have, such as a blank one, is passed over.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping
from typing import Final

from services.fetcher.pop3 import uidl_index
from services.fetcher.pop3.uidl_index import UidlIndex

UIDL_LIMIT: Final = 512
"""Characters of a UIDL; RFC 1939 allows 70, some servers give more."""

MAX_MESSAGES: Final = 1_000_000
"""Messages of a maildrop that are looked at, unless the configuration says otherwise."""

_LINE_LIMIT: Final = 4_096
"""Bytes of a line that are read; a longer one has no UIDL."""

_CONTROLS: Final = bytes(set(range(0x20)) - {0x0D, 0x0A, 0x20} | {0x7F})
_UIDL_LINE: Final = re.compile(r"0*(\d{1,7})(?:[ \t]+(.*))?", re.DOTALL)
_UIDL: Final = re.compile(rf"[!-~\xa0-\xff]{{1,{UIDL_LIMIT}}}")
_SECONDS: Final = re.compile(r"[0-9]{1,6}")
_LIST_LINE: Final = re.compile(r"[ \t]*0*(\d{1,7})[ \t]+0*(\d{1,18})\b")
_DIGITS: Final = 18
_SEVERAL: Final = 0
_UNKNOWN: Final = -1


def capabilities(body: bytes) -> Mapping[str, tuple[str, ...]]:
    """Return the parameters of each capability in a CAPA response (RFC 2449 section 3)."""
    text = body.decode("utf-8", "replace")
    lines = (line.split() for line in text.split("\r\n" if "\r\n" in text else "\n"))
    return {words[0].upper(): tuple(words[1:]) for words in lines if words}


def login_delay(offered: Mapping[str, tuple[str, ...]]) -> float:
    """Return the seconds between logins that CAPA asks for (RFC 2449 section 6.5), 0 for none.

    With the parameter USER each user may have a delay of their own: the number is the longest, or
    after the login, this user's.
    """
    seconds = offered.get("LOGIN-DELAY", ("0",))[:1]
    return float(seconds[0]) if seconds and _SECONDS.fullmatch(seconds[0]) else 0.0


class UidlListing:
    """A UIDL response (RFC 1939 section 7), of which ``feed`` takes the pieces.

    A UIDL that is missing, too long, not made of printable characters or that of several messages
    identifies none, nor do two of one number, nor all together if they are the message numbers.
    Bytes beyond ASCII are read as Latin-1, which keeps different UIDLs different.

    Args:
        most: lines that are read, and the highest number that a message can have.

    Attributes:
        numbers: of the messages by the UIDLs that identify one, in the order of the listing; to be
            looked at after ``end``.
        lines: how many lines have the number of a message.
        highest: the highest of these numbers.
        beyond: whether there are more lines than are read.
        nonsense: whether there are lines, and none of them has a message number.
    """

    def __init__(self, most: int = MAX_MESSAGES) -> None:
        self.numbers: dict[str, int] | UidlIndex = {}
        self.lines = 0
        self.highest = 0
        self._most = most
        self._lines = _Lines(most)
        self._listed = bytearray(1)  # 1 where a line has this number
        self._twice: set[int] = set()
        self._several = False
        self._are_numbers = True
        self._said = False

    @property
    def beyond(self) -> bool:
        """See above."""
        return self._lines.beyond

    @property
    def nonsense(self) -> bool:
        """See above."""
        return self._said and not self.lines

    def __eq__(self, other: object) -> bool:
        """Return whether another one lists the same."""
        if not isinstance(other, UidlListing):
            return NotImplemented
        mine, its = (self.numbers, self._listed), (other.numbers, other._listed)
        return mine == its

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self.lines} messages, {len(self.numbers)} UIDLs>"

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        self._take(self._lines.feed(data))

    def end(self) -> UidlListing:
        """Take note that nothing more comes; return this."""
        self._take(self._lines.rest())
        if self._are_numbers:
            self.numbers = {}
        elif self._several or self._twice:
            left_out = frozenset(self._twice | {_SEVERAL})
            if isinstance(self.numbers, UidlIndex):
                self.numbers.leave_out(left_out)
            else:
                self.numbers = {u: n for u, n in self.numbers.items() if n not in left_out}
        return self

    def _take(self, block: bytes) -> None:
        if not block:
            return
        if isinstance(self.numbers, dict) and len(self.numbers) >= uidl_index.FIRST:
            self.numbers = UidlIndex(self.numbers, self._most)
        regular = _regular(block, self.highest + 1)
        if regular is None or regular[0].stop > self._most + 1:
            self._take_irregular(block)
            return
        numbers, uidls = regular
        if max(map(len, uidls), default=0) > UIDL_LIMIT or not self._are_new(uidls, numbers):
            for number, uidl in zip(numbers, uidls, strict=True):
                self._add(number, uidl if len(uidl) <= UIDL_LIMIT else "")
            return
        self.lines += len(uidls)
        self.highest = numbers.stop - 1
        self._listed.extend(bytes(numbers.start - len(self._listed)))
        self._listed.extend(b"\1" * len(numbers))
        if self._are_numbers:
            self._are_numbers = all(map(_is_number, uidls, numbers))

    def _are_new(self, uidls: list[str], numbers: range) -> bool:
        """Take UIDLs; return whether that is all. Where False, none is taken."""
        if isinstance(self.numbers, UidlIndex):
            for uidl, _ in self.numbers.add(uidls, numbers):
                self.numbers[uidl] = _SEVERAL
                self._several = True
            return True
        if len(set(uidls)) != len(uidls) or not self.numbers.keys().isdisjoint(uidls):
            return False
        self.numbers.update(zip(uidls, numbers, strict=True))
        return True

    def _take_irregular(self, block: bytes) -> None:
        for line in self._lines.split(block):
            self._said = self._said or bool(line.strip())
            # Stripped beforehand: a pattern that does it takes quadratic time on a run of blanks.
            match = _UIDL_LINE.fullmatch(line[:_LINE_LIMIT].strip(" \t"))
            if match is not None:
                uidl = match[2] or ""
                usable = len(line) <= _LINE_LIMIT and _UIDL.fullmatch(uidl)
                self._add(int(match[1]), uidl if usable else "")

    def _add(self, number: int, uidl: str) -> None:
        self.lines += 1
        if not 0 < number <= self._most:
            return
        before = self.numbers.get(uidl)
        if uidl and before is None:
            self.numbers[uidl] = number
        elif uidl and before != number:
            self.numbers[uidl] = _SEVERAL
            self._several = True
        if number > self.highest:
            self.highest = number
            self._listed.extend(bytes(number + 1 - len(self._listed)))
        elif self._listed[number] and before == number:
            self.lines -= 1  # the same line once more
        elif self._listed[number]:
            self._twice.add(number)
        if uidl and self._are_numbers:
            self._are_numbers = _is_number(uidl, number)
        self._listed[number] = 1


class SizeListing(Mapping[int, int]):
    """A LIST response, of which ``feed`` takes the pieces: sizes by message number.

    Lines that make no sense are left out. Sizes are what the server claims (RFC 1939 section 11),
    never a fact.

    Args:
        most: lines that are read, and the highest number that a message can have.

    Attributes:
        empty: whether nothing has come at all.
    """

    def __init__(self, most: int = MAX_MESSAGES) -> None:
        self._most = most
        self._lines = _Lines(most)
        self._sizes = array("q", [_UNKNOWN])
        self._known = 0
        self.empty = True

    @property
    def beyond(self) -> bool:
        """Whether there are more lines than are read."""
        return self._lines.beyond

    @property
    def highest(self) -> int:
        """The highest message number."""
        return len(self._sizes) - 1

    @property
    def total(self) -> int:
        """All sizes together."""
        return sum(self._sizes) + len(self._sizes) - self._known

    def __getitem__(self, number: int) -> int:
        """Return the size of a message."""
        size = self._sizes[number] if 0 < number < len(self._sizes) else _UNKNOWN
        if size < 0:
            raise KeyError(number)
        return size

    def __iter__(self) -> Iterator[int]:
        """Yield the numbers of the messages."""
        return (number for number, size in enumerate(self._sizes) if size >= 0)

    def __len__(self) -> int:
        """Return how many sizes there are."""
        return self._known

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        self.empty = self.empty and not data
        self._take(self._lines.feed(data))

    def end(self) -> SizeListing:
        """Take note that nothing more comes; return this."""
        self._take(self._lines.rest())
        return self

    def _take(self, block: bytes) -> None:
        regular = _regular(block, len(self._sizes)) if block else None
        if regular is not None and regular[0].stop <= self._most + 1:
            sizes = regular[1]
            if "".join(sizes).isdigit() and max(map(len, sizes)) <= _DIGITS:
                self._sizes.extend(map(int, sizes))
                self._known += len(sizes)
                return
        for line in self._lines.split(block):
            match = _LIST_LINE.match(line[:_LINE_LIMIT])
            if match is not None and 0 < int(match[1]) <= self._most:
                self._set(int(match[1]), int(match[2]))

    def _set(self, number: int, size: int) -> None:
        if number >= len(self._sizes):
            self._sizes.extend([_UNKNOWN] * (number + 1 - len(self._sizes)))
        self._known += self._sizes[number] == _UNKNOWN
        self._sizes[number] = size


class _Lines:
    """Cuts what comes where a line ends: at CRLF, or LF where there is no CRLF.

    Args:
        most: lines that are passed on.

    Attributes:
        beyond: whether there were more.
    """

    def __init__(self, most: int) -> None:
        self.beyond = False
        self._left = most
        self._held = b""
        self._end = b""

    def feed(self, data: bytes) -> bytes:
        """Return the lines that have come whole."""
        if self.beyond:
            return b""
        if len(self._held) > _LINE_LIMIT:  # of what is longer, the beginning will do
            end = data.find(b"\n")
            self._held = self._held[: _LINE_LIMIT + 1]
            if end < 0:
                return b""
            crlf = data[:end].endswith(b"\r")
            data = (self._end or (b"\r\n" if crlf else b"\n")) + data[end + 1 :]
        data = self._held + data
        if not self._end and b"\n" in data:
            self._end = b"\r\n" if b"\r\n" in data else b"\n"
        last = data.rfind(self._end) if self._end else -1
        end = 0 if last < 0 else last + len(self._end)
        self._held = data[end:]
        return self._take_allowed(data[:end])

    def rest(self) -> bytes:
        """Return the last line, if it has no end."""
        held, self._held = self._held, b""
        return b"" if self.beyond else self._take_allowed(held)

    def split(self, block: bytes) -> list[str]:
        """Return the lines in what was passed on."""
        end = (self._end or b"\n").decode()
        return block.decode("latin-1").removesuffix(end).split(end) if block else []

    def _take_allowed(self, block: bytes) -> bytes:
        end = self._end or b"\n"
        count = block.count(end)
        if count > self._left:
            self.beyond = True
            block = b"".join(line + end for line in block.split(end, self._left)[: self._left])
        self._left -= count
        return block


def _regular(block: bytes, first: int) -> tuple[range, list[str]] | None:
    """Split lines of two plain words each, numbered from here on; None if they are not that."""
    if not block.isascii() or len(block.translate(None, _CONTROLS)) != len(block):
        return None
    words = block.decode("ascii").split()
    numbers = range(first, first + block.count(b"\n"))
    if not numbers or len(words) != 2 * len(numbers) or words[::2] != list(map(str, numbers)):
        return None
    return numbers, words[1::2]


def _is_number(uidl: str, number: int) -> bool:
    return uidl.lstrip("0") == str(number)
