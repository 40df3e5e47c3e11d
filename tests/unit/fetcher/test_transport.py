"""How a POP3 server is reached and known: fingerprints, client certificates, proxies, addresses."""

import asyncio
import hashlib
import re
import socket
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from services.fetcher.pop3.session import Pop3Session
from shared.errors import ConfigError, ServerFault, Unreachable
from shared.network.dial import NetworkRoute, SocketAddress, dial
from shared.network.tls import Trust
from tests.servers.certificates import Certificates, make_certificates
from tests.servers.pop3 import Pop3Server
from tests.servers.socks import HttpProxy, SocksProxy
from tests.unit.fetcher.pop3_session import login, retrieved, server_context

MAIL = [b"Subject: a\r\n\r\nA\r\n"]


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


def sha256(certificates: Certificates) -> str:
    der = ssl.PEM_cert_to_DER_cert(certificates.cert.read_text())
    return hashlib.sha256(der).hexdigest()


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
async def test_a_certificate_that_is_known_needs_nobody_to_vouch(
    certificates: Certificates, tls: str
) -> None:
    server = Pop3Server(MAIL, tls=server_context(certificates), host="127.0.0.2")
    trust = Trust(fingerprints=frozenset({"0" * 64, sha256(certificates)}))
    async with server.serving(implicit=tls == "implicit"):
        # The certificate is not made out to that address, either.
        mine = login(server, tls=tls, trust=trust, host=server.host)
        session = await Pop3Session.open(mine)
        assert await retrieved(session, [1]) == MAIL
        await session.quit()


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
@pytest.mark.parametrize("with_authority", [True, False])
async def test_no_password_is_sent_to_one_that_is_not(
    certificates: Certificates, tls: str, with_authority: bool
) -> None:
    server = Pop3Server(MAIL, tls=server_context(certificates))
    ca_file = str(certificates.ca) if with_authority else None
    trust = Trust(ca_file, frozenset({"0" * 64}))
    async with server.serving(implicit=tls == "implicit"):
        with pytest.raises(ServerFault, match="none of tls_fingerprint: it is sha256:") as raised:
            await Pop3Session.open(login(server, tls=tls, trust=trust))
    assert sha256(certificates) in str(raised.value)
    assert not any(line.startswith(("USER", "PASS", "CAPA")) for line in server.commands)


async def test_with_an_authority_both_count(certificates: Certificates, tmp_path: Path) -> None:
    (tmp_path / "others").mkdir()
    others = make_certificates(tmp_path / "others")
    server = Pop3Server(MAIL, tls=server_context(certificates))
    trust = Trust(str(others.ca), frozenset({sha256(certificates)}))
    async with server.serving(implicit=True):
        with pytest.raises(ServerFault, match="certificate is refused"):
            await Pop3Session.open(login(server, tls="implicit", trust=trust))


async def test_the_server_knows_us_by_a_certificate(certificates: Certificates) -> None:
    context = server_context(certificates)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificates.ca)
    server = Pop3Server(MAIL, tls=context)
    ca, cert, key = (str(part) for part in (certificates.ca, certificates.cert, certificates.key))
    async with server.serving(implicit=True):
        known = login(server, tls="implicit", trust=Trust(ca, client_cert=cert, client_key=key))
        session = await Pop3Session.open(known)
        assert await retrieved(session, [1]) == MAIL
        await session.quit()
        with pytest.raises(ServerFault):
            await Pop3Session.open(login(server, tls="implicit", trust=Trust(ca)))


def encrypted(key: bytes) -> bytes:
    private = serialization.load_pem_private_key(key, None)
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )


@pytest.mark.parametrize(
    ("ca", "cert", "key", "said"),
    [
        ("ca", "cert", None, "client_cert .*/cert: .*there is no key in it"),
        ("ca", "cert", "encrypted", "client_key .*/encrypted: .*is encrypted"),
        ("ca", "cert", "another", "client_key .*/another: .*does not belong to the certificate"),
        ("ca", "cert", "junk", "client_key .*/junk: .*there is no key in it"),
        ("ca", "cert", "absent", "client_key .*/absent: .*No such file"),
        ("ca", "junk", "key", "client_cert .*/junk: .*there is no certificate in it"),
        ("ca", "absent", "key", "client_cert .*/absent: .*No such file"),
        ("ca", "folder", "key", "client_cert .*/folder: .*Is a directory"),
        ("junk", "cert", "key", "ca_file .*/junk: .*there is no certificate in it"),
        ("absent", "cert", "key", "ca_file .*/absent: .*No such file"),
    ],
)
async def test_which_file_cannot_be_used_is_said_and_why(
    certificates: Certificates, tmp_path: Path, ca: str, cert: str, key: str | None, said: str
) -> None:
    (tmp_path / "others").mkdir()
    another = make_certificates(tmp_path / "others").key.read_bytes()
    own = certificates.key.read_bytes()
    files = {"junk": b"no", "key": own, "another": another, "encrypted": encrypted(own)}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "cert").write_bytes(certificates.cert.read_bytes())
    (tmp_path / "ca").write_bytes(certificates.ca.read_bytes())
    (tmp_path / "folder").mkdir()
    ca, cert, *keys = (str(tmp_path / name) for name in (ca, cert, key) if name)
    trust = Trust(ca, client_cert=cert, client_key=keys[0] if keys else None)
    with pytest.raises(ConfigError, match=said):
        await Pop3Session.open(login(Pop3Server(), tls="implicit", trust=trust))


