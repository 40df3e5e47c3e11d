"""The POP3 client protocol (RFC 1939, 2449, 2595) without any I/O.

Commands go out as bytes from ``send``; what the server says comes in through ``receive_data``, in
pieces of any size, and leaves as events from ``next_event``. Replies are matched to commands by
their order alone, so any number of commands may be outstanding.

It trusts nothing but that order. A multi-line response ends at CRLF "." CRLF only: a dot between
bare line feeds is content, and a line of any length is passed on. A status line that is none, that
is too long, or that nobody asked for is a ServerFault, and every later call fails like it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from shared.errors import ServerFault
from shared.log import printable

LINE_LIMIT: Final = 64 * 1024
"""Bytes of a status line, its CRLF left out."""

CHUNK: Final = 64 * 1024
"""Bytes of a multi-line response that are held back in the hope of its end."""

GREETING: Final = "greeting"
"""The verb of the reply that the server gives before any command."""

_TERMINATOR: Final = b"\r\n.\r\n"
_STUFFED: Final = b"\r\n.."
_DOTTED: Final = re.compile(rb"\r\n\.")
_PREFIXES: Final = tuple(_TERMINATOR[:length] for length in (4, 3, 2, 1))
_FORBIDDEN: Final = re.compile(r"[\r\n\0]")
_RESPONSE_CODE: Final = re.compile(r"\[([A-Z]+(?:[-/][A-Z]+)*)\]", re.IGNORECASE)
_MULTILINE: Final = frozenset(
    {("CAPA", False), ("LIST", False), ("UIDL", False), ("RETR", True), ("TOP", True)}
)
"""Verb, and whether it has an argument, of the commands with a multi-line response to +OK."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A status line.

    Attributes:
        verb: of the command that it answers, or GREETING.
        ok: whether it is +OK.
        text: what follows the status indicator; hostile, not yet fit to be shown.
    """

    verb: str
    ok: bool
    text: str

    @property
    def code(self) -> str:
        """The response code of RFC 2449 section 8, e.g. ``IN-USE``, or "" where there is none."""
        found = _RESPONSE_CODE.match(self.text)
        return found[1].upper() if found else ""


@dataclass(frozen=True, slots=True)
class Body:
    """A piece of a multi-line response: dot-stuffing undone, CRLF kept, the terminator left out.

    Attributes:
        last: whether the response ends with it. Only pieces that are not the last one are
            sure to be non-empty.
    """

    data: bytes = field(repr=False)
    last: bool


Event: TypeAlias = Reply | Body


class Pop3:
    """The client's side of one POP3 connection.

    Args:
        server: its name in errors, as ``host:port``.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._expected: deque[tuple[str, bool]] = deque([(GREETING, False)])
        self._buffer = b""
        self._start = 0  # the first byte of the buffer that no event has taken yet
        self._scanned = 0  # no terminator begins before this byte of the buffer
        self._in_body = False
        self._skip = 0  # bytes at the start that belong to the status line

    @property
    def outstanding(self) -> int:
        """How many replies, or ends of replies, are still to come."""
        return len(self._expected) + self._in_body

    @property
    def buffered(self) -> int:
        """How many bytes have been received and not yet become events."""
        return len(self._buffer) - self._start

    def send(self, verb: str, *arguments: str | int) -> bytes:
        """Return the line of a command, and expect its reply after those still outstanding.

        Raises:
            ValueError: an argument holds CR, LF or NUL.
            ServerFault: the server has said something that nobody asked for.
        """
        if not self.outstanding and self.buffered:
            self.next_event()
        for argument in arguments:
            if _FORBIDDEN.search(str(argument)):
                raise ValueError(f"a line break or NUL in the argument of {verb}")
        self._expected.append((verb, (verb, bool(arguments)) in _MULTILINE))
        return (" ".join((verb, *map(str, arguments))) + "\r\n").encode()

    def send_each(self, verb: str, numbers: Sequence[int]) -> bytes:
        """Return a command for each of these numbers; like as many calls of ``send``, in one.

        TOP asks for no lines of the body.
        """
        if not self.outstanding and self.buffered:
            self.next_event()
        self._expected.extend([(verb, (verb, True) in _MULTILINE)] * len(numbers))
        end = " 0\r\n" if verb == "TOP" else "\r\n"
        return "".join([f"{verb} {number}{end}" for number in numbers]).encode()

    def receive_data(self, data: bytes) -> None:
        """Take what the server sent, in pieces of any size."""
        self._buffer = self._buffer[self._start :] + data
        self._scanned -= self._start
        self._start = 0

    def next_event(self) -> Event | None:
        """Return the next event, or None where it takes more data to tell.

        Raises:
            ServerFault: the server broke the protocol.
        """
        return self._next_body() if self._in_body else self._next_reply()

    def next_whole(self) -> bytes | None:
        """Return the next multi-line response without its status line, if all of it has arrived.

        None where it has not, or is refused, or where something else comes next: ``next_event``
        then goes on as if this had not been called. It is a short cut for the many small messages
        of a maildrop: two events of each took four times as long.
        """
        buffer, start = self._buffer, self._start
        if self._in_body or not self._expected or not self._expected[0][1]:
            return None
        if buffer[start : start + 3].upper() != b"+OK":
            return None
        line_end = buffer.find(b"\r\n", start, start + LINE_LIMIT + 2)
        if line_end < 0:
            return None
        # Nearly always the first line that begins with a dot is the terminator already.
        dotted = _DOTTED.search(buffer, line_end)
        end = -1 if dotted is None else buffer.find(_TERMINATOR, dotted.start())
        if dotted is None or end < 0:
            return None
        self._expected.popleft()
        self._start = end + len(_TERMINATOR)
        if end == dotted.start():
            return buffer[line_end + 2 : end + 2]
        return buffer[line_end : end + 2].replace(_STUFFED, b"\r\n.")[2:]

    def _next_reply(self) -> Reply | None:
        end = self._buffer.find(b"\r\n", self._start)
        if (len(self._buffer) if end < 0 else end) - self._start > LINE_LIMIT:
            raise ServerFault(self._server, f"a status line of more than {LINE_LIMIT} bytes")
        if end < 0:
            return None
        line = self._buffer[self._start : end]
        ok = line[:3].upper() == b"+OK"
        if not self._expected or not (ok or line[:4].upper() == b"-ERR"):
            raise ServerFault(self._server, f"it said, out of turn: {_shown(line)}")
        verb, multiline = self._expected.popleft()
        if ok and multiline:
            self._begin_body(end)
        else:
            self._start = end + 2
        return Reply(verb, ok, line[3 if ok else 4 :].decode("utf-8", "replace").strip())

    def _begin_body(self, end_of_line: int) -> None:
        # The CRLF of the status line stays in the buffer, so that the first line of the body is
        # a line after CRLF like any other: it may be stuffed, or be the terminator.
        self._in_body = True
        self._start = self._scanned = end_of_line
        self._skip = 2

    def _next_body(self) -> Body | None:
        end = self._buffer.find(_TERMINATOR, self._scanned)
        if end >= 0:
            data = self._take(end + 2)
            self._start = end + len(_TERMINATOR)
            self._in_body = False
            return Body(data, last=True)
        if self.buffered < CHUNK:
            self._scanned = max(self._start, len(self._buffer) - len(_TERMINATOR) + 1)
            return None
        data = self._take(len(self._buffer) - self._undecided())
        self._scanned = self._start
        return Body(data, last=False)

    def _undecided(self) -> int:
        """How many bytes at the end may turn out to be a stuffed dot or the terminator."""
        return next((len(p) for p in _PREFIXES if self._buffer.endswith(p)), 0)

    def _take(self, end: int) -> bytes:
        start, skip = self._start, self._skip
        self._start, self._skip = end, 0
        if self._buffer.find(_STUFFED, start, end) < 0:
            return self._buffer[start + skip : end]
        return self._buffer[start:end].replace(_STUFFED, b"\r\n.")[skip:]


def _shown(line: bytes) -> str:
    return printable(line.decode("utf-8", "replace"))
