"""What is stored of tokens: one row for an account, a destination, or a client of its own.

What may not be read is sealed (``TokenSet``); beside it stands what tells how the tokens are, so
that a command can say it without the key.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Final, NamedTuple

from shared.oauth.token_answer import TokenAnswer

AHEAD: Final = 300.0
"""Seconds before its end from which on a token is renewed; a fifth of its time, if that is less."""

ENDING: Final = 7.5 * 86_400.0
"""Seconds before the end of an authorization from which on a person is told."""

SLIDES: Final = 600.0
"""Seconds by which a renewal has to put off the end of a refresh token for that to be no date."""


class TokenRecord(NamedTuple):
    """A row.

    Attributes:
        name: whose tokens: ``account:NAME``, ``destination:NAME``, ``client:HASH``.
        grant: another one each time a person authorizes us, or puts another refresh token into the
            configuration.
        sealed: the tokens, encrypted.
        authorized: when that was, in seconds since 1970.
        changed: when the tokens were renewed last.
        asked: when a renewal began of which nobody knows how it ended; None mostly.
        ends: when the tokens can be renewed no longer, None where that is not known or no date.
    """

    name: str
    grant: str
    sealed: str
    authorized: float
    changed: float
    asked: float | None = None
    ends: float | None = None


@dataclass(frozen=True, slots=True)
class TokenSet:
    """What is sealed.

    Attributes:
        access: the access token.
        until: when it ends, in seconds since 1970.
        ahead: seconds before that from which on it is renewed.
        refresh: the refresh token, None where there is none.
        refresh_until: when that ends, as it was said last.
        origin: a hash of what it was had by: with another secret it counts no more.
    """

    access: str = field(repr=False)
    until: float
    ahead: float
    refresh: str | None = field(default=None, repr=False)
    refresh_until: float | None = None
    origin: str = ""

    def write(self) -> bytes:
        """Return it as bytes."""
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def read(data: bytes) -> TokenSet:
        """Return what was written; what a newer version added is left out."""
        found = json.loads(data)
        return TokenSet(**{key: found[key] for key in TokenSet.__slots__ if key in found})

    def renewed(self, answer: TokenAnswer, now: float) -> TokenSet:
        """Return what is stored of an answer; a refresh token that it does not replace stays.

        Args:
            answer: of the authorization server.
            now: the wall clock.
        """
        until = None if answer.refresh_lasts is None else now + answer.refresh_lasts
        if until is None and answer.refresh_token in (None, self.refresh):
            until = self.refresh_until
        return TokenSet(
            answer.access_token,
            now + answer.lasts,
            min(AHEAD, answer.lasts / 5),
            answer.refresh_token or self.refresh,
            until,
            self.origin,
        )

    def end_after(self, before: TokenSet) -> float | None:
        """Return when all ends for good: no date where a renewal has put it off.

        Args:
            before: what this was renewed by.
        """
        now, then = self.refresh_until, before.refresh_until
        if now is None or (then is not None and now > then + SLIDES):
            return None
        return now
