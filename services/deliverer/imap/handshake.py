"""Opens a session with an IMAP server, up to where mail can be put into it.

Greeting, STARTTLS, login, what is offered, how folders are named. Whatever goes wrong before a
message is in play is ``Unreachable``: the destination is out of order or its configuration is, and
no message is to blame. A password goes over verified TLS alone, or to this machine itself, which
``destinations`` sees to; what was offered before TLS counts for nothing after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from services.deliverer.imap.authenticate import log_in
from services.deliverer.imap.folders import Naming
from services.deliverer.imap.response import ImapResponse, ImapStatus, ResponseReader, Value
from services.deliverer.imap.session import ImapSession, SaidBye
from services.deliverer.imap.steps import ImapStep
from services.deliverer.imap.target import SETTING_NAMES, ImapTarget
from services.deliverer.servers.connection import Connection, NoReplyInTime
from services.deliverer.servers.token_login import open_by_token
from shared.errors import Unreachable
from shared.network.dial import dial
from shared.network.dialogue import Dialogue
from shared.network.explain import explain, silent
from shared.redaction.redaction import Redaction

CONNECT_TIMEOUT: Final = 30.0


async def open_session(target: ImapTarget) -> ImapSession:
    """Connect and return a session in which mail can be put into folders.

    Raises:
        Unreachable: the server cannot be reached, or does not let us in.
        Throttled: it has too much to do for now.
    """
    if target.tokens is None:
        return await _open(target, target.password)
    return await open_by_token(target.server, target.tokens, partial(_open, target))


async def _open(target: ImapTarget, secret: str) -> ImapSession:
    redaction = Redaction(secret, target.user, target.server, target.known)
    connection = await _connect(target, redaction)
    session = ImapSession(target, connection, redaction, _dialogue(target, connection, redaction))
    try:
        await _begin(session, target, secret)
    except SaidBye as error:
        connection.abort()
        raise session.failure(error.status, ImapStep.GREETING) or error from error
    except BaseException:
        connection.abort()
        raise
    return session


async def _connect(target: ImapTarget, redaction: Redaction) -> Connection[ImapResponse]:
    at_once = target.tls == "implicit"
    context = target.context if at_once else None

    def make() -> Connection[ImapResponse]:
        return Connection(target.server, ResponseReader(redaction), SETTING_NAMES)

    try:
        return await dial(make, target.host, target.port, seconds=CONNECT_TIMEOUT, context=context)
    except UnicodeError as error:
        raise Unreachable(target.server, "no connection: its name cannot be a host's") from error
    except OSError as error:
        words = explain(error, target.port, SETTING_NAMES, at_once=at_once)
        raise Unreachable(target.server, f"no connection: {words}") from error


def _dialogue(
    target: ImapTarget, connection: Connection[ImapResponse], redaction: Redaction
) -> Dialogue | None:
    tell = None if target.listen is None else target.listen(connection.local_port)
    if tell is None:
        return None
    dialogue = Dialogue(tell, redaction)
    dialogue.note(f"connected to {target.server}")
    return dialogue


def no_answer(target: ImapTarget, seconds: float) -> Unreachable:
    """Return the error for a server that has let nobody in, and said nothing, for so long."""
    words = silent(seconds, target.port, SETTING_NAMES, at_once=target.tls == "implicit")
    return Unreachable(target.server, words)


async def _begin(session: ImapSession, target: ImapTarget, secret: str) -> None:
    greeting = await _read_greeting(session, target)
    if target.tls == "required":
        await _switch_to_tls(session, target)
    if greeting.kind != "PREAUTH":
        await _ask_capabilities(session)
        await log_in(session, target, secret)
    await _ask_capabilities(session)
    if target.labels and "X-GM-EXT-1" not in session.capabilities:
        raise Unreachable(target.server, "it has no labels, which labels= asks for: it is no Gmail")
    await _introduce(session)
    session.naming = await _ask_naming(session)


async def _read_greeting(session: ImapSession, target: ImapTarget) -> ImapStatus:
    try:
        greeting = (await session.read_greeting()).status
    except NoReplyInTime as error:
        raise no_answer(target, ImapStep.GREETING.seconds * target.patience) from error
    if greeting.kind == "PREAUTH" and target.tls == "required":
        # STARTTLS is not possible any more then: whoever is between us and the server may say so.
        raise Unreachable(target.server, "it greets with PREAUTH, and TLS is required")
    if greeting.kind not in ("OK", "PREAUTH"):
        raise Unreachable(target.server, f"{greeting.text} (said to the connection)")
    return greeting


async def _ask_capabilities(session: ImapSession) -> None:
    if not session.capabilities:
        await _require(session, b"CAPABILITY", ImapStep.SETUP)


async def _require(session: ImapSession, words: bytes, step: ImapStep) -> None:
    status = (await session.command(words, step)).status
    if status.kind != "OK":
        raise session.failure(status, step) or Unreachable(session.server, status.text)


async def _switch_to_tls(session: ImapSession, target: ImapTarget) -> None:
    await _ask_capabilities(session)
    if "STARTTLS" not in session.capabilities:
        raise Unreachable(target.server, "it offers no STARTTLS, and TLS is required")
    await _require(session, b"STARTTLS", ImapStep.STARTTLS)
    if target.context is None:
        raise RuntimeError("TLS is required, and nothing is set for it")
    timeout = ImapStep.STARTTLS.seconds * target.patience
    await session.connection.start_tls(target.context, target.host, timeout)
    session.capabilities = frozenset()


async def _introduce(session: ImapSession) -> None:
    """Say who we are, as some providers insist on (RFC 2971), and that we take UTF-8."""
    if "ID" in session.capabilities:
        await session.command(b'ID ("name" "pop3-connector")', ImapStep.SETUP)
    if "UTF8=ACCEPT" in session.capabilities and "ENABLE" in session.capabilities:
        reply = await session.command(b"ENABLE UTF8=ACCEPT", ImapStep.SETUP)
        words = b" ".join(r.text for r in reply.data).upper().split()
        session.naming = session.naming._replace(utf8=b"UTF8=ACCEPT" in words)


async def _ask_naming(session: ImapSession) -> Naming:
    """Return how the server names folders, by NAMESPACE (RFC 2342) or else by LIST."""
    offered = session.capabilities
    utf8 = session.naming.utf8 or ("IMAP4REV2" in offered and "IMAP4REV1" not in offered)
    if "NAMESPACE" in session.capabilities:
        reply = await session.command(b"NAMESPACE", ImapStep.SETUP)
        for response in reply.data:
            naming = _personal(response.values())
            if naming is not None:
                return naming._replace(utf8=utf8)
    reply = await session.command(b'LIST "" ""', ImapStep.SETUP)
    if reply.status.kind != "OK":  # the login is good for nothing (Exchange Online, at times)
        raise Unreachable(session.server, session.said(reply.status, ImapStep.SETUP))
    for response in reply.data:
        match response.values():
            case [bytes(), list(), (bytes() | None) as delimiter, *_]:
                return Naming(_text(delimiter), "", utf8)
    return Naming(utf8=utf8)


def _personal(values: Sequence[Value]) -> Naming | None:
    match values:
        case [bytes(), [[bytes() as prefix, (bytes() | None) as delimiter, *_], *_], *_]:
            return Naming(_text(delimiter), _text(prefix))
    return None


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("utf-8", "replace")
