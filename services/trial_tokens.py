"""Access tokens for a login that is only tried: ``check-config --connect``, ``account test``.

Those of a client by its own secret are asked for, and stored nowhere. Where a person has authorized
us, they are read, and renewed and stored if need be: what an authorization server gives must not be
lost. No database is made for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from services.postmaster.opening import missing_database
from shared.authentication.tokens import AccessTokens
from shared.clock import SystemClock
from shared.errors import ConfigError, StateUnavailable
from shared.log import silent
from shared.oauth.client import OAuthClient
from shared.redaction.known_secrets import KnownSecrets
from shared.settings.access_tokens import (
    OAuthTokens,
    client_of_account,
    client_of_destination,
    unstored_tokens,
)
from shared.settings.account import AccountSettings
from shared.settings.model import DestinationSettings, Settings

if TYPE_CHECKING:
    from shared.state import State


class TrialTokens:
    """Where access tokens come from; the state database is opened for the first that needs it.

    Args:
        settings: the configuration.
        known: learns them.
    """

    def __init__(self, settings: Settings, known: KnownSecrets) -> None:
        self._settings = settings
        self._known = known
        self._opened: asyncio.Future[State] | None = None

    async def of_account(self, table: AccountSettings) -> AccessTokens | None:
        """Return those of an account, None where it has a password.

        Raises:
            ConfigError: see ``_of``.
        """
        if table.oauth is None:
            return None
        return await self._of(client_of_account(table), lambda tokens: tokens.of_account(table))

    async def of_destination(self, name: str, table: DestinationSettings) -> AccessTokens | None:
        """Return those of a destination, None where it has none.

        Raises:
            ConfigError: see ``_of``.
        """
        if table.oauth is None:
            return None
        client = client_of_destination(name, table)
        return await self._of(client, lambda tokens: tokens.of_destination(name, table))

    async def _of(
        self, client: OAuthClient, choose: Callable[[OAuthTokens], AccessTokens]
    ) -> AccessTokens:
        """Return those of a client.

        Raises:
            ConfigError: nobody can have authorized it yet, or a package is not installed.
        """
        if client.flow == "client_credentials":
            return unstored_tokens(client, self._known)
        if missing_database(self._settings) is not None:
            raise ConfigError(client.whose, f"nobody has authorized it yet. {client.advice}")
        if self._opened is None:
            self._opened = asyncio.ensure_future(self._open())
        state = await asyncio.shield(self._opened)
        tokens = OAuthTokens(self._settings, state, SystemClock(), self._known, silent)
        return choose(tokens)

    async def _open(self) -> State:
        from shared.state import State, new_owner  # SQLAlchemy takes its time to load

        return await State.open(self._settings.state_address(), owner=new_owner())

    async def close(self) -> None:
        """Disconnect."""
        if self._opened is not None:
            with suppress(ConfigError, StateUnavailable):
                await (await self._opened).close()
