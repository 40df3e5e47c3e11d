"""A session with a mail server up to where mail can be sent: greeting, EHLO or LHLO, TLS, AUTH.

SMTP (RFC 5321) and LMTP (RFC 2033) are the same here but for one verb. Whatever goes wrong before a
message is in play is ``Unreachable``: the destination is out of order or its configuration is, and
no message is to blame. Passwords go over verified TLS alone; who builds a Target sees to that.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from services.deliverer.channel import SETTINGS, Channel, Silent, TlsFailed
from services.deliverer.courier import Post, Throttled
from services.deliverer.meaning import meaning
from services.deliverer.quirks import Quirks
from services.deliverer.reply import Reply, Step
from services.deliverer.told import Listen, ToldChannel
from shared.errors import Unreachable
from shared.network import dial
from shared.network_words import explain, silent

CONNECT_TIMEOUT: Final = 30.0
EHLO_SECONDS: Final = 30.0
"""How long to wait for an answer to EHLO, while the server is not known to give one."""
BLOCK_TIMEOUT: Final = 180.0
"""Seconds for a block of a message to go out (RFC 5321 section 4.5.3.2.5)."""


class PipelineBroken(Unreachable):
    """What was sent together was not answered as it should be; nothing has been delivered.

    It is worth one more try over a fresh connection, which then does without pipelining.
    """


class EhloBroken(Unreachable):
    """The server has nothing to say to EHLO; it may know HELO alone."""


Pipelining: TypeAlias = Literal["none", "commands", "full"]

_TAKES_ALL: Final = re.compile(rb"\b(Dovecot|Cyrus|Postfix)\b", re.IGNORECASE)
"""Who is known to read on where a message ends. Perl's Net::Server::Mail, for one, offers
PIPELINING over LMTP, and takes what comes along with the final dot for text of that message."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and a password."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Target:
    """A server to deliver to, and how.

    Attributes:
        server: what logs and errors call it.
        host: its name or address; for a local socket, the name it goes by.
        port: its TCP port, or the path of a local socket.
        lmtp: speak LMTP rather than SMTP.
        tls: ``none``; ``opportunistic``, which takes STARTTLS where it is offered and any
            certificate, and does without where it fails (RFC 7435); ``required``, which takes
            STARTTLS with a verified certificate or does not deliver; or ``implicit``, which is
            TLS from the first byte, verified.
        context: the TLS settings that go with it.
        credentials: what to log in with, None for no login.
        hello: our name in EHLO; None for the address literal of our end of the connection.
        pipelining: what may be sent together where PIPELINING is offered: ``none``; ``commands``,
            the envelope of one letter; ``full``, also that of the next with the end of the one
            before. None for ``full`` over LMTP with a server known to take it, else ``commands``.
        quirks: what is known of the server.
        listen: takes the dialogues with it; None where nobody listens.
        patience: what the timeouts are multiplied by.
        keep_delivered_to: leave Delivered-To lines that name a recipient as they are.
    """

    server: str
    host: str
    port: int | str
    lmtp: bool = False
    tls: Literal["none", "opportunistic", "required", "implicit"] = "opportunistic"
    context: ssl.SSLContext | None = None
    credentials: Credentials | None = None
    hello: str | None = None
    pipelining: Pipelining | None = None
    quirks: Quirks = field(default_factory=Quirks, compare=False)
    listen: Listen | None = None
    patience: float = 1.0
    keep_delivered_to: bool = False


