"""What a mechanism of SASL (RFC 4422) is to whoever speaks a protocol: challenges and answers.

A mechanism does no I/O, and lives for one try. Whoever drives it sends ``start`` as the initial
response, where the protocol has room for one, or as the answer to an empty challenge; hands each
challenge to ``answer``; and calls ``verify`` when the server says that the login went well. Base64
is the driver's.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from shared.errors import ConfigError

_LONGEST_CHALLENGE: Final = 12_288
"""Characters of a challenge in base64 that are taken (RFC 4954 section 4)."""

_NEVER: Final = "\r\n\0"
"""What would end a command, or a part of a message of PLAIN (RFC 4616 section 2)."""


class MechanismFailed(Exception):
    """The server's part of an exchange is wrong, in form or in proof: the text says how."""


class ProofMissing(MechanismFailed):
    """The server has not proved that it knows the password: it may not be the server."""


class Binding(NamedTuple):
    """What ties a login to its TLS connection (RFC 5929).

    Attributes:
        kind: ``tls-unique``.
        data: the binding itself.
    """

    kind: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Credentials:
    """Whom to log in as, and by what.

    Attributes:
        username: as the server knows it.
        secret: the password, or for the mechanisms of OAuth the access token.
        host: of the server, as the configuration calls it.
        port: of the server.
        binding: of the connection, None where TLS gives none.
    """

    username: str
    secret: str = field(repr=False)
    host: str = ""
    port: int = 0
    binding: Binding | None = field(default=None, repr=False)


def require_sendable(where: str, *values: str) -> None:
    """Refuse what cannot stand in any command.

    Args:
        where: the account or destination, for the error.
        values: what is to be sent: user name, password, token.

    Raises:
        ConfigError: one has a line break or NUL in it, or is no text.
    """
    if any(set(_NEVER) & set(value) for value in values):
        raise ConfigError(where, "user name and password must not contain line breaks or NUL")
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        raise ConfigError(where, "user name and password must be UTF-8 text") from None


def decode_challenge(text: str | bytes) -> bytes:
    """Return what a challenge says that came over the line in base64.

    Raises:
        MechanismFailed: it is too long, or no base64.
    """
    if len(text) > _LONGEST_CHALLENGE:
        raise MechanismFailed("its challenge is too long")
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MechanismFailed("its challenge is no base64") from error


class Mechanism(Protocol):
    """One try to log in by one mechanism."""

    @property
    def explanation(self) -> str:
        """What the server has said of its refusal beside the reply, safe to show; or nothing."""

    def start(self) -> bytes | None:
        """Return the initial response, None where the server speaks first."""

    def answer(self, challenge: bytes) -> bytes:
        """Return the answer to a challenge. It may compute for some milliseconds.

        Raises:
            MechanismFailed: the challenge is none.
        """

    def verify(self) -> None:
        """Be sure of the server, once it has said that the login went well.

        Raises:
            MechanismFailed: it has not proved that it knows the password.
        """


@dataclass(frozen=True, slots=True)
class MechanismKind:
    """A row of the table of mechanisms.

    Attributes:
        setting: its name in the configuration.
        sasl: its name in the protocols; empty for what is a command of POP3 of its own.
        make: begins a try; None for what is a command of POP3 of its own.
        in_clear: whoever reads the line has the password, or the token.
        by_token: it takes an access token, and no password.
    """

    setting: str
    sasl: str
    make: Callable[[Credentials], Mechanism] | None
    in_clear: bool = False
    by_token: bool = False
