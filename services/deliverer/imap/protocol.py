"""IMAP, as the courier for mail servers has it: sessions, and messages put into folders over them.

It is written here, and no library is used. imaplib, imapclient and aioimaplib (2.0.3) take a
message as bytes, whole, for the literal of an APPEND: so does each thread or task that has one of
30 MB in hand. imaplib and imapclient block, so that a delivery cannot be withdrawn but by leaving
its thread alone; aioimaplib has neither LITERAL+ nor MULTIAPPEND, and sets no limit to what a
server sends. Little of IMAP is needed: a dozen commands, and of the replies their status.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.deliverer.courier import CourierResult, MailObject
from services.deliverer.imap.append import put, put_together, same_folder
from services.deliverer.imap.handshake import no_answer, open_session
from services.deliverer.imap.session import ImapSession
from services.deliverer.imap.target import ImapTarget
from services.deliverer.servers.protocol import Following
from shared.errors import Unreachable

TOGETHER: Final = 32
"""Messages that go in one command at the most."""


class ImapProtocol:
    """How to talk to one IMAP server; ``MailProtocol`` says what the methods do.

    Args:
        target: the server.
    """

    def __init__(self, target: ImapTarget) -> None:
        self.target = target
        self.server = target.server

    async def open(self) -> ImapSession:
        """Connect, begin TLS and log in."""
        return await open_session(self.target)

    def no_answer(self, seconds: float) -> Unreachable:
        """Return the error for a server that lets nobody in."""
        return no_answer(self.target, seconds)

    def together(
        self, session: ImapSession, first: MailObject, count: int, other: MailObject
    ) -> bool:
        """Return whether they are small, new, and for the same folder, and the server takes it."""
        if "MULTIAPPEND" not in session.capabilities or count >= TOGETHER:
            return False
        fit = all(_is_small(session, each) for each in (first, other))
        return fit and same_folder(session, first, other)

    async def send(
        self, session: ImapSession, mail_objects: Sequence[MailObject], following: Following
    ) -> Sequence[CourierResult]:
        """Put messages into folders."""
        if len(mail_objects) > 1:
            return await put_together(session, mail_objects)
        return [await put(session, mail_objects[0])]


def _is_small(session: ImapSession, mail_object: MailObject) -> bool:
    content = mail_object.content
    return content.data is not None and content.size <= session.non_sync and not content.replay
