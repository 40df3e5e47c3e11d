"""Logging in by an access token of OAuth: XOAUTH2 (Google's and Microsoft's) and OAUTHBEARER.

Both send the token at once. Where it is refused, the server says why as a challenge, in JSON, and
wants an answer before it refuses: an empty one, or ^A (RFC 7628 section 3.2.3). What it says is put
into words.
"""

from __future__ import annotations

import json
import re
from typing import Final

from shared.authentication.mechanism import Credentials, MechanismFailed

_SHOWN: Final = ("status", "error", "error_description", "scope", "schemes")
"""What is shown of what a server says, in this order; more would be no help."""

_UNPRINTABLE: Final = re.compile(r"[^ -~]+")
_LONGEST: Final = 200


class _Bearer:
    """What both have in common: a message with the token, and JSON if it is refused."""

    def __init__(self, message: str, to_refusal: bytes) -> None:
        self._message = message.encode()
        self._to_refusal = to_refusal
        self._refused = False
        self.explanation = ""

    def start(self) -> bytes | None:
        """Return all of it."""
        return self._message

    def answer(self, challenge: bytes) -> bytes:
        """Take in why the token is refused, and let the server go on to its refusal."""
        if self._refused:
            raise MechanismFailed("it asks for more than an access token")
        self._refused = True
        self.explanation = _in_words(challenge)
        return self._to_refusal

    def verify(self) -> None:
        """Take the server's word, unless it has refused the token before."""
        if self._refused:
            raise MechanismFailed("it refused the token, and then said that all is well")


def xoauth2(credentials: Credentials) -> _Bearer:
    """Return a try by XOAUTH2."""
    user, token = credentials.username, credentials.secret
    return _Bearer(f"user={user}\1auth=Bearer {token}\1\1", b"")


def oauthbearer(credentials: Credentials) -> _Bearer:
    """Return a try by OAUTHBEARER (RFC 7628); the name is one of RFC 5801, with ``,`` and ``=``."""
    user = credentials.username.replace("=", "=3D").replace(",", "=2C")
    where = f"host={credentials.host}\1port={credentials.port}\1"
    return _Bearer(f"n,a={user},\1{where}auth=Bearer {credentials.secret}\1\1", b"\1")


def _in_words(challenge: bytes) -> str:
    """Return what a refusal in JSON says, as ``status 401, scope ...``; safe to show."""
    try:
        said = json.loads(challenge)
    except (ValueError, RecursionError):
        said = {}
    if not isinstance(said, dict):
        return ""
    words = (
        f"{key.replace('_', ' ')} {said[key]}" for key in _SHOWN if isinstance(said.get(key), str)
    )
    return _UNPRINTABLE.sub(" ", ", ".join(words))[:_LONGEST]
