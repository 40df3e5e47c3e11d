"""Tells what is said between us and a server, line by line, less secrets and mail: for ``--debug``.

A line is told as ``C: RETR 3`` or ``S: +OK 120 octets``, escaped; of a message there is but the
count of its bytes. What was hidden once is hidden wherever it comes again, for some servers repeat
what they were sent. Nothing of this costs anything where nobody listens: then there is no Dialogue.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeAlias

from shared.log import printable

Tell: TypeAlias = Callable[[str], None]
"""Takes one line of a dialogue, such as what ``MailLog.dialogue`` returns."""

HIDDEN: Final = "***"
"""What stands in place of a secret."""

WORD: Final = 6
"""Characters of a secret below which it may well be a part of another word."""


class Dialogue:
    """One conversation with one server.

    Args:
        tell: takes each line.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._secrets: list[re.Pattern[str]] = []

    def hide(self, secret: str) -> None:
        """Never show this from now on; a short one, where it stands by itself."""
        if secret:
            word = re.escape(secret)
            short = rf"(?<!\w){word}(?!\w)"
            self._secrets.append(re.compile(short if len(secret) < WORD else word))

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
        for secret in self._secrets:
            text = secret.sub(HIDDEN, text)
        return printable(text)
