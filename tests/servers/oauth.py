"""An authorization server of the tests' own, in a process of its own, over http or TLS.

It does what RFC 6749, 7636, 8628, 7523 and 7662 say: codes with PKCE, refresh tokens that are
rotated and, used twice, revoke all that came of them, the device flow, client assertions that are
verified. It is strict: what it does not expect is refused. A test changes what it does by
``settings``, and reads in ``log`` what was asked of it.
"""

import base64
import contextlib
import hashlib
import json
import secrets
import ssl
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwt
from joserfc.jwk import import_key

from tests.servers.certificates import Certificates
from tests.servers.process import accepts, free_port, running

CLIENT, SECRET = "connector", "s3cret~of+the%client"
PUBLIC = "public"
CERTIFIED = "certified"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

DEFAULTS: dict[str, Any] = {
    "expires_in": 3600,  # of access tokens; None for nothing said
    "refresh_expires_in": None,
    "rotate": True,  # refresh tokens, with reuse detection
    "refresh": True,  # whether refresh tokens are given at all
    "deny": False,  # the person refuses
    "hold": False,  # the answer to a refresh, after all is done
    "misbehave": None,  # one of the keys of MISBEHAVIOURS
    "interval": 0.05,
    "slow_down": 0,  # so many times
    "certificate": None,  # PEM of the client that has one
    "username": "sales",  # whose mailbox all tokens are for
}

MISBEHAVIOURS: dict[str, tuple[int, str, bytes]] = {
    "html": (200, "text/html", b"<html>Please log in to the hotel</html>"),
    "not found": (404, "text/html", b"<html>404</html>"),
    "list": (200, "application/json", b"[1, 2]"),
    "deep": (200, "application/json", b"[" * 100_000),
    "empty": (200, "application/json", b"{}"),
    "huge": (200, "application/json", b'{"access_token": "' + b"x" * 1_000_000 + b'"}'),
    "long token": (200, "application/json", b'{"access_token": "' + b"x" * 40_000 + b'"}'),
    "two lines": (200, "application/json", b'{"access_token": "a\\r\\nDELE 1"}'),
    "number": (200, "application/json", b'{"access_token": 5}'),
    "mac": (200, "application/json", b'{"access_token": "a", "token_type": "mac"}'),
    "broken": (503, "text/plain", b"try later"),
    "busy": (429, "application/json", b'{"error": "too_many"}'),
    "temporary": (400, "application/json", b'{"error": "temporarily_unavailable"}'),
    "odd": (400, "application/json", b'{"error": {"code": 7}}'),
    "unknown": (400, "application/json", b'{"error": "what_is_this"}'),
}


@dataclass
class Grant:
    """What a person has agreed to: all tokens that come of it."""

    client: str
    scope: str
    refresh: list[str] = field(default_factory=list)
    revoked: bool = False


