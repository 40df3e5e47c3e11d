"""Where an access token comes from, for whoever logs in with one (implemented by shared.oauth)."""

from __future__ import annotations

from typing import Protocol


class AccessTokens(Protocol):
    """The access tokens of one account or destination.

    The first two may raise TokenUnavailable, where waiting helps, and TokenRefused, where a person
    has to do something.
    """

    async def current(self) -> str:
        """Return a token that is not about to end."""

    async def renewed(self, refused: str) -> str:
        """Return another one than this, which a server has refused before its time."""

    async def grant(self) -> str:
        """Return what they are had by: another text once a person has done something."""
