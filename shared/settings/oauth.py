"""``[account.oauth]``, ``[destinations.NAME.oauth]`` and ``[oauth]``: access tokens for logins.

A table of the first two says as what we are registered at an authorization server, and by which
flow of OAuth 2.0 (RFC 6749) access tokens are had there. ``[oauth]`` says which key they are stored
under. Tokens and secrets go over TLS, or do not leave this machine: other URLs are refused.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from shared.settings.fields import Location, ParsedField, Password, matching
from shared.settings.secret import Secret, sources
from shared.settings.table import Table, given_secret
from shared.settings.values import Url

Flow: TypeAlias = Literal["client_credentials", "code", "device", "refresh_token"]

_TENANT: Final = "{tenant}"
_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "client_credentials": ("token_url",),
    "code": ("authorize_url", "token_url"),
    "device": ("device_url", "token_url"),
    "refresh_token": ("token_url",),
}
"""The URLs that a flow cannot do without."""

OAUTH_FILE_KEYS: Final = (
    "client_secret_file",
    "refresh_token_file",
    "certificate_file",
    "certificate_key_file",
    "key_file",
)
"""Keys that end in ``_file`` by their own name."""


def on_loopback(host: str) -> bool:
    """Return whether what is sent to a host does not leave this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _endpoint(value: object) -> Url:
    """Return the URL of an authorization server: https, or http on this machine."""
    url = Url.parse(value)
    parts = urlsplit(url.reveal())
    if parts.username is not None or parts.fragment:
        raise ValueError("expected a URL without a user name, a password or a #")
    if url.scheme == "http" and parts.hostname and not on_loopback(parts.hostname):
        raise ValueError("expected https://: over http tokens and secrets would go in clear")
    if url.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected https://host/path")
    return url


def _redirect(value: object) -> Url:
    """Return the URL that the browser is led back to: on this machine (RFC 8252 section 7.3)."""
    url = Url.parse(value)
    parts = urlsplit(url.reveal())
    here = parts.hostname is not None and on_loopback(parts.hostname)
    if url.scheme != "http" or not here or parts.query or parts.fragment:
        raise ValueError("expected http://localhost, http://127.0.0.1 or http://[::1]")
    return url


def _scope(value: object) -> str:
    """Return the scopes in a text with blanks between them, or in a list."""
    words = value if isinstance(value, list | tuple) else str(value).split()
    # RFC 6749 section 3.3: printable ASCII but for the quotation mark and the backslash.
    for word in words:
        if not isinstance(word, str) or not re.fullmatch(r"[!#-\[\]-~]+", word):
            raise ValueError("expected scopes, as a text with blanks between them, or a list")
    return " ".join(words)


Endpoint: TypeAlias = Annotated[Url, ParsedField(_endpoint)]
Redirect: TypeAlias = Annotated[Url, ParsedField(_redirect)]
Scope: TypeAlias = Annotated[str, ParsedField(_scope)]
Id: TypeAlias = Annotated[str, matching(r"[ -~]{1,500}", "an identifier, as it was registered")]
Variable: TypeAlias = Annotated[
    str, matching(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")
]
Tenant: TypeAlias = Annotated[
    str,
    matching(
        r"[A-Za-z0-9.-]{1,253}",
        "the id of the tenant, or one of its domains, such as contoso.onmicrosoft.com",
    ),
]


class OAuthSettings(Table):
    """``[account.oauth]`` or ``[destinations.NAME.oauth]``: how access tokens are had.

    Attributes:
        flow: ``client_credentials`` as ourselves; ``code`` and ``device`` for a person, who
            authorizes us once; ``refresh_token`` with one that was got elsewhere.
        client_id: as what we are registered.
        certificate_file: PEM, in place of a secret; with its private key, or that is in
            ``certificate_key_file``.
        client_auth: how the secret is sent: in the form, or in a header.
        token_url: ``{tenant}`` in it, as in the other two, stands for ``tenant``.
        authorize_options: what else the address has that a person authorizes us at.
        redirect_url: on this machine; without a port any will do (RFC 8252).
        ca_file: PEM certificates of the authorities to trust, in place of the system's.
    """

    flow: Flow
    client_id: Id
    client_secret: Password | None = None
    client_secret_file: Password | None = None
    client_secret_env: Password | None = None
    client_secret_command: Password | None = None
    certificate_file: Location | None = None
    certificate_key_file: Location | None = None
    client_auth: Literal["post", "basic"] = "post"
    token_url: Endpoint | None = None
    authorize_url: Endpoint | None = None
    device_url: Endpoint | None = None
    scope: Scope = ""
    tenant: Tenant | None = None
    authorize_options: Mapping[str, str] = Field(default_factory=dict)
    redirect_url: Redirect = Url("http://localhost")
    refresh_token: Password | None = None
    refresh_token_file: Password | None = None
    refresh_token_env: Password | None = None
    refresh_token_command: Password | None = None
    ca_file: Location | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> OAuthSettings:
        for key in _NEEDED[self.flow]:
            if getattr(self, key) is None:
                raise ValueError(f'flow = "{self.flow}" needs a {key}')
        for key in ("token_url", "authorize_url", "device_url"):
            if self.tenant is None and _TENANT in str(getattr(self, key)):
                raise ValueError(f"there is {_TENANT} in the {key}, but no tenant")
        if (self.seed is not None) != (self.flow == "refresh_token"):
            raise ValueError('a refresh token belongs to flow = "refresh_token", and to no other')
        return self

    @model_validator(mode="after")
    def _knows_how_to_prove_itself(self) -> OAuthSettings:
        if self.secret is not None and self.certificate_file is not None:
            raise ValueError("there are a client secret and a certificate: one of them is enough")
        if self.certificate_key_file is not None and self.certificate_file is None:
            raise ValueError("there is a certificate_key_file, but no certificate_file")
        if self.flow == "client_credentials" and not (self.secret or self.certificate_file):
            expected = ", ".join((*sources("client_secret"), "certificate_file"))
            raise ValueError(f"there is no client secret: expected one of {expected}")
        return self

    @property
    def secret(self) -> Secret | None:
        """The client secret, whichever way it was given."""
        return given_secret(self, "client_secret")

    @property
    def seed(self) -> Secret | None:
        """The refresh token that was got elsewhere, whichever way it was given."""
        return given_secret(self, "refresh_token")

    @property
    def secrets(self) -> Iterator[Secret]:
        """Yield what must not be shown."""
        return filter(None, (self.secret, self.seed))

    def endpoint(self, key: str) -> str | None:
        """Return one of the URLs, with the tenant in it; None where it is not set.

        Args:
            key: ``token_url``, ``authorize_url`` or ``device_url``.
        """
        url: Url | None = getattr(self, key)
        return None if url is None else url.reveal().replace(_TENANT, self.tenant or "")


class TokenKeySettings(Table):
    """``[oauth]``: the key that access tokens and refresh tokens are encrypted with.

    Attributes:
        key_file: made where it is missing; ``oauth.key`` in ``data_dir`` unless set.
        key_env: the name of an environment variable that holds the key, in place of a file.
    """

    key_file: Location | None = None
    key_env: Variable | None = None

    @model_validator(mode="after")
    def _one_key(self) -> TokenKeySettings:
        if self.key_file is not None and self.key_env is not None:
            raise ValueError("the key is given twice: key_file and key_env")
        return self
