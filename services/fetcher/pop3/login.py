"""Opens a POP3 connection up to where mail can be read: greeting, STLS, CAPA, and the login.

With ``starttls`` nothing is believed that was said before TLS began, and a server that will not
begin it is refused: there is no falling back. Where the server offers what it does not keep, a new
connection is made without that, once for each. UTF8 (RFC 6856) is asked for where it is offered:
without it Courier hands over a stub in place of a message with 8-bit header bytes. What a refusal
means is told by ``reply_meaning``.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from services.fetcher.pop3.authenticate import PIPELINED, LoginTry, answer, printable_reply
from services.fetcher.pop3.client import Pop3Client
from services.fetcher.pop3.connection import SETTING_NAMES, Pop3Connection, connect, tls_context
from services.fetcher.pop3.deadlines import Deadlines, WaitMeter
from services.fetcher.pop3.listing import capabilities
from services.fetcher.pop3.protocol import Pop3, Pop3Reply
from services.fetcher.pop3.quirks import NONE, Quirks, left_out
from services.fetcher.pop3.reply_meaning import meaning, temporary
from services.fetcher.pop3.traced import TracedPop3
from shared.authentication.choice import AUTO
from shared.authentication.mechanism import Credentials, require_sendable
from shared.authentication.tokens import AccessTokens
from shared.errors import (
    LoginRefused,
    MaildropBusy,
    NoAnswer,
    PromiseBroken,
    ServerFault,
    Silent,
    Slow,
    TooLarge,
    Ungreeted,
    Unreachable,
)
from shared.log import printable
from shared.network.dial import DIRECT, NetworkRoute
from shared.network.dialogue import Dialogue, TakeLine
from shared.network.explain import closed, silent
from shared.network.same_host import is_here
from shared.network.tls import SYSTEM, Trust
from shared.redaction.known_secrets import KnownSecrets
from shared.redaction.redaction import Redaction


@dataclass(frozen=True, slots=True)
class Login:
    """Where to log in, and as whom.

    Attributes:
        tls: from the first byte on, by STLS, or none at all.
        password: asked at every login, so that a changed secret counts; it may block.
        trust: by what the server is known in TLS, and we to it.
        route: from where, and through whom, it is connected to.
        timeout: seconds without a byte before the server counts as gone.
        auth: the mechanism, as the configuration calls it, or ``auto``.
        tokens: where access tokens come from; then there is no password.
        deadlines: how long it may take when it does say something.
        known: passwords that the server is not quoted with, beside its own.
    """

    host: str
    port: int
    tls: Literal["implicit", "starttls", "none"]
    username: str
    password: Callable[[], str] = field(repr=False)
    trust: Trust = SYSTEM
    timeout: float = 60.0
    auth: str = AUTO
    tokens: AccessTokens | None = field(default=None, repr=False, compare=False)
    route: NetworkRoute = field(default=DIRECT, repr=False)
    deadlines: Deadlines = field(default_factory=Deadlines)
    known: KnownSecrets = field(default_factory=KnownSecrets, repr=False, compare=False)

    @property
    def server(self) -> str:
        """The server as ``host:port``."""
        return f"{self.host}:{self.port}"

    @property
    def hidden(self) -> bool:
        """Whether nobody else reads what is sent: TLS, or the machine itself.

        Behind a proxy, ``localhost`` is where that is.
        """
        return self.tls != "none" or (is_here(self.host) and self.route.proxy is None)


CAPA_SECONDS: Final = 12.0
"""How long CAPA may take. Going without it is slower, nothing else."""

CAPA_LIMIT: Final = 16 * 1024
"""Bytes of an answer to CAPA; servers have some hundred."""

MUTE_SECONDS: Final = 20.0
"""How long a greeting in clear is waited for at TLS_PORT."""

TLS_PORT: Final = 995
"""Where TLS begins with the first byte (RFC 8314 section 7.3): in clear, nothing is said there."""

_LOCK_PAUSES: Final = (0.5, 1.0, 2.0, 4.0)
"""Seconds for a server to notice that a connection is gone, and to let go of its maildrop."""

_DEAR: Final = frozenset({"no_capa", "no_utf8", "no_uidl", "no_list", "no_stat", "no_covert_login"})
"""What a server is believed not to keep only when a connection broke, or was slow, at it twice."""

_WANTS_TLS: Final = re.compile(
    r"\b(tls|ssl|stls|starttls|encrypt|secure|plain ?text)", re.IGNORECASE
)

_OTHERS: Final[Mapping[str, str]] = {
    "220": "SMTP",
    "554": "SMTP",
    "* ": "IMAP",
    "HTTP": "HTTP",
    "SSH-": "SSH",
}
"""How servers begin that speak something else."""


class LoggedIn(NamedTuple):
    """A connection in the TRANSACTION state.

    Attributes:
        capabilities: of the server, less what the quirks leave out.
        quirks: those given, and those found.
        mechanism: by which the login went well, as the configuration calls it.
    """

    client: Pop3Client
    capabilities: Mapping[str, tuple[str, ...]]
    quirks: Quirks
    mechanism: str


async def log_in(
    login: Login, quirks: Quirks = NONE, tell: TakeLine | None = None, pace: WaitMeter | None = None
) -> LoggedIn:
    """Log in; on a new connection and without, where the server does not keep what it offers.

    Args:
        login: where, and as whom.
        quirks: what to do without from the beginning.
        tell: takes the dialogue, line by line; None where nobody listens.
        pace: told of every wait for the server.

    Raises:
        ConfigError: the account's settings cannot be used.
        Unreachable: the server does not answer, or takes too long.
        LoginRefused: it does not accept user name and password.
        MaildropBusy: another session holds the maildrop, or it is too early or too many.
        ServerFault: it refused for another reason, or broke the protocol.
    """
    pace = pace or WaitMeter()
    found, pauses, cut = quirks, iter(_LOCK_PAUSES), ""
    secret, renewed = await _secret(login), False
    while True:
        try:
            return await _log_in(login, secret, found, tell, pace)
        except LoginRefused:
            if login.tokens is None or renewed:
                raise
            # A token may be refused before its time: revoked, or the clock is wrong.
            secret, renewed = await login.tokens.renewed(secret), True
        except PromiseBroken as broken:
            if found.has(broken.quirk):
                raise
            if may_be_the_line(broken) and cut != broken.quirk:
                cut = broken.quirk
            else:
                found = found.having(broken.quirk)
        except MaildropBusy:
            # It may be the connection given up a moment ago that holds it.
            pause = next(pauses, None) if cut or found != quirks else None
            if pause is None:
                raise
            with pace.waiting():
                await asyncio.sleep(pause)


def may_be_the_line(broken: PromiseBroken) -> bool:
    """Return whether a connection may just have been cut, or slow: nothing is to be remembered.

    To do without these for a week is no small thing: Courier hands over stubs without UTF8, without
    UIDL all is read anew at each poll, and a password that could be kept to oneself is shown.
    """
    cause = broken.__cause__
    line = isinstance(cause, Slow) or not isinstance(cause, Silent)
    return isinstance(cause, Unreachable) and line and broken.quirk in _DEAR


async def _secret(login: Login) -> str:
    """Return the password, or an access token."""
    if login.tokens is not None:
        secret = await login.tokens.current()
    else:
        secret = await asyncio.to_thread(login.password)
    where = f"account {printable(login.username)}@{login.server}"
    require_sendable(where, login.username, secret)
    return secret


async def _log_in(
    login: Login, secret: str, quirks: Quirks, tell: TakeLine | None, pace: WaitMeter
) -> LoggedIn:
    context = None if login.tls == "none" else tls_context(login.trust)
    # Before anything is shown: a server may know the password from an earlier session.
    redaction = Redaction(secret, login.username, login.server, login.known)
    connection = await _connect(login, context, pace)
    connection.ends(
        login.deadlines.login, _too_long("login", login.deadlines.login, "login_within")
    )
    pop3 = _protocol(login, quirks, redaction, tell)
    client = Pop3Client(login.server, connection, pop3, redaction)
    try:
        if login.tls == "implicit":
            connection.require_pinned(login.trust.fingerprints)
        greeting = await _read_greeting(client, login)
        if context is not None and login.tls == "starttls":
            await _begin_tls(client, login, context)
            connection.require_pinned(login.trust.fingerprints)
        offered = await _capabilities(client, login, quirks)
        credentials = Credentials(
            login.username, secret, login.host, login.port, connection.binding
        )
        by_token = login.tokens is not None
        attempt = LoginTry(client, credentials, quirks, by_token=by_token, hidden=login.hidden)
        try:
            utf8 = await attempt.log_in(login.auth, greeting.text, offered)
        except ServerFault as error:
            if (advised := _wants_tls(login, error)) is not None:
                raise advised from error
            raise
        if utf8 is False:
            client.write(client.line("UTF8"))  # some take it after the login alone
            refusal = await answer(client, "UTF8")
            if not (refusal.ok or temporary(refusal)):
                quirks = quirks.having("no_utf8")
        if PIPELINED not in offered and not quirks.no_pipelining:
            # It may offer more, or answer at all, after the login (RFC 2449 section 3).
            offered = await _capabilities(client, login, quirks)
        longest = login.deadlines.session
        connection.ends(longest, _too_long("session", longest, "session_within"))
        return LoggedIn(client, offered, quirks, attempt.mechanism)
    except BaseException:
        connection.abort()
        raise


def _protocol(login: Login, quirks: Quirks, redaction: Redaction, tell: TakeLine | None) -> Pop3:
    """Return the protocol for a new connection; it tells the dialogue where somebody listens."""
    server, bare_ends = login.server, quirks.bare_ends
    if tell is None:
        return Pop3(server, bare_ends=bare_ends, redaction=redaction)
    dialogue = Dialogue(tell, redaction)
    dialogue.note(f"connected to {server}, tls {login.tls}")
    return TracedPop3(server, dialogue, bare_ends=bare_ends, redaction=redaction)


async def _connect(login: Login, context: ssl.SSLContext | None, pace: WaitMeter) -> Pop3Connection:
    seconds = login.deadlines.connect
    try:
        async with asyncio.timeout(seconds):
            return await connect(
                login.host,
                login.port,
                context=context if login.tls == "implicit" else None,
                timeout=login.timeout,
                slowest=login.deadlines.slowest,
                pace=pace,
                route=login.route,
            )
    except TimeoutError as error:
        said = _too_long("connection", seconds, "connect_within")
        raise Unreachable(login.server, said) from error


def _too_long(what: str, seconds: float, key: str) -> str:
    return f"the {what} takes more than {seconds:g} seconds (limits.{key})"


def _wants_tls(login: Login, error: ServerFault) -> ServerFault | None:
    """Return a refusal with what to set, where it was refused for want of TLS."""
    kind = type(error)
    if kind not in (LoginRefused, ServerFault) or login.tls != "none":
        return None
    if not _WANTS_TLS.search(error.said[:500]):
        return None
    either = f"{SETTING_NAMES.clear_first} or {SETTING_NAMES.tls_first}"
    return kind(login.server, f"{error.said} (it wants TLS: is {either} meant?)")


async def _read_greeting(client: Pop3Client, login: Login) -> Pop3Reply:
    at_once = login.tls == "implicit"
    mute = login.port == TLS_PORT and not at_once
    patience = min(login.timeout, MUTE_SECONDS) if mute else login.timeout
    try:
        async with client.patience(patience):
            greeting = await client.reply()
    except Slow as error:
        raise Ungreeted(login.server, error.said) from error
    except Silent as error:
        said = silent(patience, login.port, SETTING_NAMES, at_once=at_once)
        raise Ungreeted(login.server, said) from error
    except Unreachable as error:
        said = closed(error.said, login.port, SETTING_NAMES, at_once=at_once)
        raise Ungreeted(login.server, said) from error
    except ServerFault as error:
        raise _another_protocol(login, error) from error
    if not greeting.ok:
        raise meaning(greeting)(login.server, printable_reply(greeting))
    return greeting


def _another_protocol(login: Login, error: ServerFault) -> ServerFault:
    """Return what is wrong with a greeting that is none of POP3."""
    begins = error.said.partition("out of turn: ")[2]
    name = next((name for start, name in _OTHERS.items() if begins.startswith(start)), None)
    if name is None:
        return error
    said = f"{name} is spoken at port {login.port}, not POP3: is the port right? {error.said}"
    return ServerFault(login.server, said)


async def _begin_tls(client: Pop3Client, login: Login, context: ssl.SSLContext) -> None:
    reply = await client.command("STLS")
    if not reply.ok:
        advice = 'if it has a port for TLS, 995 mostly, tls = "implicit" is for that'
        said = f"{printable_reply(reply)}; {advice}"
        raise ServerFault(login.server, f"STLS is refused: {said}")
    await client.upgrade(context, login.host)


async def _capabilities(
    client: Pop3Client, login: Login, quirks: Quirks
) -> Mapping[str, tuple[str, ...]]:
    if quirks.no_capa:
        return {}
    try:
        async with client.patience(min(login.timeout, CAPA_SECONDS)):
            reply = await client.command("CAPA")
            body = await client.body("CAPA", CAPA_LIMIT, CAPA_LIMIT) if reply.ok else b""
            offered = capabilities(body)
    except (Unreachable, NoAnswer, TooLarge) as error:
        raise PromiseBroken(login.server, f"CAPA: {error.said}", "no_capa") from error
    return {name: offered[name] for name in offered if name not in left_out(quirks)}
