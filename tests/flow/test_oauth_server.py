"""Asking a real authorization server: how we prove who we are, and answers that are none."""

import asyncio
import dataclasses
import datetime
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from shared.errors import ConfigError, TokenRefused, TokenUnavailable
from shared.oauth import token_server
from shared.oauth.client import OAuthClient
from shared.oauth.token_server import TokenServer
from shared.redaction.known_secrets import KnownSecrets
from tests.servers.certificates import Certificates, make_certificates
from tests.servers.oauth import (
    CERTIFIED,
    CLIENT,
    MISBEHAVIOURS,
    PUBLIC,
    SECRET,
    OAuthServer,
    oauth_server,
)

SAID = {
    "html": "it answered 200 with HTML: is the URL right?",
    "huge": "its answer has more than 262144 bytes",
    "redirect": "it redirects to http://elsewhere.example/token, which is not followed",
    "compressed": "its answer is compressed",
    "mac": "a token that is no bearer token",
    "broken": "it answered 503",
}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[OAuthServer]:
    with oauth_server(tmp_path_factory.mktemp("oauth"), certificates) as server:
        yield server


@pytest.fixture
def server(running: OAuthServer) -> Iterator[OAuthServer]:
    yield running
    running.release()
    running.set(misbehave=None)


@pytest.fixture
def client(server: OAuthServer, certificates: Certificates) -> OAuthClient:
    return OAuthClient(
        "account sales",
        "client_credentials",
        CLIENT,
        server.token_url,
        device_url=f"{server.url}/device",
        scope="pop",
        secret=lambda: SECRET,
        ca_file=str(certificates.ca),
    )


def asking(client: OAuthClient) -> TokenServer:
    return TokenServer(client, KnownSecrets())


@pytest.mark.parametrize("in_header", [False, True])
async def test_a_secret_in_the_form_or_in_a_header(
    server: OAuthServer, client: OAuthClient, in_header: bool
) -> None:
    answer = await asking(dataclasses.replace(client, in_header=in_header)).ask_as_ourselves()
    assert answer.access_token.startswith("access-")
    entry = server.log()[-1]
    assert (entry.get("client_secret") is None) == in_header
    assert (entry["scope"], entry["grant_type"]) == ("pop", "client_credentials")


@pytest.mark.parametrize("kind", ["rsa", "ec"])
async def test_a_certificate_signs_for_us_and_is_named_by_its_thumbprint(
    server: OAuthServer, client: OAuthClient, kind: str
) -> None:
    pem = certificate(kind)
    server.set(certificate=pem.decode())
    ours = dataclasses.replace(client, client_id=CERTIFIED, secret=None, certificate=lambda: pem)
    for _ in range(2):  # an assertion is taken once
        await asking(ours).ask_as_ourselves()
    assert (await asking(ours).begin_device()).user_code == "WDJB-MJHT"
    server.set(certificate=certificate(kind).decode())
    with pytest.raises((TokenRefused, TokenUnavailable)):
        await asking(ours).ask_as_ourselves()


async def test_a_certificate_that_cannot_be_used_is_said(client: OAuthClient) -> None:
    (ours, key), (_, foreign) = (_parts(certificate("rsa")) for _ in range(2))
    incomplete = "expected PEM with a certificate and its private key"
    for pem, expected in {
        b"": incomplete,
        ours: incomplete,
        key: incomplete,
        ours + foreign: "the private key is not the one of the certificate",
    }.items():
        spoilt = dataclasses.replace(client, secret=None, certificate=partial(bytes, pem))
        with pytest.raises(ConfigError, match=f"account sales: certificate_file: {expected}"):
            await asking(spoilt).ask_as_ourselves()


def _parts(pem: bytes) -> tuple[bytes, bytes]:
    """Return the certificate and the private key in a text."""
    begin, line, rest = pem.partition(b"-----BEGIN PRIVATE KEY-----")
    return begin, line + rest


