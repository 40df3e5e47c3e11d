"""The protocol with its dialogue told, for ``--debug``: what is said, less secrets and mail.

It stands in the place of ``Pop3``. Listings are told line by line, the first of them; of messages
and their headers there is the count of bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.fetcher.pop3.protocol import LINE_LIMIT, Body, Pop3, Pop3Event, Pop3Reply
from shared.errors import ServerFault
from shared.network.dialogue import Dialogue
from shared.redaction.known_secrets import HIDDEN

LISTED: Final = 1_000
"""Lines of a listing that are told."""

_MAIL: Final = ("RETR", "TOP")


class TracedPop3:
    """A ``Pop3`` that tells; see there for what the methods do.

    Args:
        pop3: does the work.
        dialogue: takes what is said.
    """

    def __init__(self, pop3: Pop3, dialogue: Dialogue) -> None:
        self._pop3 = pop3
        self._dialogue = dialogue
        self._verb = ""
        self._size = 0
        self._listing = b""
        self._lines = self._told = 0

    @property
    def outstanding(self) -> int:
        """See ``Pop3.outstanding``."""
        return self._pop3.outstanding

    @property
    def buffered(self) -> int:
        """See ``Pop3.buffered``."""
        return self._pop3.buffered

    @property
    def idle(self) -> bool:
        """See ``Pop3.idle``."""
        return self._pop3.idle

    @property
    def ahead(self) -> bool:
        """See ``Pop3.ahead``."""
        return self._pop3.ahead

    @property
    def proven(self) -> bool:
        """See ``Pop3.proven``."""
        return self._pop3.proven

    @property
    def awaited(self) -> str:
        """See ``Pop3.awaited``."""
        return self._pop3.awaited

    @property
    def ends_bare(self) -> bool:
        """See ``Pop3.ends_bare``."""
        return self._pop3.ends_bare

    def send(self, verb: str, *arguments: str | int) -> bytes:
        """See ``Pop3.send``."""
        line = self._pop3.send(verb, *arguments)
        if verb == "PASS":
            arguments = (HIDDEN,)
        self._dialogue.client(" ".join((verb, *map(str, arguments))))
        return line

    def send_each(self, verb: str, numbers: Sequence[int]) -> bytes:
        """See ``Pop3.send_each``."""
        lines = self._pop3.send_each(verb, numbers)
        for line in lines.decode().splitlines():
            self._dialogue.client(line)
        return lines

    def receive_data(self, data: bytes) -> None:
        """See ``Pop3.receive_data``."""
        self._pop3.receive_data(data)

    def next_event(self) -> Pop3Event | None:
        """See ``Pop3.next_event``."""
        try:
            event = self._pop3.next_event()
        except ServerFault as error:
            self._dialogue.note(error.said)
            raise
        if isinstance(event, Pop3Reply):
            self._verb, self._size, self._listing = event.verb, 0, b""
            self._lines = self._told = 0
            self._dialogue.server(f"{'+OK' if event.ok else '-ERR'} {event.text}".rstrip())
        elif isinstance(event, Body):
            self._tell(event)
        return event

    def next_whole(self) -> bytes | None:
        """Return None: then it comes by ``next_event``, and is told."""
        return None

    def may_be_over(self, size: int) -> bool:
        """See ``Pop3.may_be_over``."""
        return self._pop3.may_be_over(size)

    def framed(self, size: int, *, over: bool = False) -> bytes | None:
        """See ``Pop3.framed``."""
        whole = self._pop3.framed(size, over=over)
        if whole is not None:
            self._tell(Body(whole, last=True))
        return whole

    def _tell(self, body: Body) -> None:
        self._size += len(body.data)
        if self._verb not in _MAIL:
            self._lines += body.data.count(b"\n")
            if self._told < LISTED:
                self._tell_lines(body)
        if not body.last:
            return
        if self._verb in _MAIL:
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
