"""Every mechanism of a real Dovecot: the one that is named, and by itself the strongest."""

from collections.abc import Iterator
from typing import Literal

import pytest

from services.fetcher.pop3.login import Login
from services.fetcher.pop3.session import Pop3Session
from shared.errors import LoginRefused, ServerFault
from shared.network.tls import Trust
from tests.servers.dovecot import Dovecot, dovecot

PASSWORD = " it's {ümlaut} 100% "
OFFERED = "plain login cram-md5 apop scram-sha-1 scram-sha-256"
NAMED = ("user", "plain", "login", "cram-md5", "apop", "scram-sha-1", "scram-sha-256")
Tls = Literal["implicit", "starttls", "none"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dovecot]:
    folder = tmp_path_factory.mktemp("dovecot")
    with dovecot(folder, {"anna": PASSWORD}, extra=f"auth_mechanisms = {OFFERED}") as running:
        yield running


def login(
    server: Dovecot, auth: str, tls: Tls = "implicit", password: str = PASSWORD, host: str = ""
) -> Login:
    port = server.pop3s if tls == "implicit" else server.pop3
    host = host or server.host
    return Login(host, port, tls, "anna", lambda: password, Trust(str(server.ca_file)), auth=auth)


async def dialogue(login: Login) -> list[str]:
    lines = list[str]()
    session = await Pop3Session.open(login, tell=lines.append)
    await session.quit()
    return [line for line in lines if line.startswith(("C: ", "S: +"))]


def by(lines: list[str]) -> str:
    (found,) = [line for line in lines if line.startswith(("C: AUTH", "C: PASS", "C: APOP"))]
    return found


@pytest.mark.parametrize("tls", ["implicit", "starttls", "none"])
@pytest.mark.parametrize("auth", NAMED)
async def test_the_mechanism_that_is_named(server: Dovecot, auth: str, tls: Tls) -> None:
    lines = await dialogue(login(server, auth, tls))
    expected = {"user": "C: PASS ***", "apop": "C: APOP anna ***"}
    assert by(lines) == expected.get(auth, f"C: AUTH {auth.upper()}")
    assert "C: QUIT" in lines
    with pytest.raises(LoginRefused):
        await Pop3Session.open(login(server, auth, tls, "not the password"))


@pytest.mark.parametrize("tls", ["implicit", "starttls", "none"])
async def test_by_itself_the_strongest(server: Dovecot, tls: Tls) -> None:
    assert by(await dialogue(login(server, "auto", tls))) == "C: AUTH SCRAM-SHA-256"


async def test_a_wrong_password_is_told_as_one(server: Dovecot) -> None:
    with pytest.raises(LoginRefused, match="AUTH"):
        await Pop3Session.open(login(server, "auto", password="wrong"))


@pytest.mark.parametrize("auth", ["ntlm", "oauthbearer"])
async def test_what_is_named_and_not_there_is_said(server: Dovecot, auth: str) -> None:
    with pytest.raises(ServerFault):
        await Pop3Session.open(login(server, auth))
