"""Opens a session with a mail server, up to where mail can be sent: greeting, EHLO, TLS, AUTH.

SMTP (RFC 5321) and LMTP (RFC 2033) are the same here but for one verb. Whatever goes wrong before a
message is in play is ``Unreachable``: the destination is out of order or its configuration is, and
no message is to blame. What is offered and fails is done without, where that is possible.
Passwords go over verified TLS alone, which ``destinations`` sees to.
"""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from functools import partial
from typing import Final

from services.deliverer.courier import Throttled
from services.deliverer.servers.connection import Connection, NoReplyInTime, TlsFailed
from services.deliverer.servers.token_login import open_by_token
from services.deliverer.smtp.authenticate import log_in
from services.deliverer.smtp.reply import ReplyReader, SmtpReply, SmtpStep
from services.deliverer.smtp.reply_meaning import meaning
from services.deliverer.smtp.session import SmtpSession
from services.deliverer.smtp.target import SETTING_NAMES, Target
from services.deliverer.smtp.traced import TracedConnection
from shared.errors import Unreachable
from shared.network.dial import dial
from shared.network.explain import explain, silent
from shared.redaction.redaction import NOTHING, Redaction

CONNECT_TIMEOUT: Final = 30.0
EHLO_SECONDS: Final = 30.0
"""How long to wait for an answer to EHLO, while the server is not known to give one."""

_SOCKET_WORDS: Final = {
    errno.ENOENT: "there is no socket: is the path right, and does the server run?",
    errno.ECONNREFUSED: "nobody listens at this socket: does the server run?",
    errno.EACCES: "its permissions do not let this process connect to it",
}


class EhloBroken(Unreachable):
    """The server has nothing to say to EHLO; it may know HELO alone."""


async def open_session(target: Target) -> SmtpSession:
    """Connect and return a session in which mail can be sent.

    Raises:
        Unreachable: the server cannot be reached, or does not let us in.
        Throttled: it has too much to do for now.
    """
    if target.tokens is None:
        return await _open_session(target)
    return await open_by_token(target.server, target.tokens, partial(_open_with_token, target))


async def _open_with_token(target: Target, token: str) -> SmtpSession:
    if target.credentials is not None:
        target = replace(target, credentials=replace(target.credentials, password=token))
    return await _open_session(target)


async def _open_session(target: Target) -> SmtpSession:
    try:
        return await _open(target, starttls=_wants_starttls(target))
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
        target.quirks.starttls.note_without(well=well)


def _wants_starttls(target: Target) -> bool:
    known = target.tls == "opportunistic" and target.quirks.starttls.trusted
    return known or target.tls == "required"


async def _open(target: Target, *, starttls: bool) -> SmtpSession:
    session = SmtpSession(target, await _connect(target))
    try:
        greeting = await _read_greeting(session, target)
        await _say_hello(session, target)
        if starttls:
            switched = await _switch_to_tls(session, target)
            if switched:
                await _say_hello_again(session, target)
        await log_in(session, target)
        session.begin(target, greeting)
    except BaseException:
        session.connection.abort()
        raise
    return session


async def _connect(target: Target) -> Connection[SmtpReply]:
    redaction = _redaction(target)

    def make() -> Connection[SmtpReply]:
        if target.listen is None:
            return Connection(target.server, ReplyReader(redaction), SETTING_NAMES)
        return TracedConnection(target.server, target.listen, redaction)

    at_once = target.tls == "implicit"
    context = target.context if at_once else None
    try:
        if isinstance(target.port, str):
            return await _connect_socket(make(), target.port)
        return await dial(make, target.host, target.port, seconds=CONNECT_TIMEOUT, context=context)
    except UnicodeError as error:
        raise Unreachable(target.server, "no connection: its name cannot be a host's") from error
    except OSError as error:
        words = explain(error, target.port, SETTING_NAMES, at_once=at_once)
        if isinstance(target.port, str):
            words = _SOCKET_WORDS.get(error.errno or 0, words)
        raise Unreachable(target.server, f"no connection: {words}") from error


def _redaction(target: Target) -> Redaction:
    login, known = target.credentials, target.known
    if login is None:
        return NOTHING if known is None else Redaction(known=known)
    return Redaction(login.password, login.user, target.server, known)


async def _connect_socket(connection: Connection[SmtpReply], path: str) -> Connection[SmtpReply]:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_TIMEOUT):
        await loop.create_unix_connection(lambda: connection, path)
    return connection


