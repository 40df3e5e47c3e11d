"""The access tokens of a destination, with all that can go wrong said as a courier knows it.

A courier knows servers alone: neither a database that is away, nor a key that is missing.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass

from shared.authentication.tokens import AccessTokens
from shared.errors import ConfigError, StateUnavailable, TokenRefused, TokenUnavailable


@dataclass(frozen=True, slots=True)
class DestinationTokens:
    """See ``shared.authentication.tokens.AccessTokens``.

    Attributes:
        whose: ``destination NAME``.
        tokens: where they come from.
    """

    whose: str
    tokens: AccessTokens

    async def current(self) -> str:
        """Return a token that is not about to end."""
        return await self._told(self.tokens.current())

    async def renewed(self, refused: str) -> str:
        """Return another one than this, which a server has refused before its time."""
        return await self._told(self.tokens.renewed(refused))

    async def grant(self) -> str:
        """Return what they are had by."""
        return await self._told(self.tokens.grant())

    async def _told(self, work: Awaitable[str]) -> str:
        try:
            return await work
        except StateUnavailable as error:
            raise TokenUnavailable(self.whose, f"the state database: {error}") from error
        except ConfigError as error:
            raise TokenRefused(self.whose, str(error)) from error
