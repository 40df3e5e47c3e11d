"""SMTP and LMTP, as the courier for mail servers has them: sessions, and mail sent over them."""

from __future__ import annotations

from collections.abc import Sequence

from services.deliverer.courier import CourierResult, MailObject
from services.deliverer.servers.protocol import Following
from services.deliverer.smtp.handshake import no_answer, open_session
from services.deliverer.smtp.prefetch import prefetched
from services.deliverer.smtp.session import SmtpSession
from services.deliverer.smtp.target import Target
from services.deliverer.smtp.transaction import transact
from shared.errors import Unreachable


class SmtpProtocol:
    """How to talk to one SMTP or LMTP server; ``MailProtocol`` says what the methods do.

    Args:
        target: the server.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.server = target.server

    async def open(self) -> SmtpSession:
        """Connect, begin TLS and log in."""
        return await open_session(self.target)

    def no_answer(self, seconds: float) -> Unreachable:
        """Return the error for a server that lets nobody in."""
        return no_answer(self.target, seconds)

    def together(
        self, session: SmtpSession, first: MailObject, count: int, other: MailObject
    ) -> bool:
        """Return False: each has a transaction of its own."""
        return False

    async def send(
        self, session: SmtpSession, mail_objects: Sequence[MailObject], following: Following
    ) -> Sequence[CourierResult]:
        """Send one mail object."""
        (mail_object,) = mail_objects
        if mail_object.content.data is not None:
            return [await transact(session, mail_object, following)]
        async with prefetched(mail_object) as begun:
            return [await transact(session, begun, following)]
