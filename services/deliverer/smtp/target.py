"""A mail server to deliver to, and how: plain data, made of a destination's URL."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from services.deliverer.smtp.promises import Promises
from shared.authentication.choice import AUTO
from shared.authentication.tokens import AccessTokens
from shared.network.dialogue import TraceFor
from shared.network.explain import SettingNames
from shared.redaction.known_secrets import KnownSecrets

SETTING_NAMES: Final = SettingNames("smtp:// or lmtp://", "smtps://", "ca_file")
"""What errors call the settings that decide how a connection begins."""

Pipelining: TypeAlias = Literal["none", "commands", "full"]


@dataclass(frozen=True, slots=True)
class SmtpLogin:
    """A user name and a password, and the mechanism by which to log in; ``auto`` to choose one."""

    user: str
    password: str = field(repr=False)
    auth: str = AUTO


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
        tokens: where access tokens come from, in place of the password; None for that.
        hello: our name in EHLO; None for the address literal of our end of the connection.
        pipelining: what may be sent together where PIPELINING is offered: ``none``; ``commands``,
            the envelope of one message; ``full``, also that of the next with the end of the one
            before. None for ``full`` over LMTP with a server known to take it, else ``commands``.
        quirks: what is known of the server.
        listen: takes the dialogues with it; None where nobody listens.
        patience: what the timeouts are multiplied by.
        keep_delivered_to: leave Delivered-To lines that name a recipient as they are.
        known: passwords that it is not quoted with, beside that of the credentials.
    """

    server: str
    host: str
    port: int | str
    lmtp: bool = False
    tls: Literal["none", "opportunistic", "required", "implicit"] = "opportunistic"
    context: ssl.SSLContext | None = None
    credentials: SmtpLogin | None = None
    tokens: AccessTokens | None = field(default=None, repr=False, compare=False)
    hello: str | None = None
    pipelining: Pipelining | None = None
    quirks: Promises = field(default_factory=Promises, compare=False)
    listen: TraceFor | None = None
    patience: float = 1.0
    keep_delivered_to: bool = False
    known: KnownSecrets | None = field(default=None, repr=False, compare=False)
