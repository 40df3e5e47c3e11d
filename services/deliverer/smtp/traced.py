"""A connection that reports its dialogue, for ``--debug``, without secrets and mail.

It takes the place of a ``Connection`` and reads along: after 354 come bytes of a message,
up to a dot alone on its line, and after 334 comes a secret. Of a message there is the count of its
bytes, and of what is answered to AUTH the code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from services.deliverer.servers.connection import Connection
from services.deliverer.smtp.reply import ReplyReader, SmtpReply
from services.deliverer.smtp.target import SETTING_NAMES
from shared.network.dialogue import Dialogue, TraceFor
from shared.redaction.known_secrets import HIDDEN
from shared.redaction.redaction import NOTHING, Redaction

_END: Final = b"\r\n.\r\n"


class TracedConnection(Connection[SmtpReply]):
    """A ``Connection`` that reports; see there for what the methods do.

    Args:
        server: what it connects to.
        listen: returns what takes the lines, given our port of the connection.
        redaction: hides the password in what the server says.
    """

    def __init__(self, server: str, listen: TraceFor, redaction: Redaction = NOTHING) -> None:
        reader = _TracedReader(self._trace_reply, redaction)
        super().__init__(server, reader, SETTING_NAMES)
        self._listen = listen
        self._redaction = redaction
        self._dialogue: Dialogue | None = None
        self._mail: bytes | None = None  # the last bytes of a message, while one is sent
        self._sent = 0  # bytes of it
        self._secret = False  # the next line is one

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``Connection.connection_made``."""
        super().connection_made(transport)
        name = transport.get_extra_info("sockname")
        tell = self._listen(name[1] if isinstance(name, tuple) else 0)
        if tell is None:
            return
        self._dialogue = Dialogue(tell, self._redaction)
        self._dialogue.note(f"connected to {self.server}")

    def write(self, data: bytes) -> None:
        """See ``Connection.write``."""
        super().write(data)
        self._trace_sent(data)

    def close(self, farewell: bytes = b"") -> None:
        """See ``Connection.close``."""
        if self.usable:
            self._trace_sent(farewell)
        super().close(farewell)

    def _mark_lost(self, why: str) -> None:
        if self.usable and self._dialogue is not None:
            self._dialogue.note(why)
        super()._mark_lost(why)

    def _trace_sent(self, data: bytes) -> None:
        """Report what we send."""
        if self._dialogue is None:
            return
        rest = self._skip_message(data, self._dialogue)
        for line in rest.split(b"\r\n")[:-1]:
            self._trace_command(line, self._dialogue)

    def _skip_message(self, data: bytes, dialogue: Dialogue) -> bytes:
        """Count what is of a message; return what comes after it."""
        if self._mail is None:
            return data
        held = self._mail + data
        end = held.find(_END)
        if end < 0:
            self._sent += len(data)
            self._mail = held[-len(_END) + 1 :]
            return b""
        rest = held[end + len(_END) :]
        dialogue.client_bytes(self._sent + len(data) - len(rest))
        self._mail = None
        return rest

    def _trace_command(self, line: bytes, dialogue: Dialogue) -> None:
        words = line.split(b" ")
        if self._secret:
            dialogue.client(HIDDEN)
        elif words[0].upper() == b"AUTH" and len(words) > 2:
            dialogue.client(f"{b' '.join(words[:2]).decode('utf-8', 'replace')} {HIDDEN}")
        else:
            dialogue.client(line.decode("utf-8", "replace"))
        self._secret = False

    def _trace_reply(self, reply: SmtpReply) -> None:
        """Report what the server says, and note what it asks for."""
        if self._dialogue is not None:
            lines = [line.decode("utf-8", "replace") for line in reply.lines]
            *first, last = lines if self._reader.quotes else [HIDDEN]
            for line in first:
                self._dialogue.server(f"{reply.code}-{line}")
            self._dialogue.server(f"{reply.code} {last}".rstrip())
        if reply.code == 354:
            self._mail, self._sent = b"\r\n", 0  # a dot may be the first line
        self._secret = reply.code == 334


class _TracedReader(ReplyReader):
    """A reader that reports each reply."""

    def __init__(self, tell: Callable[[SmtpReply], None], redaction: Redaction) -> None:
        super().__init__(redaction)
        self._tell = tell

    def feed(self, data: bytes) -> list[SmtpReply]:
        """See ``ReplyReader.feed``."""
        replies = super().feed(data)
        for reply in replies:
            self._tell(reply)
        return replies
