"""Replies of a mail server (RFC 5321 section 4.2), and the reader that makes them of bytes.

It does no I/O and trusts no server: a reply has a limit, and what is shown of it is escaped.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final, NamedTuple

from services.deliverer.servers.reader import Malformed
from shared.log import printable
from shared.redaction.redaction import NOTHING, Redaction


class SmtpStep(Enum):
    """Where in a session a reply is given.

    Attributes:
        phrase: completes "said to ...".
        seconds: how long to wait for the reply (RFC 5321 section 4.5.3.2, where it says).
    """

    GREETING = ("the connection", 300.0)
    HELLO = ("EHLO", 300.0)
    STARTTLS = ("STARTTLS", 120.0)
    AUTH = ("AUTH", 300.0)
    MAIL = ("MAIL", 300.0)
    RCPT = ("RCPT", 300.0)
    DATA = ("DATA", 120.0)
    END = ("the end of DATA", 600.0)
    RSET = ("RSET", 300.0)

    def __init__(self, phrase: str, seconds: float) -> None:
        self.phrase = phrase
        self.seconds = seconds


_ENHANCED: Final = re.compile(r"([245])\.(\d{1,3}\.\d{1,3})(?:\s|$)")
_SHOWN_LINES: Final = 10


class SmtpReply(NamedTuple):
    """A reply of a mail server.

    Attributes:
        code: the three digits.
        lines: the text of each line, after the code and the space or hyphen.
        redaction: hides the password, where we log in.
    """

    code: int
    lines: tuple[bytes, ...]
    redaction: Redaction = NOTHING

    @property
    def bad(self) -> bool:
        """Whether it tells of trouble: whoever waits for several replies hears of it at once."""
        return self.code >= 400

    @property
    def text(self) -> str:
        """What may be shown: the words, less the password."""
        return self.words if self.redaction is NOTHING else self._printable(self.redaction)

    @property
    def words(self) -> str:
        """The lines as one, to tell what is meant; the enhanced code of a first line leads."""
        return self._printable(NOTHING)

    @property
    def codes(self) -> str:
        """The reply code, and the enhanced one, where there is one."""
        enhanced = _ENHANCED.match(self.lines[0].decode("utf-8", "replace").strip())
        return str(self.code) if enhanced is None else f"{self.code} {enhanced[0].strip()}"

    def _printable(self, redaction: Redaction) -> str:
        texts = [line.decode("utf-8", "replace").strip() for line in self.lines[:_SHOWN_LINES]]
        enhanced = _ENHANCED.match(texts[0])
        if enhanced is not None:  # it stands on every line
            again = enhanced[0].strip()
            texts[1:] = [text.removeprefix(again).lstrip() for text in texts[1:]]
        return printable(redaction.hidden(" ".join(texts))).strip()

    def sentence(self, server: str, step: SmtpStep) -> str:
        """Return the reply as a sentence that names who said it, and to what."""
        return f"{self.code} {self.text} (said by {server} to {step.phrase})"


_LINE: Final = re.compile(rb"(\d{3})(?:([ -])(.*))?$", re.DOTALL)


_OTHERS: Final = {
    b"+OK": " (POP3 is spoken there: is the port right?)",
    b"* OK": " (IMAP is spoken there: is the port right?)",
    b"HTTP/": " (HTTP is spoken there: is the port right?)",
    b"SSH-": " (SSH is spoken there: is the port right?)",
    b"\x15\x03": " (TLS is spoken there from the first byte on: is smtps:// meant?)",
}


class ReplyReader:
    """Turns bytes from a server into replies; it does no I/O. Bounded against hostile servers.

    Args:
        redaction: hides the password in what is shown.

    Attributes:
        quotes: whether to tell what a server says that is no reply.
    """

    LIMIT: Final = 64 * 1024
    """Bytes that one reply may have."""

    def __init__(self, redaction: Redaction = NOTHING) -> None:
        self.quotes = True
        self._redaction = redaction
        self._rest = b""  # a line that has only begun
        self._lines: list[bytes] = []  # of a reply that has only begun
        self._size = 0

    @property
    def clean(self) -> bool:
        """Whether it holds nothing of a reply that has only begun."""
        return not self._rest and not self._lines

    def feed(self, data: bytes) -> list[SmtpReply]:
        """Take bytes in; return the replies completed by them.

        Raises:
            Malformed: the bytes are not SMTP replies, or a reply is too long.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        replies = []
        for line in lines:
            code = self._take(line.removesuffix(b"\r"))
            if code is not None:
                replies.append(SmtpReply(code, tuple(self._lines), self._redaction))
                self._lines, self._size = [], 0
        if self._size + len(self._rest) > self.LIMIT:
            raise Malformed(f"it sent a reply of more than {self.LIMIT} bytes")
        return replies

    def _take(self, line: bytes) -> int | None:
        """Add a line; return the code of the reply if this was its last line."""
        parts = _LINE.match(line)
        if parts is None:
            shown = printable(self._redaction.hidden(line.decode("latin-1")), 100)
            what = next((what for begin, what in _OTHERS.items() if line.startswith(begin)), "")
            quoted = f": {shown}" if self.quotes else ""
            raise Malformed(f"it sent something that is not an SMTP reply{what}{quoted}")
        self._lines.append(parts[3] or b"")
        self._size += len(line)
        return None if parts[2] == b"-" else int(parts[1])
