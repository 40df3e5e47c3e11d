"""Responses of an IMAP server (RFC 3501 section 7), and the reader that makes them of bytes.

It does no I/O and trusts no server: a line, a literal, a response and what is nested in it have
limits. What a delivery needs of a response is little (status, code, a few names and numbers), so
nothing else of the grammar is known here, and what cannot be read of it counts as not said.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, TypeAlias

from services.deliverer.servers.reader import Malformed
from shared.log import printable
from shared.redaction.redaction import NOTHING, Redaction

LINE_LIMIT: Final = 64 * 1024
"""Bytes of a line; lists of capabilities have some hundred."""

LIMIT: Final = 256 * 1024
"""Bytes of a response, its literals included."""

DEPTH: Final = 16
"""Lists within lists that are read."""

Value: TypeAlias = "bytes | list[Value] | None"
"""An atom or a string, NIL, or a list of these."""

_LITERAL: Final = re.compile(rb"~?\{(\d{1,10})\}$")
_STATUS: Final = re.compile(
    rb"(OK|NO|BAD|BYE|PREAUTH)\b *(?:\[([^\] ]{1,64})(?: ([^\]]*))?\])? ?(.*)",
    re.IGNORECASE | re.DOTALL,
)
_TOKEN: Final = re.compile(rb'[()]|"(?:[^"\\]|\\.)*"|[^ ()"]+|"', re.DOTALL)
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)

_OTHERS: Final = {
    b"+OK": " (POP3 is spoken there: is the port right?)",
    b"220": " (SMTP is spoken there: is the port right?)",
    b"HTTP/": " (HTTP is spoken there: is the port right?)",
    b"SSH-": " (SSH is spoken there: is the port right?)",
    b"\x15\x03": " (TLS is spoken there from the first byte on: is imaps:// meant?)",
}


class ImapResponse(NamedTuple):
    """A response: tagged, untagged (``*``), or a request to go on (``+``).

    Attributes:
        tag: ours, or ``*``, or ``+``.
        parts: what follows; text, and between two texts a literal.
    """

    tag: bytes
    parts: tuple[bytes, ...]

    @property
    def bad(self) -> bool:
        """Whether whoever waits for several is to hear of it at once; nobody does."""
        return False

    @property
    def text(self) -> bytes:
        """The first part: all there is, but for responses with literals."""
        return self.parts[0]

    def values(self) -> list[Value]:
        """Return what follows the tag as values, up to what cannot be read."""
        found: list[Value] = []
        open_: list[list[Value]] = [found]
        for index, part in enumerate(self.parts):
            if index % 2:
                open_[-1].append(part)
            elif not _read(part, open_):
                break
        return found


def _read(text: bytes, open_: list[list[Value]]) -> bool:
    """Add what a text says to the list that is open; return whether all of it could be read."""
    for found in _TOKEN.finditer(_LITERAL.sub(b"", text)):
        token = found[0]
        if token == b"(":
            if len(open_) > DEPTH:
                return False
            inner: list[Value] = []
            open_[-1].append(inner)
            open_.append(inner)
        elif token == b")":
            if len(open_) == 1:
                return False
            open_.pop()
        elif token == b'"':
            return False
        elif token.startswith(b'"'):
            open_[-1].append(_ESCAPED.sub(rb"\1", token[1:-1]))
        else:
            open_[-1].append(None if token.upper() == b"NIL" else token)
    return True


class ImapStatus(NamedTuple):
    """What a server answers to a command, or says by itself (section 7.1).

    Attributes:
        kind: ``OK``, ``NO``, ``BAD``, ``BYE`` or ``PREAUTH``.
        code: the response code, in capitals; "" where there is none.
        arguments: what follows that in its brackets.
        words: the text for people.
        redaction: hides the password, where we log in.
    """

    kind: str
    code: str
    arguments: bytes
    words: str
    redaction: Redaction = NOTHING

    @property
    def text(self) -> str:
        """All of it, as it may be shown: escaped, less the password."""
        arguments = f" {self.arguments.decode('latin-1')}" if self.arguments else ""
        code = f" [{self.code}{arguments}]" if self.code else ""
        words = self.redaction.hidden(f"{self.kind}{code} {self.words}")
        return printable(words.strip(), 300)


def status_of(response: ImapResponse, redaction: Redaction = NOTHING) -> ImapStatus | None:
    """Return the status that a response is; None for one with data."""
    found = _STATUS.match(response.text)
    if found is None:
        return None
    kind, code, arguments, words = found.groups(b"")
    return ImapStatus(
        kind.decode().upper(),
        code.decode("latin-1").upper(),
        arguments,
        words.decode("utf-8", "replace"),
        redaction,
    )


class ResponseReader:
    """Turns bytes from a server into responses; it does no I/O. Bounded against hostile servers.

    Args:
        redaction: hides the password in what is shown.

    Attributes:
        quotes: whether to tell what a server says that is no response.
    """

    def __init__(self, redaction: Redaction = NOTHING) -> None:
        self.quotes = True
        self._redaction = redaction
        self._held = bytearray()  # what no line or literal was made of yet
        self._searched = 0  # how far into it there is no line end
        self._parts: list[bytes] = []  # of a response that has only begun
        self._size = 0  # bytes of these
        self._literal: int | None = None  # bytes of the literal that comes now

    @property
    def clean(self) -> bool:
        """Whether it holds nothing of a response that has only begun."""
        return not self._held and not self._parts

    def feed(self, data: bytes) -> list[ImapResponse]:
        """Take bytes in; return the responses completed by them.

        Raises:
            Malformed: the bytes are not IMAP responses, or one is too long.
        """
        self._held += data
        responses = []
        while (part := self._next_part()) is not None:
            response = self._take(part)
            if response is not None:
                responses.append(response)
        return responses

    def _next_part(self) -> bytes | None:
        """Return the next line or literal, None before it has come whole."""
        if self._literal is not None:
            if len(self._held) < self._literal:
                return None
            return self._cut(self._literal, 0)
        end = self._held.find(b"\n", self._searched)
        if max(end, len(self._held) if end < 0 else 0) > LINE_LIMIT:
            raise Malformed(f"it sent a line of more than {LINE_LIMIT} bytes")
        if end < 0:
            self._searched = len(self._held)
            return None
        return self._cut(end, 1).removesuffix(b"\r")

    def _cut(self, length: int, beyond: int) -> bytes:
        part = bytes(self._held[:length])
        del self._held[: length + beyond]
        self._searched = 0
        return part

    def _take(self, part: bytes) -> ImapResponse | None:
        """Add a part; return the response if this was its last."""
        if not self._parts:
            self._require_response(part)
        self._parts.append(part)
        self._size += len(part)
        if self._literal is not None:
            self._literal = None
            return None
        announced = _LITERAL.search(part)
        if announced is not None:
            self._literal = int(announced[1])
        if self._size + (self._literal or 0) > LIMIT:
            raise Malformed(f"it sent a response of more than {LIMIT} bytes")
        if announced is not None:
            return None
        tag, _, rest = self._parts[0].partition(b" ")
        response = ImapResponse(tag, (rest, *self._parts[1:]))
        self._parts, self._size = [], 0
        return response

    def _require_response(self, line: bytes) -> None:
        if re.match(rb"(\*|\+|[A-Za-z0-9]+)( |$)", line) and not line.startswith(b"220 "):
            return
        shown = printable(self._redaction.hidden(line.decode("latin-1")), 100)
        what = next((what for begin, what in _OTHERS.items() if line.startswith(begin)), "")
        quoted = f": {shown}" if self.quotes else ""
        raise Malformed(f"it sent something that is not an IMAP response{what}{quoted}")