def test_behind_a_proxy_nothing_is_of_this_machine() -> None:
    assert login(Pop3Server()).hidden
    assert not login(Pop3Server(), route=NetworkRoute(proxy="socks5://far.example:1080")).hidden
    assert login(Pop3Server(), tls="starttls", route=NetworkRoute(proxy="socks5://far:1080")).hidden


@pytest.mark.parametrize("wants", [None, ("anna", "s3cr@t")])
async def test_through_a_proxy_that_looks_the_name_up(
    certificates: Certificates, wants: tuple[str, str] | None
) -> None:
    server = Pop3Server(MAIL, tls=server_context(certificates))
    async with server.serving(implicit=True), SocksProxy(server.port, wants).serving() as proxy:
        user = "anna:s3cr%40t@" if wants else ""
        route = NetworkRoute(proxy=f"socks5://{user}127.0.0.1:{proxy.port}")
        trust = Trust(str(certificates.ca))
        there = login(server, tls="implicit", trust=trust, route=route, host="localhost")
        session = await Pop3Session.open(there)
        assert await retrieved(session, [1]) == MAIL
        await session.quit()
    assert proxy.asked == [("localhost", server.port)]


async def test_what_a_proxy_refuses_is_said_without_its_password() -> None:
    async with SocksProxy(1, ("anna", "another"), refuses=5).serving() as proxy:
        for user, said in {"anna:secret@": "Username", "anna:another@": "refused"}.items():
            route = NetworkRoute(proxy=f"socks5://{user}127.0.0.1:{proxy.port}")
            with pytest.raises(Unreachable, match=r"the proxy 127\.0\.0\.1:") as raised:
                await Pop3Session.open(login(Pop3Server(), route=route))
            assert said in str(raised.value)
            assert "secret" not in str(raised.value)
    with pytest.raises(Unreachable, match=r"the proxy 127\.0\.0\.1:1 cannot be reached"):
        await Pop3Session.open(
            login(Pop3Server(), route=NetworkRoute(proxy="socks5://127.0.0.1:1"))
        )


async def test_through_an_http_proxy_nothing_of_the_greeting_is_lost() -> None:
    """A mail server speaks first: what it says may come with the answer of the proxy."""
    async with (
        Pop3Server(MAIL).serving() as server,
        HttpProxy(server.port).serving() as proxy,
    ):
        for host, asked in {"pop.example.net": "pop.example.net:995", "::1": "[::1]:995"}.items():
            route = NetworkRoute(proxy=f"http://anna:s3cret@127.0.0.1:{proxy.port}")
            there = replace(login(server, route=route, host=host), port=995)
            session = await Pop3Session.open(there)
            assert await retrieved(session, [1]) == MAIL
            await session.quit()
            assert proxy.asked[-1] == f"CONNECT {asked} HTTP/1.1"


class Kept(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_proxy_is_looked_up_as_any_server_and_each_of_its_addresses_tried(
    scheme: str,
) -> None:
    """In a thread of its own: a resolver that hangs holds up nobody else."""

    def look_up(host: str, port: int) -> list[SocketAddress]:
        assert host == "proxy.example"
        return [SocketAddress(socket.AF_INET, (a, port)) for a in ("127.0.0.9", "127.0.0.1")]

    async with Pop3Server(MAIL).serving() as server:
        made = HttpProxy(server.port) if scheme == "http" else SocksProxy(server.port)
        async with made.serving() as proxy:
            protocol = await dial(
                Kept,
                "pop.example.net",
                110,
                seconds=20.0,
                by=look_up,
                route=NetworkRoute(proxy=f"{scheme}://proxy.example:{proxy.port}"),
            )
            protocol.transport.close()
            assert len(proxy.asked) == 1


LIES = {
    "": "closed|no answer of HTTP",
    "HTTP/1.1 407 not s3cret\r\n\r\n": r"does not connect us: 407 not \*\*\*",
    "HTTP/1.1 abc\r\n\r\n": "no answer of HTTP",
    "<html>\r\n\r\n": "no answer of HTTP",
    "x" * 20_000: "no answer of HTTP",
    "HTTP/1.1 200 yes\r\nVia: me": "no answer of HTTP",
    "\x05\x02": "does not connect us",
    "\xff\xff\xff": "does not connect us",
}


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks4"])
@pytest.mark.parametrize("lie", LIES)
async def test_whatever_a_proxy_says_it_is_told_in_words(scheme: str, lie: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(lie.encode("latin-1"))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        route = NetworkRoute(proxy=f"{scheme}://anna:s3cret@127.0.0.1:{port}")
        with pytest.raises(Unreachable, match=r"the proxy 127\.0\.0\.1:") as raised:
            await Pop3Session.open(login(Pop3Server(), route=route))
    assert "s3cret" not in str(raised.value)
    if scheme == "http" and "HTTP" in lie:
        assert re.search(LIES[lie], str(raised.value))


async def test_from_the_address_that_is_named() -> None:
    async with Pop3Server(MAIL).serving() as server:
        session = await Pop3Session.open(login(server, route=NetworkRoute("127.0.0.3")))
        assert server.peers[-1] == "127.0.0.3"
        await session.quit()
        with pytest.raises(Unreachable, match=r"192\.0\.2\.7 is no address of this machine"):
            await Pop3Session.open(login(server, route=NetworkRoute("192.0.2.7")))
        with pytest.raises(Unreachable, match="no address that can be reached from ::1"):
            await Pop3Session.open(login(server, route=NetworkRoute("::1")))
