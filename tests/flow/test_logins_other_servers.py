"""Real POP3 servers other than Dovecot: every mechanism that each offers, with TLS and without.

Where a line may be read by others, none sees the password that the server offers something for.
"""

import base64
import functools
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import pytest

from services.fetcher.pop3.login import Login
from services.fetcher.pop3.session import Pop3Session
from shared.errors import LoginRefused, ServerFault
from shared.network.tls import Trust
from tests.servers.certificates import Certificates
from tests.servers.courier import courier_pop3
from tests.servers.cyrus_pop3 import cyrus_pop3
from tests.servers.proxy import Proxy, proxy
from tests.servers.system_pop3 import PASSWORD, USER, mailutils_pop3d, popa3d, solid_pop3d

Tls = Literal["implicit", "starttls", "none"]
WRONG = "not-the-one"
ELSEWHERE = "0.0.0.0"
"""Leads to this machine as 127.0.0.1 does, and is not known for it: as a host far away is."""


class Server(Protocol):
    @property
    def host(self) -> str: ...
    @property
    def pop3(self) -> int: ...
    @property
    def pop3s(self) -> int: ...
    @property
    def root(self) -> Path: ...
    @property
    def certificates(self) -> Certificates: ...


class Kind(NamedTuple):
    """A server, and what is known of it.

    Attributes:
        mechanisms: those that it offers, as ``auth`` has them.
        lines: how it is reached.
        by_itself: what is sent with ``auto`` on each of these lines.
        far: what is sent with ``auto`` on a line that others can read.
    """

    start: Callable[[], AbstractContextManager[Server]]
    mechanisms: str
    lines: str
    by_itself: str
    far: str


ALL_OF_CYRUS = "user apop plain login cram-md5 scram-sha-1 scram-sha-256 ntlm"
SCRAM, BOUND = "AUTH SCRAM-SHA-256", "AUTH SCRAM-SHA-256-PLUS"
KINDS = {
    "cyrus": Kind(
        lambda: cyrus_pop3(PASSWORD), ALL_OF_CYRUS, "none starttls implicit", SCRAM, SCRAM
    ),
    "cyrus-tls-1.2": Kind(
        lambda: cyrus_pop3(PASSWORD, versions="tls1_2"),
        ALL_OF_CYRUS,
        "starttls implicit",
        BOUND,
        SCRAM,
    ),
    "cyrus-ntlm": Kind(
        lambda: cyrus_pop3(PASSWORD, "NTLM", plain=False), "ntlm", "none", "AUTH NTLM", "AUTH NTLM"
    ),
    "courier": Kind(
        lambda: courier_pop3(per_ip=40, mechanisms="PLAIN LOGIN CRAM-MD5 CRAM-SHA1"),
        "user plain login cram-md5",
        "none starttls implicit",
        "AUTH CRAM-MD5",
        "AUTH CRAM-MD5",
    ),
    "mailutils": Kind(mailutils_pop3d, "user apop", "none starttls implicit", "PASS", "APOP"),
    "solid": Kind(solid_pop3d, "user apop", "none implicit", "PASS", "APOP"),
    "popa3d": Kind(popa3d, "user", "none implicit", "PASS", "PASS"),
}
LINES = [(name, tls) for name, kind in KINDS.items() for tls in kind.lines.split()]
MECHANISMS = [(name, tls, auth) for name, tls in LINES for auth in KINDS[name].mechanisms.split()]


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], Server]]:
    """Start each server when it is first wanted, and stop them all at the end."""
    with ExitStack() as stack:
        yield functools.cache(lambda name: stack.enter_context(KINDS[name].start()))


@pytest.fixture
def server(request: pytest.FixtureRequest, servers: Callable[[str], Server]) -> Server:
    return servers(request.param)


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.node.callspec.params["server"]]


@pytest.fixture
def line(server: Server) -> Iterator[Proxy]:
    """A line to the server that somebody listens to."""
    with proxy(server.pop3) as running:
        yield running


def login(
    server: Server, tls: Tls, auth: str, password: str = PASSWORD, *, host: str = "", port: int = 0
) -> Login:
    port = port or (server.pop3s if tls == "implicit" else server.pop3)
    trust = Trust(str(server.certificates.ca))
    return Login(host or server.host, port, tls, USER, lambda: password, trust, auth=auth)


