"""A POP3 server by the book (RFC 1939, RFC 2449): the regular answer to each command.

It judges nobody, and says nothing by itself: one ``Book`` is one session.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

_BEFORE_LOGIN = ("GREETING", "CAPA", "USER", "PASS", "UTF8", "QUIT", "NOOP")


class Lying(NamedTuple):
    """A message in the maildrop."""

    name: str
    uidl: str
    raw: bytes


class Offered(Protocol):
    """What a session is about; see ``Server``."""

    maildrop: list[Lying]
    sizes: dict[str, int]
    capabilities: Sequence[str] | None


class Book:
    """A session with a maildrop.

    Attributes:
        view: what lay in the maildrop at the login.
    """

    def __init__(self, offered: Offered) -> None:
        self._offered = offered
        self.view: list[Lying] = []
        self._logged_in = False
        self._deleted: set[int] = set()

    def lying(self, number: str) -> Lying | None:
        """Return the message of this number, None where there is none."""
        known = number.isdecimal() and 1 <= int(number) <= len(self.view)
        return self.view[int(number) - 1] if known else None

    def commit(self) -> None:
        """Take out of the maildrop what was deleted."""
        gone = [self.view[number - 1] for number in self._deleted]
        self._offered.maildrop = [m for m in self._offered.maildrop if m not in gone]

    def answer(self, command: str) -> bytes:
        """Return the regular answer to a command, which has its effect."""
        verb, _, rest = command.partition(" ")
        answer = _BOOK.get(verb.upper())
        if answer is None or not (self._logged_in or verb.upper() in _BEFORE_LOGIN):
            return b"-ERR not now\r\n"
        return answer(self, rest)

    def _ok(self, _: str) -> bytes:
        return b"+OK\r\n"

    def _capa(self, _: str) -> bytes:
        offered = self._offered.capabilities
        return b"-ERR what is CAPA?\r\n" if offered is None else _listing(offered)

    def _utf8(self, _: str) -> bytes:
        offered = self._offered.capabilities or ()
        known = not self._logged_in and any(c.split()[0] == "UTF8" for c in offered)
        return b"+OK\r\n" if known else b"-ERR not now\r\n"

    def _pass(self, _: str) -> bytes:
        self.view, self._logged_in = list(self._offered.maildrop), True
        return b"+OK\r\n"

    def _alive(self) -> Iterator[tuple[int, Lying]]:
        numbered = enumerate(self.view, 1)
        return ((number, m) for number, m in numbered if number not in self._deleted)

    def _size(self, lying: Lying) -> int:
        return self._offered.sizes.get(lying.name, len(lying.raw))

    def _stat(self, _: str) -> bytes:
        sizes = [self._size(m) for _, m in self._alive()]
        return f"+OK {len(sizes)} {sum(sizes)}\r\n".encode()

    def _rows(self, rest: str, value: Callable[[Lying], object]) -> bytes:
        rows = {number: f"{number} {value(m)}" for number, m in self._alive()}
        if not rest:
            return _listing(rows.values())
        row = rows.get(int(rest)) if rest.isdecimal() else None
        return f"+OK {row}\r\n".encode() if row else b"-ERR no such message\r\n"

    def _list(self, rest: str) -> bytes:
        return self._rows(rest, self._size)

    def _uidl(self, rest: str) -> bytes:
        return self._rows(rest, lambda m: m.uidl)

    def _retr(self, rest: str) -> bytes:
        lying = self.lying(rest)
        if lying is None or int(rest) in self._deleted:
            return b"-ERR no such message\r\n"
        return f"+OK {self._size(lying)} octets\r\n".encode() + stuffed(lying.raw)

    def _top(self, rest: str) -> bytes:
        number, _, lines = rest.partition(" ")
        lying = self.lying(number)
        if lying is None:
            return b"-ERR no such message\r\n"
        head, blank, body = lying.raw.partition(b"\r\n\r\n")
        kept = b"".join(body.splitlines(keepends=True)[: int(lines or 0)])
        return b"+OK\r\n" + stuffed(head + blank + kept)

    def _dele(self, rest: str) -> bytes:
        if self.lying(rest) is None or int(rest) in self._deleted:
            return b"-ERR no such message\r\n"
        self._deleted.add(int(rest))
        return b"+OK\r\n"

    def _rset(self, _: str) -> bytes:
        self._deleted.clear()
        return b"+OK\r\n"

    def _quit(self, _: str) -> bytes:
        self.commit()
        return b"+OK bye\r\n"


def stuffed(raw: bytes) -> bytes:
    """Return a message as it stands in a multi-line response: dot-stuffed and terminated."""
    end = b"" if raw.endswith(b"\r\n") or not raw else b"\r\n"
    return (b"\r\n" + raw).replace(b"\r\n.", b"\r\n..")[2:] + end + b".\r\n"


def _listing(lines: Iterable[str]) -> bytes:
    return b"".join(f"{line}\r\n".encode() for line in ("+OK", *lines, "."))


_BOOK: Mapping[str, Callable[[Book, str], bytes]] = {
    "GREETING": Book._ok,
    "CAPA": Book._capa,
    "UTF8": Book._utf8,
    "USER": Book._ok,
    "PASS": Book._pass,
    "STAT": Book._stat,
    "LIST": Book._list,
    "UIDL": Book._uidl,
    "RETR": Book._retr,
    "TOP": Book._top,
    "DELE": Book._dele,
    "RSET": Book._rset,
    "NOOP": Book._ok,
    "QUIT": Book._quit,
}