async def test_a_client_without_a_secret(server: OAuthServer, client: OAuthClient) -> None:
    public = dataclasses.replace(client, client_id=PUBLIC, secret=None)
    assert (await asking(public).begin_device()).user_code == "WDJB-MJHT"
    with pytest.raises(TokenRefused, match="may not use this flow"):
        await asking(public).ask_as_ourselves()


async def test_a_wrong_secret_is_told_and_not_shown(client: OAuthClient) -> None:
    wrong = dataclasses.replace(client, secret=lambda: "not-the-secret-9")
    with pytest.raises(TokenRefused, match=r"invalid_client: it does not accept the client") as e:
        await asking(wrong).ask_as_ourselves()
    assert "not-the-secret-9" not in str(e.value)
    assert "Trace ID" not in str(e.value)


async def test_a_refresh_token_that_is_repeated_to_us_is_not_shown(client: OAuthClient) -> None:
    with pytest.raises(TokenRefused, match=r"invalid_grant: the refresh token \*\*\* is void"):
        await asking(client).refresh("refresh-that-was-stolen")


async def test_who_cannot_be_verified_is_told_nothing(
    server: OAuthServer, client: OAuthClient
) -> None:
    before = len(server.log())
    with pytest.raises(TokenUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        await asking(dataclasses.replace(client, ca_file=None)).ask_as_ourselves()
    assert len(server.log()) == before
    with pytest.raises(ConfigError, match=r"account sales: oauth.ca_file /nowhere"):
        await asking(dataclasses.replace(client, ca_file="/nowhere")).ask_as_ourselves()


@pytest.mark.parametrize("how", [*MISBEHAVIOURS, "redirect", "compressed"])
async def test_an_answer_that_is_none_is_waited_out(
    server: OAuthServer, client: OAuthClient, how: str
) -> None:
    server.set(misbehave=how)
    with pytest.raises(TokenUnavailable) as error:
        await asking(client).ask_as_ourselves()
    assert str(error.value).startswith("localhost:")
    assert SAID.get(how, "") in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500
    server.set(misbehave=None)
    await asking(client).ask_as_ourselves()


async def test_a_server_that_hangs_is_given_up(
    server: OAuthServer, client: OAuthClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_server, "PATIENCE", 0.5)
    server.set(misbehave="hang")
    with pytest.raises(TokenUnavailable, match=r"no answer within 0.5 seconds"):
        await asking(client).ask_as_ourselves()


async def test_nobody_is_there(client: OAuthClient) -> None:
    away = dataclasses.replace(client, token_url="http://127.0.0.1:9/token")
    with pytest.raises(TokenUnavailable, match=r"127.0.0.1:9: it cannot be asked"):
        await asking(away).ask_as_ourselves()


async def test_plain_http_takes_no_proxy(
    client: OAuthClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1000))
        writer.close()

    proxy = await asyncio.start_server(hear, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, address)
    with oauth_server(tmp_path) as plain:
        here = dataclasses.replace(client, token_url=plain.token_url)
        await asking(here).ask_as_ourselves()
    assert heard == []
    with pytest.raises(TokenUnavailable):
        away = dataclasses.replace(client, token_url="https://login.example.net/token")
        await asking(away).ask_as_ourselves()
    assert [line[:24] for line in heard] == [b"CONNECT login.example.ne"]
    proxy.close()


async def test_a_proxy_that_cannot_be_spoken_to_is_said_and_one_for_others_disturbs_nobody(
    client: OAuthClient, server: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://anna:hunter2@127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(TokenUnavailable, match=r"names a proxy socks5://.*HTTPS_PROXY") as error:
        await asking(client).ask_as_ourselves()
    assert "hunter2" not in str(error.value)
    monkeypatch.setenv("NO_PROXY", "localhost")
    await asking(client).ask_as_ourselves()


def certificate(kind: str) -> bytes:
    """Return PEM of a certificate that signs itself, and of its private key."""
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = (
        rsa.generate_private_key(65537, 2048)
        if kind == "rsa"
        else ec.generate_private_key(ec.SECP256R1())
    )
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pop3-connector")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return made.public_bytes(serialization.Encoding.PEM) + private
