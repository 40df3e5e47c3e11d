"""As what we are registered at an authorization server, and how access tokens are had there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Flow: TypeAlias = Literal["client_credentials", "code", "device", "refresh_token"]


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """A client of an authorization server (RFC 6749 section 2).

    Attributes:
        whose: what it is for, as errors name it: ``account sales``.
        flow: how its tokens are had.
        client_id: as what it is registered.
        token_url: where tokens are had.
        authorize_url: where a person authorizes it, in a browser.
        device_url: where the device flow begins.
        scope: what for, with blanks between; "" for what the server gives by itself.
        secret: returns the client secret; it may block. None where there is none.
        certificate: returns PEM of a certificate and its private key, in place of the secret.
        in_header: the secret goes into a header (HTTP Basic), not into the form.
        seed: returns a refresh token that was got elsewhere; it may block.
        authorize_options: what else stands in the address for the browser.
        redirect_url: where that is led back to; without a port, any port.
        login_hint: whom the authorization is of, for the server's form.
        ca_file: PEM of the authorities to trust, None for those of the system.
        advice: what a person is to do who has to authorize it again.
    """

    whose: str
    flow: Flow
    client_id: str
    token_url: str
    authorize_url: str | None = None
    device_url: str | None = None
    scope: str = ""
    secret: Callable[[], str] | None = field(default=None, repr=False)
    certificate: Callable[[], bytes] | None = field(default=None, repr=False)
    in_header: bool = False
    seed: Callable[[], str] | None = field(default=None, repr=False)
    authorize_options: Mapping[str, str] = field(default_factory=dict)
    redirect_url: str = "http://localhost"
    login_hint: str = ""
    ca_file: str | None = None
    advice: str = ""

    @property
    def shared_name(self) -> str:
        """What tokens are stored under that do not depend on whose mail is fetched."""
        about = f"{self.token_url}\x00{self.client_id}\x00{self.scope}"
        return f"client:{hashlib.sha256(about.encode()).hexdigest()[:32]}"

    def origin(self) -> str:
        """Return what tokens are had by, as a hash: of a secret, certificate or refresh token.

        With another one those had before count no more. Blocks where the secret does.

        Raises:
            ConfigError: it cannot be had.
        """
        if self.flow == "refresh_token":
            proof = b"" if self.seed is None else self.seed().encode()
        elif self.certificate is not None:
            proof = self.certificate()
        else:
            proof = b"" if self.secret is None else self.secret().encode()
        about = f"{self.flow}\x00{self.token_url}\x00{self.client_id}\x00{self.scope}".encode()
        return hashlib.sha256(about + b"\0" + proof).hexdigest()
