"""An open session with a mail server: what may be sent over it, and how long to wait.

SMTP (RFC 5321) and LMTP (RFC 2033) are the same here. It knows no command; how it comes about is
told in ``handshake``, and what mail is sent over it in ``transaction``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from services.deliverer.courier import MailObject
from services.deliverer.servers.connection import Connection
from services.deliverer.smtp.reply import SmtpReply, SmtpStep
from services.deliverer.smtp.target import Target

BLOCK_TIMEOUT: Final = 180.0
"""Seconds for a block of a message to go out (RFC 5321 section 4.5.3.2.5)."""

_TAKES_ALL: Final = re.compile(rb"\b(Dovecot|Cyrus|Postfix)\b", re.IGNORECASE)
"""Servers known to read on where a message ends. Perl's Net::Server::Mail, for one, offers
PIPELINING over LMTP, and takes what comes along with the final dot for text of that message."""


class SmtpSession:
    """An open session.

    Attributes:
        server: what logs and errors call the server.
        lmtp: whether it speaks LMTP.
        keep_delivered_to: as of ``Target``.
        extensions: what EHLO offered: upper-case keywords and their parameters.
        unfinished: a mail transaction has begun and not ended; RSET comes before the next, unless
            it is that of the mail object that was announced.
        announced: the mail object of which the envelope has been sent already, with the end of the
            one before it.
        announced_why: why that was with the null sender in place of its own; None if it was not.
        served: how many transactions it has had.
        carried: how many messages the server has taken over it.
        quirks: what is known of the server.
    """

    def __init__(self, target: Target, connection: Connection[SmtpReply]) -> None:
        self.server = target.server
        self.lmtp = target.lmtp
        self.keep_delivered_to = target.keep_delivered_to
        self.connection = connection
        self.extensions: Mapping[str, str] = {}
        self.unfinished = False
        self.announced: MailObject | None = None
        self.announced_why: str | None = None
        self.served = 0
        self.carried = 0
        self.quirks = target.quirks
        self._patience = target.patience
        self._together = False
        self._with_the_end = False

    @property
    def pipelines(self) -> bool:
        """Whether the commands of an envelope may go out together."""
        return self._together and self.quirks.pipelining.trusted

    @property
    def follows(self) -> bool:
        """Whether those of the next message may go out with the end of the one before."""
        return self._with_the_end and self.pipelines and self.quirks.following.trusted

    def begin(self, target: Target, greeting: SmtpReply) -> None:
        """Note what may be sent together, for all of the session; EHLO has been answered."""
        may = target.pipelining
        offered = "PIPELINING" in self.extensions and may != "none"
        self._together = offered and self.quirks.pipelining.trusted
        known = target.lmtp and _TAKES_ALL.search(greeting.lines[0]) is not None
        self._with_the_end = may == "full" or (may is None and known)

    async def read_reply(self, step: SmtpStep) -> SmtpReply:
        """Return the next reply.

        Raises:
            Unreachable: the connection broke, or there was none in time.
        """
        return await self.connection.read_reply(step.seconds * self._patience)

    async def read_replies(
        self, steps: Sequence[SmtpStep], seconds: float | None = None
    ) -> list[SmtpReply]:
        """Return the next replies to commands that were sent together: one of them at least.

        Args:
            steps: what these commands were.
            seconds: how long to wait, None for as long as is due to the first of them.

        Raises:
            Unreachable: the connection broke, or there was none in time.
        """
        wait = steps[0].seconds if seconds is None else min(seconds, steps[0].seconds)
        return await self.connection.read_replies(len(steps), wait * self._patience)

    async def command(self, line: bytes, step: SmtpStep, seconds: float | None = None) -> SmtpReply:
        """Send a command line, given without CRLF, and return the reply to it.

        Args:
            line: the command.
            step: what it is.
            seconds: how long to wait for the reply, None for as long as is due to it.

        Raises:
            Unreachable: the connection broke, or there was no reply in time.
        """
        self.connection.write(line + b"\r\n")
        (reply,) = await self.read_replies((step,), seconds)
        return reply

    async def drain(self) -> None:
        """Return once more of a message can be sent.

        Raises:
            Unreachable: the connection broke, or nothing could be sent in time.
        """
        await self.connection.drain(BLOCK_TIMEOUT * self._patience)

    def quit(self) -> None:
        """Say QUIT and close; the answer is not waited for."""
        self.connection.close(b"QUIT\r\n")
