"""Access tokens of OAuth for accounts and destinations, by their settings and the state database.

What it takes (Authlib, httpx2, cryptography) is loaded where there is somebody with an oauth table,
and nowhere else. Accounts whose client proves itself by its own secret share the tokens of that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from shared.authentication.tokens import AccessTokens
from shared.clock import Clock
from shared.errors import ConfigError
from shared.log import Report
from shared.oauth.client import OAuthClient
from shared.redaction.known_secrets import KnownSecrets
from shared.settings.account import AccountSettings
from shared.settings.model import DestinationSettings, Settings
from shared.settings.oauth import OAuthSettings

if TYPE_CHECKING:
    from shared.oauth.renewal import RenewedTokens
    from shared.oauth.sealing import KeySource, Sealing
    from shared.state import State

AUTHORIZE: Final = "Run: pop3-connector account authorize"
_PEM_LIMIT: Final = 64 * 1024
_BY_A_PERSON: Final = ("code", "device")


def account_key(name: str) -> str:
    """Return what the tokens of an account are stored under."""
    return f"account:{name}"


def destination_key(name: str) -> str:
    """Return what the tokens of a destination are stored under."""
    return f"destination:{name}"


def client_of_account(table: AccountSettings) -> OAuthClient:
    """Return as what an account has its tokens; it has an oauth table."""
    return _client(f"account {table.name}", table.oauth, table.username, table.name)


def client_of_destination(name: str, table: DestinationSettings) -> OAuthClient:
    """Return as what a destination has its tokens; it has an oauth table."""
    user = table.username or unquote(table.url.username or "")
    return _client(f"destination {name}", table.oauth, user, f"--destination {name}")


def _client(whose: str, oauth: OAuthSettings | None, user: str, arguments: str) -> OAuthClient:
    if oauth is None:
        raise ConfigError(whose, "there is no oauth table")
    by_person = oauth.flow in _BY_A_PERSON
    advice = f"{AUTHORIZE} {arguments}" if by_person else _ADVICE[oauth.flow]
    return OAuthClient(
        whose,
        oauth.flow,
        oauth.client_id,
        oauth.endpoint("token_url") or "",
        oauth.endpoint("authorize_url"),
        oauth.endpoint("device_url"),
        oauth.scope,
        None if oauth.secret is None else oauth.secret.reveal,
        _certificate(whose, oauth),
        oauth.client_auth == "basic",
        None if oauth.seed is None else oauth.seed.reveal,
        oauth.authorize_options,
        oauth.redirect_url.reveal(),
        user,
        None if oauth.ca_file is None else str(oauth.ca_file),
        advice,
    )


_ADVICE: Final[Mapping[str, str]] = {
    "client_credentials": "Look at client_id, the secret, scope and tenant in the oauth table",
    "refresh_token": "Put another refresh token into the configuration",
}


def _certificate(whose: str, oauth: OAuthSettings) -> partial[bytes] | None:
    files = [file for file in (oauth.certificate_file, oauth.certificate_key_file) if file]
    return partial(_read_pem, whose, files) if files else None


def _read_pem(whose: str, files: list[Path]) -> bytes:
    texts = []
    for path in files:
        try:
            with path.open("rb") as file:
                texts.append(file.read(_PEM_LIMIT))
        except OSError as error:
            raise ConfigError(f"{whose}: {path}", f"cannot read it: {error.strerror}") from error
    return b"\n".join(texts)


def key_source(settings: Settings) -> KeySource:
    """Return where the keys are that tokens are encrypted with."""
    from shared.oauth.sealing import KeyFile, KeyVariable

    if settings.oauth.key_env is not None:
        return KeyVariable(settings.oauth.key_env, os.environ)
    return KeyFile(settings.token_key_file)


def sealing(settings: Settings) -> Sealing:
    """Return what encrypts tokens."""
    source = key_source(settings)
    from shared.oauth.sealing import Sealing

    return Sealing(source)


def require_usable(settings: Settings) -> None:
    """Make sure that tokens can be had and encrypted here; no key is made.

    Raises:
        ConfigError: what is there is no key, or it cannot be read.
    """
    seals = sealing(settings)
    import shared.oauth.token_server  # noqa: F401

    key_source(settings).read()  # first: whether a file is there cannot be said in a closed folder
    if settings.oauth.key_env is not None or settings.token_key_file.exists():
        seals.require_key()


def require_certificate(client: OAuthClient) -> None:
    """Make sure that a client has a certificate and its private key.

    Raises:
        ConfigError: they cannot be had, or do not belong together.
    """
    if client.certificate is not None:
        from shared.oauth.certificate import signing_key

        signing_key(client.certificate(), client.whose)


def unstored_tokens(client: OAuthClient, known: KnownSecrets) -> AccessTokens:
    """Return the tokens of a client that proves itself by its own secret, for a trial."""
    from shared.oauth.token_server import TokenServer
    from shared.oauth.unstored import UnstoredTokens

    return UnstoredTokens(client, TokenServer(client, known))


class OAuthTokens:
    """The access tokens of one process.

    Args:
        settings: the configuration.
        state: where they are stored, and who renews them.
        clock: the time.
        known: learns them, so that no server is quoted with one.
        report: is told of an authorization that ends.
    """

    def __init__(
        self, settings: Settings, state: State, clock: Clock, known: KnownSecrets, report: Report
    ) -> None:
        self._sealing = sealing(settings)
        self._state = state
        self._clock = clock
        self._known = known
        self._report = report
        self._made: dict[str, RenewedTokens] = {}
        from shared.oauth.renewal import RenewedTokens
        from shared.oauth.token_server import TokenServer

        self._renewed, self._server = RenewedTokens, TokenServer

    def of_account(self, table: AccountSettings) -> RenewedTokens:
        """Return the tokens of an account that has an oauth table."""
        return self._of(account_key(table.name), client_of_account(table))

    def of_destination(self, name: str, table: DestinationSettings) -> AccessTokens:
        """Return the tokens of a destination that has an oauth table."""
        from shared.oauth.of_destination import DestinationTokens

        client = client_of_destination(name, table)
        return DestinationTokens(client.whose, self._of(destination_key(name), client))

    def _of(self, name: str, client: OAuthClient) -> RenewedTokens:
        if client.flow == "client_credentials":
            name = client.shared_name
        if name not in self._made:
            self._made[name] = self._renewed(
                name,
                client,
                self._server(client, self._known),
                self._state,
                self._state.tokens,
                self._sealing,
                self._clock,
                self._known,
                self._report,
            )
        return self._made[name]
