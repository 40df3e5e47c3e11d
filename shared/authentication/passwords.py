"""The mechanisms of one step: PLAIN (RFC 4616), LOGIN, CRAM-MD5 (RFC 2195), and POP3's APOP.

LOGIN has no RFC (draft-murchison-sasl-login); servers word its two questions differently, so they
are told apart by their order. APOP (RFC 1939 section 7) is MD5 of what the server chose: one that
may choose freely can be made to learn the first characters of a password (CVE-2007-1558), so what
it hashes must be a message id in form.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

from shared.authentication.mechanism import Credentials, MechanismFailed

_TIMESTAMP: Final = re.compile(r"<[!-;=?A-~]{1,200}@[!-;=?A-~]{1,200}>")
"""A message id in a greeting: RFC 5322's in form, without white space or another ``@``."""


class Plain:
    """PLAIN: user name and password in one answer."""

    explanation = ""

    def __init__(self, credentials: Credentials) -> None:
        self._answer = f"\0{credentials.username}\0{credentials.secret}".encode()

    def start(self) -> bytes | None:
        """Return all of it."""
        return self._answer

    def answer(self, challenge: bytes) -> bytes:
        """Fail: there is nothing to ask."""
        raise MechanismFailed("it asks for more than PLAIN has")

    def verify(self) -> None:
        """Take the server's word."""


class AuthLogin:
    """LOGIN: the user name, then the password."""

    explanation = ""

    def __init__(self, credentials: Credentials) -> None:
        self._left = [credentials.secret.encode(), credentials.username.encode()]

    def start(self) -> bytes | None:
        """Wait to be asked."""
        return None

    def answer(self, challenge: bytes) -> bytes:
        """Return the user name, then the password, whatever the questions are called."""
        if not self._left:
            raise MechanismFailed("it asks for more than LOGIN has")
        return self._left.pop()

    def verify(self) -> None:
        """Take the server's word."""


class CramMd5:
    """CRAM-MD5: a keyed hash of what the server sends."""

    explanation = ""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._answered = False

    def start(self) -> bytes | None:
        """Wait for the challenge."""
        return None

    def answer(self, challenge: bytes) -> bytes:
        """Return the user name and the hash."""
        if self._answered or not challenge:
            raise MechanismFailed("its challenge is none of CRAM-MD5")
        self._answered = True
        digest = hmac.new(self._credentials.secret.encode(), challenge, hashlib.md5).hexdigest()
        return f"{self._credentials.username} {digest}".encode()

    def verify(self) -> None:
        """Take the server's word."""


def apop_timestamp(greeting: str) -> str | None:
    """Return what APOP hashes together with the password; None where a greeting has none."""
    found = _TIMESTAMP.search(greeting)
    return None if found is None else found.group()


def apop_digest(timestamp: str, password: str) -> str:
    """Return the digest of APOP, in hexadecimal digits."""
    return hashlib.md5((timestamp + password).encode(), usedforsecurity=False).hexdigest()
