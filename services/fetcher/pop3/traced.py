"""The protocol with its dialogue told, for ``--debug``: what is said, less secrets and mail.

Listings are told line by line, the first of them; of messages and their headers there is the count
of bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.fetcher.pop3.protocol import LINE_LIMIT, Body, Pop3, Pop3Event, Pop3Reply
from shared.errors import ServerFault
from shared.network.dialogue import Dialogue
from shared.redaction.known_secrets import HIDDEN
from shared.redaction.redaction import NOTHING, Redaction

LISTED: Final = 1_000
"""Lines of a listing that are told."""

_MAIL: Final = ("RETR", "TOP")
_SECRET: Final = ("PASS", "APOP")
"""Commands whose last argument is not told."""


class TracedPop3(Pop3):
    """A ``Pop3`` that tells what is said; what its methods do is described there.

    Args:
        server: its name in errors, as ``host:port``.
        dialogue: takes what is said.
        bare_ends: see ``Pop3``.
        redaction: hides the password in what the server says.
    """

    def __init__(
        self,
        server: str,
        dialogue: Dialogue,
        *,
        bare_ends: bool = False,
        redaction: Redaction = NOTHING,
    ) -> None:
        super().__init__(server, bare_ends=bare_ends, redaction=redaction)
        self._dialogue = dialogue
        self._answers = ""  # the verb that is being answered
        self._size = 0
        self._listing = b""
        self._lines = self._told = 0

    def send(self, verb: str, *arguments: str | int) -> bytes:
        """Return the line of a command, and tell it."""
        line = super().send(verb, *arguments)
        if verb in _SECRET:
            arguments = (*arguments[:-1], HIDDEN)
        self._dialogue.client(" ".join((verb, *map(str, arguments))))
        return line

    def answer(self, said: bytes) -> bytes:
        """Return the line of an answer to a challenge, and tell that there is one."""
        self._dialogue.client(HIDDEN)
        return super().answer(said)

    def send_each(self, verb: str, numbers: Sequence[int]) -> bytes:
        """Return the lines of these commands, and tell them."""
        lines = super().send_each(verb, numbers)
        for line in lines.decode().splitlines():
            self._dialogue.client(line)
        return lines

    def next_event(self) -> Pop3Event | None:
        """Return the next event, and tell it, or why there is none."""
        try:
            event = super().next_event()
        except ServerFault as error:
            self._dialogue.note(error.said)
            raise
        if isinstance(event, Pop3Reply):
            self._answers, self._size, self._listing = event.verb, 0, b""
            self._lines = self._told = 0
            begins = "+" if event.goes_on else "+OK" if event.ok else "-ERR"
            self._dialogue.server(f"{begins} {event.text}".rstrip())
        elif isinstance(event, Body):
            self._tell(event)
        return event

    def next_whole(self) -> bytes | None:
        """Return None: then it comes by ``next_event``, and is told."""
        return None

    def take_framed(self, size: int, *, over: bool = False) -> bytes | None:
        """Return a message by its size, and tell how long it is."""
        whole = super().take_framed(size, over=over)
        if whole is not None:
            self._tell(Body(whole, last=True))
        return whole

    def _tell(self, body: Body) -> None:
        self._size += len(body.data)
        if self._answers not in _MAIL:
            self._lines += body.data.count(b"\n")
            if self._told < LISTED:
                self._tell_lines(body)
        if not body.last:
            return
        if self._answers in _MAIL:
            self._dialogue.server_bytes(self._size)
        if self._lines > self._told:
            self._dialogue.note(f"and {self._lines - self._told} more lines")
        self._dialogue.server(".")

    def _tell_lines(self, body: Body) -> None:
        """Tell the lines that have come whole, as long as they are not too many."""
        *whole, self._listing = (self._listing + body.data).split(b"\n")
        if body.last and self._listing:
            whole.append(self._listing)
        self._listing = self._listing[:LINE_LIMIT]
        for line in whole[: LISTED - self._told]:
            self._dialogue.server(line[:LINE_LIMIT].decode("utf-8", "replace").rstrip("\r"))
            self._told += 1