class Session:
    """An open session.

    Attributes:
        server: what logs and errors call the server.
        lmtp: whether it speaks LMTP.
        keep_delivered_to: as of ``Target``.
        extensions: what EHLO offered: upper-case keywords and their parameters.
        unfinished: a mail transaction has begun and not ended; RSET comes before the next, unless
            it is of the letter that was announced.
        announced: the letter of which the envelope has been sent already, with the end of the one
            before it.
        announced_why: why that was with the null sender in place of its own; None if it was not.
        served: how many transactions it has had.
        carried: how many letters it has taken.
        quirks: what is known of the server.
    """

    def __init__(self, target: Target, channel: Channel) -> None:
        self.server = target.server
        self.lmtp = target.lmtp
        self.keep_delivered_to = target.keep_delivered_to
        self.channel = channel
        self.extensions: Mapping[str, str] = {}
        self.unfinished = False
        self.announced: Post | None = None
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
        """Whether those of the next letter may go out with the end of the one before."""
        return self._with_the_end and self.pipelines and self.quirks.following.trusted

    def begin(self, target: Target, greeting: Reply) -> None:
        """Settle, once and for all, what may be sent together; EHLO has been answered."""
        may = target.pipelining
        offered = "PIPELINING" in self.extensions and may != "none"
        self._together = offered and self.quirks.pipelining.trusted
        known = target.lmtp and _TAKES_ALL.search(greeting.lines[0]) is not None
        self._with_the_end = may == "full" or (may is None and known)

    async def reply(self, step: Step) -> Reply:
        """Return the next reply.

        Raises:
            Unreachable: the connection broke, or there was none in time.
        """
        return await self.channel.reply(step.seconds * self._patience)

    async def replies(self, steps: Sequence[Step], seconds: float | None = None) -> list[Reply]:
        """Return the next replies to commands that were sent together: one of them at least.

        Args:
            steps: what these commands were.
            seconds: how long to wait, None for as long as is due to the first of them.

        Raises:
            Unreachable: the connection broke, or there was none in time.
        """
        wait = steps[0].seconds if seconds is None else min(seconds, steps[0].seconds)
        return await self.channel.replies(len(steps), wait * self._patience)

    async def command(self, line: bytes, step: Step, seconds: float | None = None) -> Reply:
        """Send a command line, given without CRLF, and return the reply to it.

        Args:
            line: the command.
            step: what it is.
            seconds: how long to wait for the reply, None for as long as is due to it.

        Raises:
            Unreachable: the connection broke, or there was no reply in time.
        """
        self.channel.write(line + b"\r\n")
        (reply,) = await self.replies((step,), seconds)
        return reply

    async def drain(self) -> None:
        """Return once more of a message can be sent.

        Raises:
            Unreachable: the connection broke, or nothing could be sent in time.
        """
        await self.channel.drain(BLOCK_TIMEOUT * self._patience)

    def quit(self) -> None:
        """Take leave; the answer to QUIT is not waited for."""
        self.channel.close(b"QUIT\r\n")


async def open_session(target: Target) -> Session:
    """Connect and return a session in which mail can be sent.

    Raises:
        Unreachable: the server cannot be reached, or does not let us in.
        Throttled: it has too much to do for now.
    """
    try:
        return await _open(target, starttls=_begins_tls(target))
    except TlsFailed:
        if target.tls != "opportunistic":
            raise
        if not target.quirks.starttls.kept:
            target.quirks.starttls.suspect()
    except EhloBroken:
        return await _open(target, starttls=False)
    well = False
    try:
        session = await _open(target, starttls=False)
        well = True
        return session
    finally:
        target.quirks.starttls.went_without(well=well)


def _begins_tls(target: Target) -> bool:
    known = target.tls == "opportunistic" and target.quirks.starttls.trusted
    return known or target.tls == "required"


async def _open(target: Target, *, starttls: bool) -> Session:
    session = Session(target, await _connect(target))
    try:
        greeting = await _greeting(session, target)
        await _hello(session, target)
        if starttls and await _starttls(session, target):
            await _hello_again(session, target)
        if target.credentials is not None:
            await _login(session, target, target.credentials)
        session.begin(target, greeting)
    except BaseException:
        session.channel.abort()
        raise
    return session


_SOCKET_WORDS: Final = {
    errno.ENOENT: "there is no socket: is the path right, and does the server run?",
    errno.ECONNREFUSED: "nobody listens at this socket: does the server run?",
    errno.EACCES: "its permissions do not let this process connect to it",
}


async def _connect(target: Target) -> Channel:
    def make() -> Channel:
        if target.listen is None:
            return Channel(target.server)
        return ToldChannel(target.server, target.listen)

    at_once = target.tls == "implicit"
    context = target.context if at_once else None
    try:
        if isinstance(target.port, str):
            return await _socket(make(), target.port)
        return await dial(make, target.host, target.port, seconds=CONNECT_TIMEOUT, context=context)
    except UnicodeError as error:
        raise Unreachable(target.server, "no connection: its name cannot be a host's") from error
    except OSError as error:
        words = explain(error, target.port, SETTINGS, at_once=at_once)
        if isinstance(target.port, str):
            words = _SOCKET_WORDS.get(error.errno or 0, words)
        raise Unreachable(target.server, f"no connection: {words}") from error


async def _socket(channel: Channel, path: str) -> Channel:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_TIMEOUT):
        await loop.create_unix_connection(lambda: channel, path)
    return channel


async def _greeting(session: Session, target: Target) -> Reply:
    try:
        return _must(await session.reply(Step.GREETING), Step.GREETING, target)
    except Silent as error:
        seconds, at_once = Step.GREETING.seconds * target.patience, target.tls == "implicit"
        words = silent(seconds, target.port, SETTINGS, at_once=at_once)
        raise Unreachable(target.server, words) from error


