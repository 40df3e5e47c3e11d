"""Opens a POP3 connection and logs in: greeting, STLS, CAPA, USER and PASS.

With ``starttls`` nothing is believed that was said before TLS began, and a server that will not
begin it is refused: there is no falling back. What the server says of a failed login decides
whether user or password are wrong (LoginRefused), somebody else holds the maildrop (MaildropBusy),
or the server has a trouble of its own (ServerFault).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple

from services.fetcher.connection import connect, tls_context
from services.fetcher.exchange import Exchange
from services.fetcher.listing import capabilities
from services.fetcher.protocol import GREETING, Pop3, Reply
from services.fetcher.quirks import NONE, Quirks, left_out
from shared.errors import ConfigError, LoginRefused, MaildropBusy, PromiseBroken, ServerFault
from shared.log import printable


@dataclass(frozen=True, slots=True)
class Login:
    """Where to log in, and as whom.

    Attributes:
        tls: from the first byte on, by STLS, or none at all.
        password: asked at every login, so that a changed secret counts; it may block.
        ca_file: PEM certificates of the authorities to trust, None for those of the system.
        timeout: seconds without a byte before the server counts as gone.
    """

    host: str
    port: int
    tls: Literal["implicit", "starttls", "none"]
    username: str
    password: Callable[[], str] = field(repr=False)
    ca_file: str | None = None
    timeout: float = 60.0

    @property
    def server(self) -> str:
        """The server as ``host:port``."""
        return f"{self.host}:{self.port}"


_FAULTS: Final[Mapping[str, type[ServerFault]]] = {
    "IN-USE": MaildropBusy,  # RFC 2449 section 8.1.1
    "LOGIN-DELAY": ServerFault,  # RFC 2449 section 8.1.1
    "SYS/TEMP": ServerFault,  # RFC 3206 section 4
    "SYS/PERM": ServerFault,  # RFC 3206 section 4
    "AUTH": LoginRefused,  # RFC 3206 section 5
}
_BUSY: Final = re.compile(
    r"(maildrop|mailbox|mail drop|folder)\b.*\b(lock|locked|in use|busy)\b"
    r"|already (locked|in use)|(maximum|too many)\b.*\b(connections|sessions|logins)",
    re.IGNORECASE,
)
"""What servers say without a response code of a maildrop that is held, or held too often."""


class LoggedIn(NamedTuple):
    """A connection in the TRANSACTION state.

    Attributes:
        capabilities: of the server, less what the quirks leave out.
        quirks: those given, and those found.
    """

    exchange: Exchange
    capabilities: Mapping[str, tuple[str, ...]]
    quirks: Quirks


async def log_in(login: Login, quirks: Quirks = NONE) -> LoggedIn:
    """Log in; on a new connection and without, where the server does not keep what it offers.

    Raises:
        ConfigError: the account's settings cannot be used.
        Unreachable: the server does not answer.
        LoginRefused: it does not accept user name and password.
        MaildropBusy: another session holds the maildrop.
        ServerFault: it refused for another reason, or broke the protocol.
    """
    while True:
        try:
            return await _log_in(login, quirks)
        except PromiseBroken as broken:
            if quirks.has(broken.quirk):
                raise
            quirks = quirks.having(broken.quirk)


async def _log_in(login: Login, quirks: Quirks) -> LoggedIn:
    context = None if login.tls == "none" else tls_context(login.ca_file)
    connection = await connect(
        login.host,
        login.port,
        context=context if login.tls == "implicit" else None,
        timeout=login.timeout,
    )
    exchange = Exchange(login.server, connection, Pop3(login.server))
    try:
        await _greeted(exchange, login)
        if context is not None and login.tls == "starttls":
            exchange.required(await exchange.command("STLS"))
            await exchange.upgrade(context, login.host)
        offered = await _capabilities(exchange, quirks)
        await _authenticate(exchange, login, pipelining="PIPELINING" in offered)
        if "PIPELINING" not in offered and not quirks.no_pipelining:
            # It may offer more, or answer at all, after the login (RFC 2449 section 3).
            offered = await _capabilities(exchange, quirks)
        return LoggedIn(exchange, offered, quirks)
    except BaseException:
        connection.abort()
        raise


async def _greeted(exchange: Exchange, login: Login) -> None:
    greeting = await exchange.reply()
    if greeting.verb != GREETING or not greeting.ok:
        raise _FAULTS.get(greeting.code, ServerFault)(login.server, _said(greeting))


async def _capabilities(exchange: Exchange, quirks: Quirks) -> Mapping[str, tuple[str, ...]]:
    if quirks.no_capa:
        return {}
    reply = await exchange.command("CAPA")
    offered = capabilities(await exchange.body()) if reply.ok else {}
    return {name: offered[name] for name in offered if name not in left_out(quirks)}


async def _authenticate(exchange: Exchange, login: Login, *, pipelining: bool) -> None:
    password = await asyncio.to_thread(login.password)
    try:
        user, secret = exchange.line("USER", login.username), exchange.line("PASS", password)
    except ValueError as error:
        raise ConfigError(
            f"account {printable(login.username)}@{login.server}",
            "user name and password must not contain line breaks or NUL",
        ) from error
    for lines in (user + secret, b"") if pipelining else (user, secret):
        exchange.write(lines)
        reply = await exchange.reply()
        if not reply.ok:
            raise _refusal(login, reply, password)


def _refusal(login: Login, reply: Reply, password: str) -> ServerFault:
    busy = not reply.code and _BUSY.search(reply.text)
    kind = MaildropBusy if busy else _FAULTS.get(reply.code, LoginRefused)
    # Some servers repeat in their reply what they were sent.
    secret = rf"(?<!\w){re.escape(password)}(?!\w)"
    text = re.sub(secret, "***", reply.text) if password else reply.text
    return kind(login.server, _said(replace(reply, text=text)))


def _said(reply: Reply) -> str:
    return printable(reply.text) or f"it refused {reply.verb} without a reason"
