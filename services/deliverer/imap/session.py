"""An open session with an IMAP server: commands out, replies in, and how long to wait for them.

How it comes about is told in ``handshake``, and what mail goes over it in ``append``. One command
is on its way at a time. A server may say anything at any time (RFC 3501 section 5.2): what was not
asked for is passed over, within limits, but for BYE.
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from services.deliverer.courier import Spent, Throttled
from services.deliverer.imap.folders import Naming
from services.deliverer.imap.reply_meaning import meaning
from services.deliverer.imap.response import ImapResponse, ImapStatus, status_of
from services.deliverer.imap.steps import ImapStep
from services.deliverer.imap.target import ImapTarget
from services.deliverer.servers.connection import Connection
from shared.errors import Unreachable
from shared.network.dialogue import Dialogue
from shared.redaction.known_secrets import HIDDEN
from shared.redaction.redaction import Redaction

BLOCK_TIMEOUT: Final = 180.0
"""Seconds for a block of a message to go out (as RFC 5321 section 4.5.3.2.5 has it)."""

NON_SYNC: Final = 64 * 1024
"""Bytes of a message that is sent without asking first (LITERAL+). A larger one is announced, so
that a server can refuse it before it comes; and some have limits of their own there."""

NON_SYNC_MINUS: Final = 4096
"""The same where LITERAL- is offered (RFC 7888 section 5)."""

_KEPT: Final = frozenset({b"SEARCH", b"LIST", b"NAMESPACE", b"ENABLED", b"EXISTS", b"FETCH"})
_MOST_KEPT: Final = 64
_MOST_SAID: Final = 10_000
"""Responses to one command; more, and it is up to something else."""


def _kind(response: ImapResponse) -> bytes:
    """Return what kind of data a response has (section 7.2 to 7.4): ``LIST ...``, ``5 EXISTS``."""
    first, _, rest = response.text.partition(b" ")
    return (rest.partition(b" ")[0] if first.isdigit() else first).upper()


class SaidBye(Unreachable):
    """The server said BYE.

    Args:
        server: which one.
        status: what it said.
    """

    def __init__(self, server: str, status: ImapStatus) -> None:
        super().__init__(server, f"{status.text} (said as it left)")
        self.status = status


class ImapReply(NamedTuple):
    """What a command came to.

    Attributes:
        status: the tagged one, or a greeting.
        data: what was said before that, of the kinds that are ever asked for.
    """

    status: ImapStatus
    data: tuple[ImapResponse, ...] = ()


class ImapSession:
    """An open session.

    Args:
        target: the server.
        connection: to it.
        redaction: hides the password in what it says.
        dialogue: takes what is said; None where nobody listens.

    Attributes:
        capabilities: what the server offers, in capitals.
        naming: how it names folders.
        served: how many APPEND commands it has had.
        carried: how many messages it has taken over this session.
        challenge: what it said when it last gave leave to go on.
    """

    def __init__(
        self,
        target: ImapTarget,
        connection: Connection[ImapResponse],
        redaction: Redaction,
        dialogue: Dialogue | None = None,
    ) -> None:
        self.target = target
        self.server = target.server
        self.connection = connection
        self.capabilities: frozenset[str] = frozenset()
        self.naming = Naming()
        self.served = 0
        self.carried = 0
        self.challenge = b""
        self._redaction = redaction
        self._dialogue = dialogue
        self._loop = asyncio.get_running_loop()
        self._count = 0
        self._tag = b""

    def hidden(self, text: str) -> str:
        """Return a text of the server's less the password; it is not yet fit to be shown."""
        return self._redaction.hidden(text)

    @property
    def non_sync(self) -> int:
        """How long a literal may be that is sent without waiting for leave."""
        if "LITERAL+" in self.capabilities:
            return NON_SYNC
        return NON_SYNC_MINUS if "LITERAL-" in self.capabilities else 0

    async def command(
        self, words: bytes, step: ImapStep, *, shown: bytes | None = None
    ) -> ImapReply:
        """Send a command and return what it came to.

        Args:
            words: the command, without a tag and CRLF.
            step: what it is.
            shown: what to tell of it, where that is not all.

        Raises:
            Unreachable: the connection broke, or there was no reply in time.
        """
        self.begin(words, shown=shown)
        self.write(b"\r\n")
        return await self.finish(step)

    def begin(self, words: bytes, *, shown: bytes | None = None) -> None:
        """Send the beginning of a command, with a tag of its own."""
        self._count += 1
        self._tag = b"P%d" % self._count
        self.connection.write(b"%s %s" % (self._tag, words))
        self.note_sent(b"%s %s" % (self._tag, words if shown is None else shown))

    def write(self, data: bytes) -> None:
        """Send a part of a command."""
        self.connection.write(data)

    def note_sent(self, line: bytes) -> None:
        """Tell whoever listens of a line that was sent."""
        if self._dialogue is not None:
            self._dialogue.client(line.decode("utf-8", "replace"))

    def note_sent_bytes(self, count: int) -> None:
        """Tell whoever listens that so many bytes of a message were sent."""
        if self._dialogue is not None:
            self._dialogue.client_bytes(count)

    async def drain(self) -> None:
        """Return once more of a message can be sent.

        Raises:
            Unreachable: the connection broke, or nothing could be sent in time.
        """
        await self.connection.drain(BLOCK_TIMEOUT * self.target.patience)

    async def read_greeting(self) -> ImapReply:
        """Return what the server says first.

        Raises:
            Unreachable: the connection broke, or nothing was said in time.
        """
        deadline = self._deadline(ImapStep.GREETING)
        while True:
            response = await self._read(deadline)
            status = status_of(response, self._redaction)
            if response.tag == b"*" and status is not None:
                return ImapReply(status)

    async def finish(self, step: ImapStep) -> ImapReply:
        """Return what the command came to.

        Raises:
            Unreachable: the connection broke, or there was no reply in time. SaidBye: BYE.
        """
        reply = await self._await_reply(step, leave=False)
        if reply is None:
            raise RuntimeError("no leave to go on was asked for")
        return reply

    async def await_leave(self, step: ImapStep) -> ImapReply | None:
        """Return None once the server is ready for what comes next; or what the command came to.

        Raises:
            Unreachable: as ``finish`` does.
        """
        return await self._await_reply(step, leave=True)

    async def refusal_so_far(self) -> ImapReply | None:
        """Return the reply to a command that is not complete yet, where it is there already.

        Raises:
            Unreachable: it says that all is done, which cannot be. SaidBye: BYE.
        """
        while self.connection.replied:
            response = await self._read(self._deadline(ImapStep.APPEND))
            if response.tag == self._tag:
                reply = self._tagged(status_of(response, self._redaction), [])
                if reply.status.kind == "OK":
                    raise self.give_up("it replied in the middle of the message")
                return reply
        return None

    async def _await_reply(self, step: ImapStep, *, leave: bool) -> ImapReply | None:
        deadline, data = self._deadline(step), list[ImapResponse]()
        for _ in range(_MOST_SAID):
            response = await self._read(deadline)
            if response.tag == b"+" and leave:
                self.challenge = response.text
                return None
            status = status_of(response, self._redaction)
            if response.tag == self._tag:
                return self._tagged(status, data)
            if response.tag == b"*" and status is None and len(data) < _MOST_KEPT:
                data += [response] if _kind(response) in _KEPT else []
        raise self.give_up(f"it says this and that, and gives no reply to {step.phrase}")

    def _tagged(self, status: ImapStatus | None, data: list[ImapResponse]) -> ImapReply:
        if status is None or status.kind not in ("OK", "NO", "BAD"):
            raise self.give_up("its reply is neither OK nor NO nor BAD")
        return ImapReply(status, tuple(data))

    async def _read(self, deadline: float) -> ImapResponse:
        """Return the next response; take note of what it says of the server."""
        seconds = max(0.001, deadline - self._loop.time())
        response = await self.connection.read_reply(seconds)
        self._note_received(response)
        if response.tag != b"*" and response.tag != self._tag:
            return response
        status = status_of(response, self._redaction)
        if status is None:
            if response.text[:11].upper() == b"CAPABILITY ":
                self._note_capabilities(response.text[11:])
        elif status.code == "CAPABILITY":
            self._note_capabilities(status.arguments)
        elif status.kind == "BYE" and response.tag == b"*":
            self.connection.abort("it said BYE")
            raise SaidBye(self.server, status)
        return response

    def _note_capabilities(self, listed: bytes) -> None:
        self.capabilities = frozenset(listed.decode("latin-1").upper().split())

    def _note_received(self, response: ImapResponse) -> None:
        if self._dialogue is not None:
            text = b" ".join((response.tag, response.text)).decode("utf-8", "replace")
            quoted = self.connection.quotes or response.tag == b"*"
            self._dialogue.server(text if quoted else f"{response.tag.decode()} {HIDDEN}")

    def _deadline(self, step: ImapStep) -> float:
        return self._loop.time() + step.seconds * self.target.patience

    def give_up(self, why: str) -> Unreachable:
        """Cut the connection, for the server does what cannot be; return the error for that."""
        self.connection.abort(why)
        return Unreachable(self.server, why)

    def said(self, status: ImapStatus, step: ImapStep) -> str:
        """Return a reply as a sentence that names who said it, and to what."""
        return f"{status.text} (said by {self.server} to {step.phrase})"

    def failure(self, status: ImapStatus, step: ImapStep) -> Unreachable | None:
        """Return the error that a reply is where no message is to blame; None where one is."""
        means = meaning(status, step)
        if means == "rate":
            error = Spent if self.carried else Throttled
            return error(self.server, f"{status.text} (said to {step.phrase})")
        if means == "session":
            return Unreachable(self.server, f"{status.text} (said to {step.phrase})")
        return None

    def quit(self) -> None:
        """Say LOGOUT and close; the answer is not waited for."""
        self.connection.close(b"Q LOGOUT\r\n")
