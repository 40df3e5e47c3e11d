"""Asks an authorization server: for tokens, and for the codes of the device flow.

The protocol is Authlib's (RFC 6749, 7523, 8628), over httpx2: both are kept, Authlib signs client
assertions with the thumbprint that Entra wants, which oauthlib does not, and MSAL knows Microsoft
alone. Each request has a connection of its own: there is one an hour.

It trusts nobody whose certificate does not verify, and of an answer what ``token_answer`` makes of
it: at most ``BOUND`` bytes within ``PATIENCE`` seconds, uncompressed, and no redirect is followed.
Proxies are those of the environment (HTTPS_PROXY, else ALL_PROXY; NO_PROXY), but plain http, which
is for this machine, never takes one. Known limit: no SOCKS here, and a proxy that is named is never
gone around.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc.jwk import ECKey, RSAKey

from shared.errors import ConfigError, TokenRefused, TokenUnavailable
from shared.log import printable
from shared.network.tls import verifying
from shared.oauth.certificate import SigningKey, signing_key
from shared.oauth.client import OAuthClient
from shared.oauth.token_answer import (
    Refusal,
    TokenAnswer,
    Unreadable,
    read_json,
    refusal,
    tokens_in,
)
from shared.redaction.known_secrets import KnownSecrets

PATIENCE: Final = 30.0
"""Seconds for one request, from the look-up of the name to the end of the answer."""

BOUND: Final = 256 * 1024
"""Bytes of an answer; the largest are some 10,000."""

ASSERTION: Final = 300
"""Seconds that a client assertion counts; Entra wants 5 to 10 minutes at the most."""

DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"

_INTERVAL: Final = 5.0
"""Seconds between two questions of the device flow, where the server names none (RFC 8628)."""

_HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """How a person authorizes us on another device (RFC 8628 section 3.2).

    Attributes:
        device_code: ours, to ask with.
        user_code: the person's, to type in.
        address: where.
        direct_address: the same with the code in it, "" where there is none.
        lasts: seconds until both end.
        interval: seconds between two questions.
    """

    device_code: str = field(repr=False)
    user_code: str
    address: str
    direct_address: str
    lasts: float
    interval: float


class AskedTooEarly(Exception):
    """The person has not decided yet.

    Args:
        slower: whether to ask less often from now on.
    """

    def __init__(self, *, slower: bool) -> None:
        super().__init__()
        self.slower = slower


class _Bounded(httpx2.AsyncByteStream):
    """The body of an answer, as long as it is not too long."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = BOUND
        async for chunk in self._stream:
            left -= len(chunk)
            if left < 0:
                raise Unreadable(f"its answer has more than {BOUND} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _bound(response: httpx2.Response) -> None:
    """Have no more read of an answer than is taken."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise Unreadable("its answer is compressed, though that was not asked for")
    if isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _Bounded(response.stream)


class TokenServer:
    """The authorization server of one client.

    Args:
        client: as what we are registered there.
        known: learns all secrets and tokens, so that no server is quoted with one.
    """

    def __init__(self, client: OAuthClient, known: KnownSecrets) -> None:
        self._client = client
        self._known = known

    @property
    def server(self) -> str:
        """Which one, as ``host:port``."""
        parts = urlsplit(self._client.token_url)
        usual = 443 if parts.scheme == "https" else 80
        return f"{parts.hostname}:{parts.port or usual}"

    async def ask_as_ourselves(self) -> TokenAnswer:
        """Return a token by our own secret (RFC 6749 section 4.4).

        Raises:
            TokenUnavailable: not now.
            TokenRefused: not before a person does something.
            ConfigError: our secret or certificate cannot be had.
        """
        return await self._ask("client_credentials", {})

    async def refresh(self, refresh_token: str) -> TokenAnswer:
        """Return a token by a refresh token (RFC 6749 section 6), and perhaps a new one of these.

        The scope is left out: it stays what was authorized.

        Raises:
            TokenUnavailable: not now; it is not known whether the old one still counts.
            TokenRefused: not before a person does something.
            ConfigError: our secret or certificate cannot be had.
        """
        self._known.learn(refresh_token)
        return await self._ask("refresh_token", {"refresh_token": refresh_token}, scope=False)

    async def redeem(self, code: str, verifier: str, redirect: str) -> TokenAnswer:
        """Return the tokens for a code that a browser brought (RFC 6749 section 4.1.3, RFC 7636).

        Raises:
            TokenUnavailable: not now.
            TokenRefused: not for this code.
            ConfigError: our secret or certificate cannot be had.
        """
        more = {"code": code, "code_verifier": verifier, "redirect_uri": redirect}
        return await self._ask("authorization_code", more, scope=False)

    async def ask_for_device(self, code: DeviceCode) -> TokenAnswer:
        """Return the tokens of the device flow (RFC 8628 section 3.4).

        Raises:
            AskedTooEarly: the person has not decided yet.
            TokenUnavailable: not now.
            TokenRefused: the person refuses, or the code has ended.
            ConfigError: our secret or certificate cannot be had.
        """
        more = {"device_code": code.device_code}
        return await self._ask(DEVICE_GRANT, more, scope=False)

    async def begin_device(self) -> DeviceCode:
        """Return how a person is to authorize us (RFC 8628 section 3.1).

        Raises:
            TokenUnavailable: not now.
            TokenRefused: not before a person does something.
            ConfigError: our secret or certificate cannot be had.
        """
        url, body = self._client.device_url or "", self._fields(scope=True)
        async with self._session(url) as session:
            auth = session.client_auth(session.token_endpoint_auth_method)
            answer = await session.post(url, data=body, auth=auth)
            return _device_code(self._checked(answer))

    async def _ask(self, grant: str, more: Mapping[str, str], *, scope: bool = True) -> TokenAnswer:
        """Ask for tokens."""
        found: list[TokenAnswer] = []

        def check(answer: httpx2.Response) -> httpx2.Response:
            said = self._checked(answer)
            found.append(tokens_in(said))
            # Authlib reads it once more, and would fail at a lifetime that is no number.
            return httpx2.Response(200, json={"access_token": found[0].access_token})

        fields = {**more, **self._fields(scope=scope)}
        async with self._session(self._client.token_url) as session:
            session.register_compliance_hook("access_token_response", check)
            await session.fetch_token(self._client.token_url, grant_type=grant, **fields)
        answer = found[0]
        for token in filter(None, (answer.access_token, answer.refresh_token)):
            self._known.learn(token)
        return answer

    def _fields(self, *, scope: bool) -> dict[str, str]:
        """Return what stands in every form, but for what proves who we are."""
        fields = {}
        if self._client.certificate is not None or self._client.in_header:
            fields["client_id"] = self._client.client_id  # Entra wants it beside the assertion
        if scope and self._client.scope:
            fields["scope"] = self._client.scope
        return fields

    @asynccontextmanager
    async def _session(self, url: str) -> AsyncIterator[AsyncOAuth2Client]:
        """Yield what asks at a URL; what goes wrong is put into words."""
        secret, method = await asyncio.to_thread(self._credentials)
        context = self._context()
        try:
            async with (
                asyncio.timeout(PATIENCE),
                AsyncOAuth2Client(
                    self._client.client_id,
                    None if isinstance(secret, SigningKey) else secret,
                    token_endpoint_auth_method=method,
                    headers=_HEADERS,
                    verify=context,
                    timeout=PATIENCE,
                    follow_redirects=False,
                    proxy=_proxy(url),
                    trust_env=False,
                    event_hooks={"response": [_bound]},
                ) as session,
            ):
                if isinstance(secret, SigningKey):
                    self._sign_with(session, secret)
                yield session
        except TimeoutError:
            raise self._unavailable(f"no answer within {PATIENCE:g} seconds") from None
        except Unreadable as error:
            raise self._unavailable(str(error)) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, ValueError) as error:
            said = str(error) or type(error).__name__
            raise self._unavailable(f"it cannot be asked: {said}") from None

    def _credentials(self) -> tuple[str | SigningKey | None, str]:
        """Return what we prove ourselves with, and how. Blocks."""
        client = self._client
        if client.certificate is not None:
            return signing_key(client.certificate(), client.whose), PrivateKeyJWT.name
        if client.secret is None:
            return None, "none"
        secret = client.secret()
        self._known.learn(secret)
        return secret, "client_secret_basic" if client.in_header else "client_secret_post"

    def _sign_with(self, session: AsyncOAuth2Client, key: SigningKey) -> None:
        now, url = int(time.time()), self._client.token_url
        kind = RSAKey if key.algorithm == "RS256" else ECKey
        session.client_secret = kind.import_key(key.pem)
        headers = {"typ": "JWT", "x5t": key.thumbprint, "x5t#S256": key.thumbprint_sha256}
        claims = {"nbf": now, "exp": now + ASSERTION}
        session.register_client_auth_method(PrivateKeyJWT(url, claims, headers, key.algorithm))

    def _context(self) -> Any:
        try:
            return verifying(self._client.ca_file)
        except OSError as error:
            where = f"{self._client.whose}: oauth.ca_file {self._client.ca_file}"
            raise ConfigError(where, f"cannot use it: {error.strerror or error}") from error

    def _checked(self, answer: httpx2.Response) -> dict[str, Any]:
        """Return what an answer says.

        Raises:
            AskedTooEarly: the device flow goes on.
            TokenUnavailable: it is an error that passes.
            TokenRefused: it is one that does not.
            Unreadable: it is none of an authorization server.
        """
        headers, status = answer.headers, answer.status_code
        if status >= 500 or status == 429:
            raise self._unavailable(f"it answered {status}")
        location = headers.get("location", "")
        said = read_json(status, headers.get("content-type", ""), location, answer.content)
        refused = refusal(status, said)
        if refused is None:
            return said
        if refused.code in ("authorization_pending", "slow_down"):
            raise AskedTooEarly(slower=refused.code == "slow_down")
        if refused.for_good or refused.code == "expired_token":
            raise self._refused(refused)
        raise self._unavailable(refused.said)

    def _refused(self, refused: Refusal) -> TokenRefused:
        return TokenRefused(self.server, self._shown(refused.said))

    def _unavailable(self, said: str) -> TokenUnavailable:
        return TokenUnavailable(self.server, self._shown(said))

    def _shown(self, said: str) -> str:
        return printable(self._known.hidden(said))


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment names for a URL, None for no such.

    Raises:
        Unreadable: it is none that we can speak to.
    """
    parts, named = urlsplit(url), getproxies()
    if parts.scheme != "https" or proxy_bypass(parts.hostname or ""):
        return None
    proxy = named.get("https") or named.get("all")
    if not proxy:
        return None
    scheme, separator, _ = proxy.partition("://")
    if not separator:
        return f"http://{proxy}"
    if scheme.lower() not in ("http", "https"):
        raise Unreadable(
            f"it cannot be asked: the environment names a proxy {scheme}://, and token servers are"
            " asked through http:// alone: name one in HTTPS_PROXY, or the server in NO_PROXY"
        )
    return proxy


def _device_code(said: Mapping[str, Any]) -> DeviceCode:
    """Return the codes in an answer; Google calls the address ``verification_url``."""
    texts = {
        "device_code": said.get("device_code"),
        "user_code": said.get("user_code"),
        "address": said.get("verification_uri") or said.get("verification_url"),
        "direct_address": said.get("verification_uri_complete") or "",
    }
    for what, text in texts.items():
        if not isinstance(text, str) or not text.isprintable() or len(text) > 2_000:
            raise Unreadable(f"there is no {what.replace('_', ' ')} in its answer")
    lasts, interval = said.get("expires_in"), said.get("interval")
    return DeviceCode(
        str(texts["device_code"]),
        str(texts["user_code"]),
        str(texts["address"]),
        str(texts["direct_address"]),
        float(lasts) if isinstance(lasts, int | float) and 0 < lasts < 86_400 else 600.0,
        float(interval) if isinstance(interval, int | float) and 0 < interval < 600 else _INTERVAL,
    )
