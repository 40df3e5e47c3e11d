"""The POP3 client protocol (RFC 1939, 2449, 2595) without any I/O.

Commands go out as bytes from ``send``; what the server says comes in through ``receive_data``, in
pieces of any size, and leaves as events from ``next_event``. Replies are matched to commands by
their order alone, so any number of commands may be outstanding.

It trusts nothing but that order. A status line may end in a bare line feed, and blank lines before
it are passed over. A multi-line response ends as its status line did: after CRLF at CRLF "." CRLF
only, for a dot between bare line feeds is content then; after LF at a dot alone on a line. A status
line that is none, that is too long, or that nobody asked for is a ServerFault, and every later call
fails like it; where commands had been sent together it is a PromiseBroken, for then nobody knows
which answer is missing or out of place.

Known limit: where a dot on a line of its own is not stuffed, the rest of that message is out of
turn; if that rest reads like replies, it is taken for them. Where the size is known,
``take_framed`` reads such a message, and one whose final dot is glued to the text or lost.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from shared.errors import NoAnswer, PromiseBroken, ServerFault
from shared.log import printable
from shared.redaction.redaction import NOTHING, Redaction

LINE_LIMIT: Final = 64 * 1024
"""Bytes of a status line, its CRLF left out."""

CHUNK: Final = 64 * 1024
"""Bytes of a multi-line response that are held back in the hope of its end."""

GREETING: Final = "greeting"
"""The verb of the reply that the server gives before any command."""

AUTH: Final = "AUTH"
"""The verb after which a server may go on with a challenge (RFC 5034 section 4)."""

_TERMINATOR: Final = b"\r\n.\r\n"
_STUFFED: Final = b"\r\n.."
_DOTTED: Final = re.compile(rb"\r\n\.")
FORBIDDEN: Final = re.compile(r"[\r\n\0]")
"""What no argument of a command may hold."""

_CR: Final = ord("\r")
_BLANK: Final = (b" ", b"\t", b"\r", b"\n")
_BLANKS: Final = re.compile(rb"[ \t\r\n]*")
_RESPONSE_CODE: Final = re.compile(r"\[([A-Z]+(?:[-/][A-Z]+)*)\]", re.IGNORECASE)
_MULTILINE: Final = frozenset(
    {("CAPA", False), ("LIST", False), ("UIDL", False), ("RETR", True), ("TOP", True)}
)
"""Verb, and whether it has an argument, of the commands with a multi-line response to +OK."""


class _Ends(NamedTuple):
    """How the lines of a multi-line response end.

    Attributes:
        line: the end of a line.
        terminators: what ends the response, the longest first.
        prefixes: what may turn out to be a terminator or a stuffed dot, the longest first.
    """

    line: bytes
    terminators: tuple[bytes, ...]
    prefixes: tuple[bytes, ...]


_CRLF: Final = _Ends(b"\r\n", (_TERMINATOR,), tuple(_TERMINATOR[:n] for n in (4, 3, 2, 1)))
_LF: Final = _Ends(b"\n", (b"\n.\r\n", b"\n.\n"), (b"\n.\r", b"\n.", b"\n"))


@dataclass(frozen=True, slots=True)
class Pop3Reply:
    """A status line.

    Attributes:
        verb: of the command that it answers, or GREETING.
        ok: whether it is +OK.
        text: what follows the status indicator; hostile, not yet fit to be shown. Of -ERR it is
            less the password; of +OK it is for numbers to be read, and to be shown by
            ``Pop3Client.printable_text`` alone. Of a challenge it is base64.
        goes_on: it is a challenge, and no end of the exchange.
    """

    verb: str
    ok: bool
    text: str
    goes_on: bool = False

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


Pop3Event: TypeAlias = Pop3Reply | Body


class Pop3:
    """The client's side of one POP3 connection.

    Args:
        server: its name in errors, as ``host:port``.
        bare_ends: every multi-line response ends at a dot alone on a line, whatever ends the lines.
        redaction: hides the password in what the server says.

    Attributes:
        ahead: whether commands have been sent together since nothing was outstanding last.
        proven: whether commands sent together have all been answered before, after the login. Not
            those of the login: a proxy may take them that knows more than the server behind it.
    """

    def __init__(
        self, server: str, *, bare_ends: bool = False, redaction: Redaction = NOTHING
    ) -> None:
        self._server = server
        self._redaction = redaction
        self._bare_ends = bare_ends
        self._expected: deque[tuple[str, bool]] = deque([(GREETING, False)])
        self._buffer = b""
        self._start = 0  # the first byte of the buffer that no event has taken yet
        self._scanned = 0  # no terminator begins before this byte of the buffer
        self._in_body = False
        self._verb = ""
        self._skip = 0  # bytes at the start that belong to the status line
        self._ends = _CRLF
        self._blanks = 0  # bytes passed over since the last reply
        self.ahead = False
        self.proven = False

    @property
    def outstanding(self) -> int:
        """How many replies, or ends of replies, are still to come."""
        return len(self._expected) + self._in_body

    @property
    def buffered(self) -> int:
        """How many bytes have been received and not yet become events."""
        return len(self._buffer) - self._start

    @property
    def idle(self) -> bool:
        """Whether nothing is to come, and nothing has come that is not read but blank lines."""
        return not self.outstanding and not self._buffer[self._start :].strip()

    @property
    def awaited(self) -> str:
        """What comes next, in words."""
        if self._in_body:
            return f"the rest of the answer to {self._verb}"
        verb = self._expected[0][0] if self._expected else "nothing"
        return "the greeting" if verb == GREETING else f"the answer to {verb}"

    @property
    def ends_bare(self) -> bool:
        """Whether a multi-line response stands at what would end it, if its lines ended in LF."""
        tail = self._buffer[max(self._start, len(self._buffer) - len(_TERMINATOR)) :]
        return self._in_body and not self._bare_ends and tail.endswith(_LF.terminators)

    def send(self, verb: str, *arguments: str | int) -> bytes:
        """Return the line of a command, and expect its reply after those still outstanding.

        Raises:
            ValueError: an argument holds CR, LF or NUL.
            ServerFault: the server has said something that nobody asked for.
        """
        for argument in arguments:
            if FORBIDDEN.search(str(argument)):
                raise ValueError(f"a line break or NUL in the argument of {verb}")
        self._begin(1)
        self._expected.append((verb, (verb, bool(arguments)) in _MULTILINE))
        return (" ".join((verb, *map(str, arguments))) + "\r\n").encode()

    def answer(self, said: bytes) -> bytes:
        """Return the line of an answer to a challenge, in base64, and expect what follows."""
        self._begin(1)
        self._expected.append((AUTH, False))
        return said + b"\r\n"

    def send_each(self, verb: str, numbers: Sequence[int]) -> bytes:
        """Return a command for each of these numbers; like as many calls of ``send``, in one.

        TOP asks for no lines of the body.
        """
        self._begin(len(numbers))
        self._expected.extend([(verb, (verb, True) in _MULTILINE)] * len(numbers))
        end = " 0\r\n" if verb == "TOP" else "\r\n"
        return "".join([f"{verb} {number}{end}" for number in numbers]).encode()

    def receive_data(self, data: bytes) -> None:
        """Take what the server sent, in pieces of any size."""
        self._buffer = self._buffer[self._start :] + data
        self._scanned -= self._start
        self._start = 0

    def next_event(self) -> Pop3Event | None:
        """Return the next event, or None where it takes more data to tell.

        Raises:
            ServerFault: the server broke the protocol.
        """
        return self._next_body() if self._in_body else self._next_reply()

    def next_whole(self) -> bytes | None:
        """Return the next multi-line response without its status line, if all of it has arrived.

        None where it has not, or is refused, or where something else comes next: ``next_event``
        then goes on as if this had not been called. It is a short cut for the many small messages
        of a maildrop, with lines that end in CRLF, and saves two events for each.
        """
        buffer, start = self._buffer, self._start
        if self._in_body or self._bare_ends or not self._expected or not self._expected[0][1]:
            return None
        if buffer[start : start + 3].upper() != b"+OK":
            return None
        line_end = buffer.find(b"\n", start, start + LINE_LIMIT + 2) - 1
        if line_end < 0 or buffer[line_end] != _CR:
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

    def may_be_over(self, size: int) -> bool:
        """Whether a message of this size that is being read may have ended, however badly."""
        return self._at_terminator() or self._over_by(size) in (0, 1, 3)

    def take_framed(self, size: int, *, over: bool = False) -> bytes | None:
        """Return all of a message that is being read, if it ends here by its size; None if not yet.

        For a message that did not end as it should when it was read the common way: a dot alone on
        a line was not stuffed, or the last one is glued to the text or missing. Nothing of it may
        have been taken before, and no other answer may be due.

        Args:
            size: what LIST says of it.
            over: nothing more has come for a while: what may be the end is the end.
        """
        start = self._start + self._skip
        if self._at_terminator():
            raw = self._buffer[self._start : -len(b".\r\n")]
            # A dot alone on a line within: this server does not stuff, so nothing is undone.
            whole = raw if _TERMINATOR in raw else raw.replace(_STUFFED, b"\r\n.")
            whole = whole[self._skip :]
            return self._finish(whole) if over or size in (len(whole), len(raw) - 2) else None
        beyond = self._over_by(size)
        if not over or self._buffer.find(_STUFFED, self._start) >= 0:
            return None  # of what is stuffed, the bytes that have come say nothing
        if beyond == 0:
            return self._finish(self._buffer[start:])
        if beyond in (1, 3) and self._buffer.endswith(b".\r\n"):
            # LIST counts the end of the last line, or does not.
            return self._finish(self._buffer[start:-3] + (b"\r\n" if beyond == 1 else b""))
        return None

    def _at_terminator(self) -> bool:
        return self._buffer.endswith(_TERMINATOR, self._start)

    def _over_by(self, size: int) -> int:
        """Return how many bytes more than a message of this size have come of its response."""
        return len(self._buffer) - (self._start + self._skip) - size

    def _finish(self, whole: bytes) -> bytes:
        self._start = len(self._buffer)
        self._in_body = False
        return whole

    def _begin(self, commands: int) -> None:
        """Commands are about to be sent: nothing may have come that nobody asked for."""
        if not self.outstanding:
            if self.buffered:
                self._next_reply()
            self.proven = self.proven or self.ahead
            self.ahead = commands > 1
        else:
            self.ahead = True

    def _next_reply(self) -> Pop3Reply | None:
        self._pass_over_blanks()
        end = self._buffer.find(b"\n", self._start)
        if (len(self._buffer) if end < 0 else end) - self._start > LINE_LIMIT:
            raise self._fault(f"a status line of more than {LINE_LIMIT} bytes")
        if end < 0:
            return None
        line = self._buffer[self._start : end].removesuffix(b"\r")
        ok = line[:3].upper() == b"+OK"
        if line[:1] == b"+" and not ok and self._expected and self._expected[0][0] == AUTH:
            return self._challenge(line, end)
        if not self._expected or not (ok or line[:4].upper() == b"-ERR"):
            shown = printable(self._redaction.hidden(line.decode("utf-8", "replace")))
            kind = NoAnswer if self._expected else ServerFault
            raise self._fault(f"it said, out of turn: {shown}", kind)
        self._verb, multiline = self._expected.popleft()
        verb = self._verb
        self._blanks = 0
        if verb == "PASS":
            self.ahead = False  # the login is over, and proves nothing: see ``proven``
        if ok and multiline:
            self._begin_body(end)
        else:
            self._start = end + 1
        text = line[3 if ok else 4 :].decode("utf-8", "replace").strip()
        return Pop3Reply(verb, ok, text if ok else self._redaction.hidden(text))

    def _challenge(self, line: bytes, end: int) -> Pop3Reply:
        verb, _ = self._expected.popleft()
        self._start = end + 1
        return Pop3Reply(verb, False, line[1:].decode("latin-1").strip(), goes_on=True)

    def _pass_over_blanks(self) -> None:
        if self._buffer[self._start : self._start + 1] not in _BLANK:
            return
        found = _BLANKS.match(self._buffer, self._start)
        blanks = found.end() - self._start if found else 0
        self._start += blanks
        self._blanks += blanks
        if self._blanks > LINE_LIMIT:
            raise self._fault("nothing but blank lines")

    def _fault(self, said: str, kind: type[ServerFault] = ServerFault) -> ServerFault:
        if self.ahead:
            return PromiseBroken(self._server, said, "no_pipelining")
        return kind(self._server, said)

    def _begin_body(self, end_of_line: int) -> None:
        # The end of the status line stays in the buffer, so that the first line of the body is
        # a line after an end of line like any other: it may be stuffed, or be the terminator.
        self._in_body = True
        crlf = self._buffer[end_of_line - 1] == _CR and not self._bare_ends
        self._ends = _CRLF if crlf else _LF
        self._skip = len(self._ends.line)
        self._start = self._scanned = end_of_line + 1 - self._skip

    def _next_body(self) -> Body | None:
        end, length = self._end()
        if end >= 0:
            data = self._take(end + len(self._ends.line))
            self._start = end + length
            self._in_body = False
            return Body(data, last=True)
        if self.buffered < CHUNK:
            self._scanned = max(self._start, len(self._buffer) - len(_TERMINATOR) + 1)
            return None
        data = self._take(len(self._buffer) - self._undecided())
        self._scanned = self._start
        return Body(data, last=False)

    def _end(self) -> tuple[int, int]:
        """Return where the response ends, -1 if not yet, and the length of what ends it."""
        if self._ends is _CRLF:
            return self._buffer.find(_TERMINATOR, self._scanned), len(_TERMINATOR)
        found = [(self._buffer.find(t, self._scanned), len(t)) for t in self._ends.terminators]
        return min([(at, length) for at, length in found if at >= 0], default=(-1, 0))

    def _undecided(self) -> int:
        """How many bytes at the end may turn out to be a stuffed dot or the terminator."""
        return next((len(p) for p in self._ends.prefixes if self._buffer.endswith(p)), 0)

    def _take(self, end: int) -> bytes:
        start, skip, line = self._start, self._skip, self._ends.line
        self._start, self._skip = end, 0
        if self._buffer.find(line + b"..", start, end) < 0:
            return self._buffer[start + skip : end]
        return self._buffer[start:end].replace(line + b"..", line + b".")[skip:]