async def sent(login: Login) -> str:
    """Log in; return the command that the password went with, in whatever form."""
    lines = list[str]()
    session = await Pop3Session.open(login, tell=lines.append)
    await session.quit()
    said = [line.removeprefix("C: ").partition(" ***")[0] for line in lines]
    return [line for line in said if line.startswith(("AUTH", "PASS", "APOP"))][-1]


def shown(heard: bytes, password: str) -> bool:
    """Return whether a listener has the password."""
    forms = (password, f"\0{USER}\0{password}")
    return any(
        form in heard for text in forms for form in (text.encode(), base64.b64encode(text.encode()))
    )


@pytest.mark.parametrize(("server", "tls", "auth"), MECHANISMS, indirect=["server"])
async def test_each_mechanism_that_it_offers(
    server: Server, kind: Kind, tls: Tls, auth: str
) -> None:
    expected = {"user": "PASS", "apop": f"APOP {USER}"}.get(auth, f"AUTH {auth.upper()}")
    assert (await sent(login(server, tls, auth))).removesuffix("-PLUS") == expected
    if kind.lines.startswith(tls):  # once: Courier takes five seconds over it
        with pytest.raises(LoginRefused):
            await Pop3Session.open(login(server, tls, auth, WRONG))


@pytest.mark.parametrize(("server", "tls"), LINES, indirect=["server"])
async def test_by_itself_the_strongest(server: Server, tls: Tls, kind: Kind) -> None:
    assert await sent(login(server, tls, "auto")) == kind.by_itself
    if kind.lines.startswith(tls):
        with pytest.raises(LoginRefused):
            await Pop3Session.open(login(server, tls, "auto", WRONG))


@pytest.mark.parametrize("server", KINDS, indirect=True)
async def test_a_listener_learns_no_password_that_can_be_kept_from_him(
    server: Server, kind: Kind, line: Proxy
) -> None:
    far = login(server, "none", "auto", host=ELSEWHERE, port=line.port)
    assert (await sent(far)).removesuffix(f" {USER}") == kind.far
    with pytest.raises(LoginRefused):
        await Pop3Session.open(replace(far, password=lambda: WRONG))
    heard = bytes(line.heard)
    assert (shown(heard, PASSWORD), shown(heard, WRONG)) == (kind.far == "PASS",) * 2


@pytest.mark.parametrize("server", ["mailutils", "popa3d", "courier"], indirect=True)
async def test_a_mechanism_that_is_named_and_not_there_is_no_wrong_password(server: Server) -> None:
    with pytest.raises(ServerFault) as raised:
        await Pop3Session.open(login(server, "none", "scram-sha-256"))
    assert not isinstance(raised.value, LoginRefused)
    assert "SCRAM-SHA-256" in str(raised.value)


@pytest.fixture
def man_in_the_middle(servers: Callable[[str], Server]) -> Iterator[tuple[Server, Proxy]]:
    """Stand between a client and Cyrus, with a certificate of one's own that the client trusts."""
    server = servers("cyrus-tls-1.2")
    own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    own.load_cert_chain(server.certificates.cert, server.certificates.key)
    own.maximum_version = ssl.TLSVersion.TLSv1_2
    with proxy(server.pop3s, own, onwards=ssl._create_unverified_context()) as running:
        yield server, running


async def test_who_stands_between_is_noticed_by_a_mechanism_that_is_named(
    man_in_the_middle: tuple[Server, Proxy],
) -> None:
    server, between = man_in_the_middle
    mine = login(server, "implicit", "scram-sha-256", port=between.port)
    with pytest.raises(LoginRefused):
        await Pop3Session.open(mine)
    assert b"AUTH SCRAM-SHA-256-PLUS" in between.heard
    # That it binds can be kept from us: the server sees it by what we say to that.
    between.hide = b"-PLUS"
    with pytest.raises(LoginRefused):
        await Pop3Session.open(mine)
    assert b"AUTH SCRAM-SHA-256\r\n" in between.heard
    # By a mechanism that is tied to no connection, nobody sees it.
    session = await Pop3Session.open(replace(mine, auth="cram-md5"))
    await session.quit()