async def _read_greeting(session: SmtpSession, target: Target) -> SmtpReply:
    try:
        reply = await session.read_reply(SmtpStep.GREETING)
    except NoReplyInTime as error:
        raise no_answer(target, SmtpStep.GREETING.seconds * target.patience) from error
    return _require_success(reply, SmtpStep.GREETING, target)


def no_answer(target: Target, seconds: float) -> Unreachable:
    """Return the error for a server that has let nobody in, and said nothing, for so long."""
    words = silent(seconds, target.port, SETTING_NAMES, at_once=target.tls == "implicit")
    return Unreachable(target.server, words)


def _require_success(
    reply: SmtpReply, step: SmtpStep, target: Target, advice: str = ""
) -> SmtpReply:
    if not 200 <= reply.code < 300:
        error = Throttled if meaning(reply, step) == "rate" else Unreachable
        raise error(target.server, f"{reply.code} {reply.text} (said to {step.phrase}){advice}")
    return reply


async def _say_hello(session: SmtpSession, target: Target) -> None:
    name = (target.hello or _address_literal(session.connection.address)).encode("ascii")
    if not target.quirks.ehlo.trusted and _helo_will_do(target):
        await _send_helo(session, target, name)
        return
    reply = await _send_ehlo(session, target, name)
    unknown = reply.code // 10 == 50
    if unknown and not target.lmtp:  # RFC 5321 section 3.2
        await _send_helo(session, target, name)
        return
    _require_success(reply, SmtpStep.HELLO, target, "; is smtp:// meant?" if unknown else "")
    offered = (line.decode("latin-1").strip().partition(" ") for line in reply.lines[1:])
    session.extensions = {keyword.upper(): parameters for keyword, _, parameters in offered}


def _helo_will_do(target: Target) -> bool:
    """Return whether HELO will do: it offers neither TLS nor a login, and LMTP does not have it."""
    return not target.lmtp and target.tls != "required" and target.credentials is None


async def _send_ehlo(session: SmtpSession, target: Target, name: bytes) -> SmtpReply:
    verb, ehlo = b"LHLO " if target.lmtp else b"EHLO ", target.quirks.ehlo
    falls_back = not ehlo.kept and _helo_will_do(target)
    try:
        reply = await session.command(
            verb + name, SmtpStep.HELLO, EHLO_SECONDS if falls_back else None
        )
    except Unreachable as error:
        if not falls_back:
            raise
        ehlo.suspect()
        raise EhloBroken(target.server, f"{error.said}, after EHLO") from error
    ehlo.note_kept()
    return reply


async def _send_helo(session: SmtpSession, target: Target, name: bytes) -> None:
    session.extensions = {}
    well = False
    try:
        reply = await session.command(b"HELO " + name, SmtpStep.HELLO)
        unknown = reply.code // 10 == 50
        _require_success(reply, SmtpStep.HELLO, target, "; is lmtp:// meant?" if unknown else "")
        well = True
    finally:
        target.quirks.ehlo.note_without(well=well)


def _address_literal(address: str | None) -> str:
    """Return an IP address as RFC 5321 section 4.1.3 wants it in EHLO."""
    if address is None:
        return "localhost"
    return f"[IPv6:{address.partition('%')[0]}]" if ":" in address else f"[{address}]"


async def _switch_to_tls(session: SmtpSession, target: Target) -> bool:
    """Switch to TLS; return False where it is not offered and not required."""
    must = target.tls == "required"
    if "STARTTLS" not in session.extensions:
        if must:
            raise Unreachable(target.server, "it offers no STARTTLS, and TLS is required")
        return False
    try:
        reply = await session.command(b"STARTTLS", SmtpStep.STARTTLS)
    except Unreachable as error:
        raise TlsFailed(target.server, f"{error.said}, after STARTTLS") from error
    if must:
        _require_success(reply, SmtpStep.STARTTLS, target)
    if reply.code != 220 or target.context is None:
        return False
    timeout = SmtpStep.STARTTLS.seconds * target.patience
    await session.connection.start_tls(target.context, target.host, timeout)
    return True


async def _say_hello_again(session: SmtpSession, target: Target) -> None:
    """Ask anew what is offered, now over TLS."""
    try:
        await _say_hello(session, target)
    except Unreachable as error:
        raise TlsFailed(target.server, f"{error.said}, over TLS") from error
    target.quirks.starttls.note_kept()
