"""Access tokens of a client by its own secret, asked for and not stored: for a trial."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from shared.oauth.client import OAuthClient
from shared.oauth.renewal import TokenSource


@dataclass(frozen=True, slots=True)
class UnstoredTokens:
    """See ``shared.authentication.tokens.AccessTokens``.

    Attributes:
        client: as what they are had.
        source: where.
    """

    client: OAuthClient
    source: TokenSource

    async def current(self) -> str:
        """Return a new one."""
        return (await self.source.ask_as_ourselves()).access_token

    async def renewed(self, refused: str) -> str:
        """Return a new one."""
        del refused
        return await self.current()

    async def grant(self) -> str:
        """Return what tokens are had by."""
        return await asyncio.to_thread(self.client.origin)
