"""What an authorization server says: tokens, or why there are none, put into words.

Strict where a token is believed, lenient where a server only adds. What nobody knows is temporary:
a page in HTML may come from a proxy on the way. Text of the server is cut short; secrets in it are
hidden by who asked.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

LIFETIME: Final = 3600.0
"""Seconds that an access token lasts of which the server does not say it."""

LONGEST: Final = 32 * 1024
"""Characters of a token; Microsoft's have up to some 4,000."""

_FOREVER: Final = 10 * 366 * 86_400.0
_TOKEN: Final = re.compile(r"[!-~]+")
"""Of a token (RFC 6749 appendix A.12 and A.17), less the blank: it has to fit into a header."""

_SHOWN: Final = 300
_TRACE: Final = re.compile(r"\s*(?:Trace ID|Correlation ID|Timestamp):.*", re.DOTALL)

FOR_GOOD: Final = frozenset(
    (
        "access_denied",
        "consent_required",
        "interaction_required",
        "invalid_client",
        "invalid_grant",
        "invalid_request",
        "invalid_resource",
        "invalid_scope",
        "invalid_target",
        "login_required",
        "unauthorized_client",
        "unsupported_grant_type",
        "unsupported_response_type",
    )
)
"""Error codes that a person has to do something about (RFC 6749 section 5.2, OpenID Connect)."""

_MEANINGS: Final[Mapping[str, str]] = {
    "invalid_client": "it does not accept the client: has the secret or the certificate expired?",
    "invalid_scope": "it does not know the scope, or not for this client",
    "unauthorized_client": "this client may not use this flow: is it allowed where it is"
    " registered?",
    "unsupported_grant_type": "it does not offer this flow",
}


class Unreadable(Exception):
    """The answer is none of an authorization server; its text says what it is."""


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """Tokens, as they were given.

    Attributes:
        access_token: for logins.
        lasts: seconds until it ends.
        refresh_token: to have another one by; None where none was given, or no new one.
        refresh_lasts: seconds until that ends, None where it does not, or nobody says.
    """

    access_token: str = field(repr=False)
    lasts: float
    refresh_token: str | None = field(default=None, repr=False)
    refresh_lasts: float | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error of RFC 6749 section 5.2.

    Attributes:
        code: such as ``invalid_grant``.
        said: all of it in words.
    """

    code: str
    said: str

    @property
    def for_good(self) -> bool:
        """Whether waiting does not help."""
        return self.code in FOR_GOOD


def read_json(status: int, kind: str, location: str, body: bytes) -> dict[str, Any]:
    """Return the JSON object in an answer.

    Args:
        status: of HTTP.
        kind: the content type.
        location: where a redirect leads to, "" where it is none.
        body: all of it.

    Raises:
        Unreadable: it is none.
    """
    if 300 <= status < 400:
        to = f" to {location}" if location else ""
        raise Unreadable(f"it redirects{to}, which is not followed: is the URL right?")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        what = "HTML" if "html" in kind.lower() else "no JSON"
        raise Unreadable(f"it answered {status} with {what}: is the URL right?") from None
    if not isinstance(found, dict):
        raise Unreadable(f"it answered {status} with JSON that is no object")
    return found


def refusal(status: int, said: Mapping[str, Any]) -> Refusal | None:
    """Return the error that an answer is, None where it is none."""
    code = said.get("error")
    if code is None and status < 400:
        return None
    if not isinstance(code, str):
        return Refusal("", f"it answered {status}, and does not say why")
    return Refusal(code, in_words(code, said.get("error_description")))


def in_words(code: str, description: object = None) -> str:
    """Return an error code, what it means, and what the server says of it."""
    text = _TRACE.sub("", description) if isinstance(description, str) else ""
    parts = (code[:100], _MEANINGS.get(code, ""), " ".join(text[:_SHOWN].split()))
    return ": ".join(filter(None, parts))


def tokens_in(said: Mapping[str, Any]) -> TokenAnswer:
    """Return the tokens in an answer.

    Raises:
        Unreadable: there are none that can be used.
    """
    kind = said.get("token_type", "bearer")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise Unreadable("it gave a token that is no bearer token")
    refresh = said.get("refresh_token") or None
    lasts = _seconds(said, "expires_in")
    ends = _seconds(said, "refresh_token_expires_in", "refresh_expires_in")
    return TokenAnswer(
        _token(said.get("access_token"), "access token"),
        lasts or LIFETIME,  # 0 would have one asked for at each poll
        None if refresh is None else _token(refresh, "refresh token"),
        ends or None,  # 0 for one that does not end
    )


def _token(value: object, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise Unreadable(f"there is no {what} in its answer")
    if len(value) > LONGEST or not _TOKEN.fullmatch(value):
        raise Unreadable(f"the {what} in its answer is none")
    return value


def _seconds(said: Mapping[str, Any], *keys: str) -> float | None:
    """Return the seconds that one of these keys gives; some servers write them as a text."""
    value = next((said[key] for key in keys if said.get(key) is not None), None)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return min(found, _FOREVER) if math.isfinite(found) and found >= 0 else None
