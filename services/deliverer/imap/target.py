"""A mailbox at an IMAP server to deliver into, and how: plain data, made of a destination's URL."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Final, Literal

from services.deliverer.servers.promise import Promise
from shared.authentication.choice import AUTO
from shared.authentication.tokens import AccessTokens
from shared.network.dialogue import TraceFor
from shared.network.explain import SettingNames
from shared.redaction.known_secrets import KnownSecrets

SETTING_NAMES: Final = SettingNames("imap://", "imaps://", "ca_file")
"""What errors call the settings that decide how a connection begins."""


@dataclass(frozen=True, slots=True)
class ImapTarget:
    """An IMAP server, whose mailbox there is ours to fill, and how.

    Attributes:
        server: what logs and errors call it.
        host: its name or address.
        port: its TCP port.
        tls: ``implicit``, TLS from the first byte; ``required``, which takes STARTTLS or does not
            deliver; both verified; or ``none``.
        context: the TLS settings that go with it.
        user: whose mailbox it is.
        password: to log in with; "" where there are tokens.
        covert_login: whether it takes that by a mechanism that does not show it.
        finds: whether a search for our id was seen to find it there.
        auth: the mechanism to log in by; ``auto`` to choose one.
        tokens: where access tokens come from, None for a password.
        folder: its path, with ``/`` between a folder and one within it, and placeholders in braces
            for the recipient; "" for INBOX.
        flags: what messages are marked with.
        labels: of Gmail, that they get.
        listen: takes the dialogues with it; None where nobody listens.
        patience: what the timeouts are multiplied by.
        known: passwords that it is not quoted with, beside our own.
    """

    server: str
    host: str
    port: int
    tls: Literal["none", "required", "implicit"]
    context: ssl.SSLContext | None
    user: str
    password: str = field(repr=False)
    covert_login: Promise = field(compare=False)
    finds: Promise = field(compare=False)
    auth: str = AUTO
    tokens: AccessTokens | None = field(default=None, repr=False, compare=False)
    folder: str = ""
    flags: tuple[bytes, ...] = ()
    labels: tuple[str, ...] = ()
    listen: TraceFor | None = None
    patience: float = 1.0
    known: KnownSecrets | None = field(default=None, repr=False, compare=False)
