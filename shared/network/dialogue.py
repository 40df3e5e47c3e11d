"""Tells what is said between us and a server, line by line, less secrets and mail: for ``--debug``.

A line is told as ``C: RETR 3`` or ``S: +OK 120 octets``, escaped; of a message there is but the
count of its bytes. What must not be seen is hidden wherever it comes again, for some servers repeat
what they were sent. Where nobody listens there is no Dialogue, and it costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from shared.log import printable
from shared.redaction.redaction import NOTHING, Redaction

TakeLine: TypeAlias = Callable[[str], None]
"""Takes one line of a dialogue, such as what ``MailLog.dialogue`` returns."""

TraceFor: TypeAlias = Callable[[int], TakeLine | None]
"""Returns what takes the dialogue of a connection, given a number to tell it from the others; None
where nobody listens any more."""


class Dialogue:
    """One conversation with one server.

    Args:
        tell: takes each line.
        redaction: hides the password.
    """

    def __init__(self, tell: TakeLine, redaction: Redaction = NOTHING) -> None:
        self._tell = tell
        self._redaction = redaction

    def client(self, line: str) -> None:
        """Tell a line that we send, given without its line end."""
        self._tell(f"C: {self._shown(line)}")

    def server(self, line: str) -> None:
        """Tell a line that the server sends, given without its line end."""
        self._tell(f"S: {self._shown(line)}")

    def client_bytes(self, count: int) -> None:
        """Tell that we send so many bytes of mail."""
        self._tell(f"C: <bytes {count}>")

    def server_bytes(self, count: int) -> None:
        """Tell that the server sends so many bytes of mail."""
        self._tell(f"S: <bytes {count}>")

    def note(self, what: str) -> None:
        """Tell something that neither side says: connected, TLS."""
        self._tell(f"# {self._shown(what)}")

    def _shown(self, text: str) -> str:
        return printable(self._redaction.hidden(text))