def _must(reply: Reply, step: Step, target: Target, advice: str = "") -> Reply:
    if not 200 <= reply.code < 300:
        error = Throttled if meaning(reply, step) == "rate" else Unreachable
        raise error(target.server, f"{reply.code} {reply.text} (said to {step.phrase}){advice}")
    return reply


async def _hello(session: Session, target: Target) -> None:
    name = (target.hello or _literal(session.channel.address)).encode("ascii")
    if not target.quirks.ehlo.trusted and _can_do_without(target):
        await _helo(session, target, name)
        return
    reply = await _ehlo(session, target, name)
    unknown = reply.code // 10 == 50
    if unknown and not target.lmtp:  # RFC 5321 section 3.2
        await _helo(session, target, name)
        return
    _must(reply, Step.HELLO, target, "; is smtp:// meant?" if unknown else "")
    offered = (line.decode("latin-1").strip().partition(" ") for line in reply.lines[1:])
    session.extensions = {keyword.upper(): parameters for keyword, _, parameters in offered}


def _can_do_without(target: Target) -> bool:
    """Return whether HELO will do: it offers neither TLS nor a login, and LMTP does not have it."""
    return not target.lmtp and target.tls != "required" and target.credentials is None


async def _ehlo(session: Session, target: Target, name: bytes) -> Reply:
    verb, ehlo = b"LHLO " if target.lmtp else b"EHLO ", target.quirks.ehlo
    falls_back = not ehlo.kept and _can_do_without(target)
    try:
        reply = await session.command(verb + name, Step.HELLO, EHLO_SECONDS if falls_back else None)
    except Unreachable as error:
        if not falls_back:
            raise
        ehlo.suspect()
        raise EhloBroken(target.server, f"{error.said}, after EHLO") from error
    ehlo.keep()
    return reply


async def _helo(session: Session, target: Target, name: bytes) -> None:
    session.extensions = {}
    well = False
    try:
        reply = await session.command(b"HELO " + name, Step.HELLO)
        unknown = reply.code // 10 == 50
        _must(reply, Step.HELLO, target, "; is lmtp:// meant?" if unknown else "")
        well = True
    finally:
        target.quirks.ehlo.went_without(well=well)


def _literal(address: str | None) -> str:
    """Return an IP address as RFC 5321 section 4.1.3 wants it in EHLO."""
    if address is None:
        return "localhost"
    return f"[IPv6:{address.partition('%')[0]}]" if ":" in address else f"[{address}]"


async def _starttls(session: Session, target: Target) -> bool:
    """Go over to TLS; return False where it is not to be had and need not be."""
    must = target.tls == "required"
    if "STARTTLS" not in session.extensions:
        if must:
            raise Unreachable(target.server, "it offers no STARTTLS, and TLS is required")
        return False
    try:
        reply = await session.command(b"STARTTLS", Step.STARTTLS)
    except Unreachable as error:
        raise TlsFailed(target.server, f"{error.said}, after STARTTLS") from error
    if must:
        _must(reply, Step.STARTTLS, target)
    if reply.code != 220 or target.context is None:
        return False
    timeout = Step.STARTTLS.seconds * target.patience
    await session.channel.start_tls(target.context, target.host, timeout)
    return True


async def _hello_again(session: Session, target: Target) -> None:
    """Ask anew what is offered, now over TLS."""
    try:
        await _hello(session, target)
    except Unreachable as error:
        raise TlsFailed(target.server, f"{error.said}, over TLS") from error
    target.quirks.starttls.keep()


async def _login(session: Session, target: Target, credentials: Credentials) -> None:
    """Log in with AUTH PLAIN (RFC 4616) or else AUTH LOGIN."""
    user, password = credentials.user.encode(), credentials.password.encode()
    ways = {
        "PLAIN": [b"AUTH PLAIN " + base64.b64encode(b"\0" + user + b"\0" + password)],
        "LOGIN": [b"AUTH LOGIN", base64.b64encode(user), base64.b64encode(password)],
    }
    offered = _mechanisms(session.extensions)
    usable = [words for mechanism, words in ways.items() if mechanism in offered]
    if not usable:
        raise Unreachable(target.server, "it offers neither AUTH PLAIN nor AUTH LOGIN")
    for words in usable:
        for word in words:
            reply = await session.command(word, Step.AUTH)
            if reply.code != 334:  # go on
                break
        if reply.code != 504:  # RFC 4954 section 4: it does not know this mechanism, after all
            break
    _must(reply, Step.AUTH, target)


def _mechanisms(extensions: Mapping[str, str]) -> list[str]:
    """Return how one can log in; servers before RFC 2554 wrote ``AUTH=LOGIN``."""
    lines = (f"{k[5:]} {v}" for k, v in extensions.items() if k.startswith("AUTH="))
    return " ".join((extensions.get("AUTH", ""), *lines)).upper().split()