class World:
    """What the server knows."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.released = threading.Event()
        self.settings = dict(DEFAULTS)
        self.log: list[dict[str, Any]] = []
        self.codes: dict[str, tuple[Grant, dict[str, str]]] = {}
        self.devices: dict[str, dict[str, Any]] = {}
        self.refresh: dict[str, Grant] = {}
        self.access: dict[str, tuple[Grant, float]] = {}
        self.assertions: set[str] = set()


class Refused(Exception):
    """An error of RFC 6749."""

    def __init__(self, code: str, description: str = "", status: int = 400) -> None:
        super().__init__(code)
        self.said = {"error": code, "error_description": description}
        self.status = status


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    world: World
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        query = dict(parse_qsl(urlsplit(self.path).query))
        self._do(
            {
                "/authorize": self._authorize,
                "/device/approve": self._approve,
                "/test/grant": self._grant,
                "/test/log": self._log,
            },
            query,
        )

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        form = json.loads(body) if self.path.startswith("/test/") else _form(body.decode())
        self._do(
            {
                "/token": self._token,
                "/device": self._device,
                "/introspect": self._introspect,
                "/test/settings": self._set,
                "/test/release": self._release,
                "/test/revoke": self._revoke,
            },
            form,
        )

    def _do(self, routes: dict[str, Any], given: dict[str, Any]) -> None:
        path = urlsplit(self.path).path
        if path not in routes:
            return self._send(404, b"there is nothing here", "text/plain")
        try:
            routes[path](given)
        except Refused as error:
            self.world.log[-1]["outcome"] = error.said["error"]
            self._json(error.said, error.status)

    def _send(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _json(self, said: Any, status: int = 200) -> None:
        self._send(status, json.dumps(said).encode(), "application/json")

    def _log(self, _: dict[str, str]) -> None:
        self._json(self.world.log)

    def _set(self, new: dict[str, Any]) -> None:
        self.world.settings.update(new)
        self._json({})

    def _revoke(self, given: dict[str, Any]) -> None:
        self.world.access.clear()
        for grant in self.world.refresh.values():
            grant.revoked = grant.revoked or given["grants"]
        self._json({})

    def _release(self, _: dict[str, Any]) -> None:
        self.world.released.set()
        self._json({})

    def _grant(self, _: dict[str, str]) -> None:
        self._json(self._give(Grant(CLIENT, "")))

    def _authorize(self, query: dict[str, str]) -> None:
        """Agree for the person, who is led back at once."""
        self.world.log.append({"path": "/authorize", **query})
        wanted = {"response_type": "code", "code_challenge_method": "S256"}
        if any(query.get(key) != value for key, value in wanted.items()):
            raise Refused("invalid_request", "PKCE is required")
        if query.get("client_id") not in (CLIENT, PUBLIC, CERTIFIED):
            raise Refused("unauthorized_client")
        if self.world.settings["deny"]:
            said = {"error": "access_denied", "error_description": "the person said no"}
        else:
            code = secrets.token_urlsafe(16)
            grant = Grant(query["client_id"], query.get("scope", ""))
            self.world.codes[code] = grant, query
            said = {"code": code}
        to = f"{query['redirect_uri']}?{urlencode({**said, 'state': query['state']})}"
        self._send(302, b"", "text/plain", Location=to)

    def _device(self, form: dict[str, str]) -> None:
        self.world.log.append({"path": "/device", **form})
        code, user = secrets.token_urlsafe(16), "WDJB-MJHT"
        client = self._client(form)
        self.world.devices[code] = {"grant": Grant(client, form.get("scope", "")), "is": "pending"}
        here = f"http://{self.headers['Host']}/device/approve"
        self._json(
            {
                "device_code": code,
                "user_code": user,
                "verification_uri": here,
                "verification_uri_complete": f"{here}?user_code={user}",
                "expires_in": 60,
                "interval": self.world.settings["interval"],
            }
        )

    def _approve(self, query: dict[str, str]) -> None:
        """Let the person decide: ``say`` is approved, denied or expired."""
        for device in self.world.devices.values():
            device["is"] = query.get("say", "approved")
        self._json({})

    def _introspect(self, form: dict[str, str]) -> None:
        """Tell a mail server of a token (RFC 7662)."""
        grant, until = self.world.access.get(form["token"], (Grant("", "", revoked=True), 0))
        active = not grant.revoked and until > time.time()
        self._json({"active": active, "username": self.world.settings["username"]})

    def _token(self, form: dict[str, str]) -> None:
        world = self.world
        with world.lock:
            world.log.append({"path": "/token", **form, "auth": self.headers.get("Authorization")})
            world.log[-1]["agent"] = self.headers.get("Accept-Encoding")
            if world.settings["misbehave"] == "redirect":
                return self._send(307, b"", "text/plain", Location="http://elsewhere.example/token")
            if world.settings["misbehave"] == "compressed":
                return self._send(
                    200, b"\x1f\x8b", "application/json", **{"Content-Encoding": "gzip"}
                )
            if world.settings["misbehave"] == "hang":
                world.released.wait(120)
                return None
            if world.settings["misbehave"]:
                status, kind, body = MISBEHAVIOURS[world.settings["misbehave"]]
                return self._send(status, body, kind)
            said = self._tokens(form)
            world.log[-1]["outcome"] = "tokens"
            hold = world.settings["hold"]
        if hold:
            world.released.wait(60)
        return self._json(said)

    def _tokens(self, form: dict[str, str]) -> dict[str, Any]:
        client = self._client(form)
        kind = form.get("grant_type")
        if kind == "client_credentials":
            if client == PUBLIC:
                raise Refused("unauthorized_client")
            return self._give(Grant(client, form.get("scope", "")), refresh=False)
        if kind == "authorization_code":
            return self._give(self._of_code(form, client))
        if kind == "refresh_token":
            return self._give(self._of_refresh(form, client), instead_of=form["refresh_token"])
        if kind == DEVICE_GRANT:
            return self._give(self._of_device(form))
        raise Refused("unsupported_grant_type")

    def _of_code(self, form: dict[str, str], client: str) -> Grant:
        if (found := self.world.codes.pop(form.get("code", ""), None)) is None:
            raise Refused("invalid_grant", "no such code, or it was used")
        grant, asked = found
        challenge = base64.urlsafe_b64encode(
            hashlib.sha256(form["code_verifier"].encode()).digest()
        )
        if challenge.rstrip(b"=").decode() != asked["code_challenge"]:
            raise Refused("invalid_grant", "the code verifier is wrong")
        if form.get("redirect_uri") != asked["redirect_uri"] or client != grant.client:
            raise Refused("invalid_grant", "another redirect_uri or client")
        return grant

    def _of_refresh(self, form: dict[str, str], client: str) -> Grant:
        grant = self.world.refresh.get(form["refresh_token"])
        if grant is None or grant.revoked or grant.client != client:
            raise Refused("invalid_grant", f"the refresh token {form['refresh_token']} is void")
        if form["refresh_token"] != grant.refresh[-1]:
            grant.revoked = True
            raise Refused("invalid_grant", "this refresh token was used before: all are revoked")
        return grant

    def _of_device(self, form: dict[str, str]) -> Grant:
        device = self.world.devices[form["device_code"]]
        if self.world.settings["slow_down"]:
            self.world.settings["slow_down"] -= 1
            raise Refused("slow_down")
        errors = {"pending": "authorization_pending", "denied": "access_denied",
                  "expired": "expired_token"}  # fmt: skip
        if device["is"] in errors:
            raise Refused(errors[device["is"]])
        grant: Grant = device["grant"]
        return grant

    def _give(
        self, grant: Grant, *, refresh: bool = True, instead_of: str | None = None
    ) -> dict[str, Any]:
        settings = self.world.settings
        token = f"access-{secrets.token_urlsafe(24)}"
        self.world.access[token] = grant, time.time() + (settings["expires_in"] or 3600)
        said: dict[str, Any] = {"access_token": token, "token_type": "Bearer"}
        if settings["expires_in"] is not None:
            said["expires_in"] = settings["expires_in"]
        if refresh and settings["refresh"]:
            if instead_of is None or settings["rotate"]:
                said["refresh_token"] = f"refresh-{secrets.token_urlsafe(24)}"
                self.world.refresh[said["refresh_token"]] = grant
                grant.refresh.append(said["refresh_token"])
            if settings["refresh_expires_in"] is not None:
                said["refresh_token_expires_in"] = settings["refresh_expires_in"]
        return said

    def _client(self, form: dict[str, str]) -> str:
        """Return who asks, once they have proven it."""
        if form.get("client_assertion_type") == ASSERTION:
            return self._certified(form)
        given = form.get("client_id"), form.get("client_secret")
        if (header := self.headers.get("Authorization", "")).startswith("Basic "):
            user, _, password = base64.b64decode(header[6:]).decode().partition(":")
            given = user, password
        if given not in ((CLIENT, SECRET), (PUBLIC, None)):
            said = f"AADSTS7000215: no client has the secret {given[1]}. Trace ID: 1 Timestamp: 2"
            raise Refused("invalid_client", said, 401)
        return str(given[0])

    def _certified(self, form: dict[str, str]) -> str:
        certificate = x509.load_pem_x509_certificate(self.world.settings["certificate"].encode())
        known = ["RS256", "ES256"]
        public = certificate.public_key()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        key = import_key(pem, "RSA" if isinstance(public, RSAPublicKey) else "EC")
        token = jwt.decode(form["client_assertion"], key, known)
        print_ = base64.urlsafe_b64encode(certificate.fingerprint(hashes.SHA1())).rstrip(b"=")
        claims, scheme = token.claims, "https" if self.world.settings.get("tls") else "http"
        expected = {"iss": CERTIFIED, "sub": CERTIFIED}
        expected["aud"] = f"{scheme}://{self.headers['Host']}/token"
        fresh = claims["nbf"] <= time.time() < claims["exp"] <= time.time() + 600
        if {key: claims[key] for key in expected} != expected or not fresh:
            raise Refused("invalid_client", "the assertion is not for us")
        if token.header["x5t"] != print_.decode() or claims["jti"] in self.world.assertions:
            raise Refused("invalid_client", "another certificate, or the assertion was used")
        if form.get("client_id") != CERTIFIED:
            raise Refused("invalid_request", "client_id is missing")
        self.world.assertions.add(claims["jti"])
        return CERTIFIED


def _form(body: str) -> dict[str, str]:
    found = parse_qs(body, strict_parsing=True, keep_blank_values=True)
    assert all(len(values) == 1 for values in found.values()), "a parameter was given twice"
    return {key: values[0] for key, values in found.items()}


@dataclass(frozen=True)
class OAuthServer:
    """The server, as a test sees it."""

    url: str
    context: ssl.SSLContext | None = None

    @property
    def token_url(self) -> str:
        return f"{self.url}/token"

    def set(self, **settings: Any) -> None:
        """Have it do other than ``DEFAULTS``."""
        self._post("/test/settings", settings)

    def release(self) -> None:
        """Have it give the answers that it holds."""
        self._post("/test/release", {})

    def log(self, path: str = "/token") -> list[dict[str, Any]]:
        """Return what was asked of it there, with the outcome."""
        return [entry for entry in json.loads(self.get("/test/log")) if entry["path"] == path]

    def outcomes(self) -> list[str]:
        """Return what it answered where tokens are had, one after the other."""
        return [entry.get("outcome", "") for entry in self.log()]

    def revoke(self, *, grants: bool = False) -> None:
        """Revoke all access tokens; with ``grants`` all that a person has agreed to."""
        self._post("/test/revoke", {"grants": grants})

    def decide(self, say: str = "approved") -> None:
        """Let the person of the device flow decide."""
        self.get(f"/device/approve?say={say}")

    def refresh_token(self) -> str:
        """Have a person authorize the client elsewhere; return the refresh token."""
        return str(json.loads(self.get("/test/grant"))["refresh_token"])

    def get(self, path: str) -> bytes:
        with self._opener().open(self.url + path, timeout=30) as answer:
            body: bytes = answer.read()
        return body

    def _post(self, path: str, said: object) -> None:
        request = urllib.request.Request(self.url + path, json.dumps(said).encode())
        self._opener().open(request, timeout=30).close()

    def _opener(self) -> urllib.request.OpenerDirector:
        """Return what asks it, whatever proxy the environment names."""
        https = urllib.request.HTTPSHandler(context=self.context)
        return urllib.request.build_opener(urllib.request.ProxyHandler({}), https)


@contextlib.contextmanager
def oauth_server(folder: Path, certificates: Certificates | None = None) -> Iterator[OAuthServer]:
    """Run one until the block ends.

    Args:
        folder: for its log.
        certificates: to speak TLS with; http without.
    """
    port = free_port()
    command = [sys.executable, "-m", "tests.servers.oauth", str(port)]
    context = None
    if certificates is not None:
        command += [str(certificates.cert), str(certificates.key)]
        context = ssl.create_default_context(cafile=str(certificates.ca))
    scheme = "http" if certificates is None else "https"
    with running(command, folder / "oauth.log", lambda: accepts(port)):
        server = OAuthServer(f"{scheme}://localhost:{port}", context)
        server.set(tls=certificates is not None)
        yield server


def main(port: int, *tls: str) -> None:
    handler = type("OneWorld", (Handler,), {"world": World()})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    if tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
