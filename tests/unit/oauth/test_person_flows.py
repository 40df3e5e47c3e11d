"""A person authorizes us: what comes back to the loopback, what is pasted, and how often we ask."""

import asyncio
import base64
import hashlib
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.postmaster.authorize import read_pasted
from shared.errors import ConfigError, TokenRefused, TokenUnavailable
from shared.oauth.client import OAuthClient
from shared.oauth.code_flow import Authorization, NoCode, NotOurs, begin
from shared.oauth.device_flow import wait_for_person
from shared.oauth.loopback import LINE, listening
from shared.oauth.token_answer import TokenAnswer
from shared.oauth.token_server import AskedTooEarly, DeviceCode
from tests.clock import ManualClock

CLIENT = OAuthClient(
    "account sales",
    "code",
    "connector",
    "https://login.example/token",
    authorize_url="https://login.example/authorize?tenant=x",
    scope="pop offline_access",
    authorize_options={"prompt": "consent", "state": "theirs", "client_id": "another"},
    login_hint="sales@x",
)
REDIRECT = "http://localhost:5000"


def test_the_address_has_a_challenge_and_a_state_of_its_own_each_time() -> None:
    one, other = begin(CLIENT, REDIRECT), begin(CLIENT, REDIRECT)
    query = parse_qs(urlsplit(one.address).query)
    digest = hashlib.sha256(one.verifier.encode()).digest()
    assert query == {
        "tenant": ["x"],
        "response_type": ["code"],
        "client_id": ["connector"],
        "redirect_uri": [REDIRECT],
        "scope": ["pop offline_access"],
        "state": [one.state],
        "code_challenge": [base64.urlsafe_b64encode(digest).rstrip(b"=").decode()],
        "code_challenge_method": ["S256"],
        "prompt": ["consent"],
        "login_hint": ["sales@x"],
    }
    assert 43 <= len(one.verifier) <= 128
    assert len({one.state, other.state, one.verifier, other.verifier}) == 4


def test_a_code_counts_with_our_state_alone() -> None:
    tried = Authorization("", REDIRECT, "", "our state")
    assert tried.code_in(f"{REDIRECT}/?code=abc%2F1&state=our+state") == "abc/1"
    assert tried.code_in("  state=our+state&code=c\n") == "c"
    lacking = ("", "c", f"{REDIRECT}?code=c", f"{REDIRECT}?code=c&state=another")
    for wrong in (*lacking, "http://[?code=c", "?state=\udcff"):
        with pytest.raises(NotOurs):
            tried.code_in(wrong)
    for refused in ("", "&error=access_denied&error_description=no%0Anever"):
        with pytest.raises(NoCode) as error:
            tried.code_in(f"{REDIRECT}?state=our+state{refused}")
        assert str(error.value) in ("there is no code in it", "access_denied: no never")


@given(st.text())
def test_whatever_is_pasted_is_no_code_without_our_state(text: str) -> None:
    with pytest.raises(NotOurs):
        Authorization("", REDIRECT, "", "our state").code_in(text)


async def test_a_line_that_is_no_text_does_not_end_the_pasting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pasted = io.TextIOWrapper(io.BytesIO(b"gr\xfc\xdfe\nthe address\n"), "utf-8")
    monkeypatch.setattr(sys, "stdin", pasted)
    returned: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def take(line: str) -> bool | None:
        if line != "the address\n":
            return None
        returned.set_result(line)
        return True

    read_pasted(take, returned)
    async with asyncio.timeout(30):
        await returned


async def request(port: int, data: bytes, host: str = "127.0.0.1") -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(data)
    answer = await reader.read(100_000)
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /?code=c HTTP/1.1", b"200 OK"),
        (b"GET /?error=no HTTP/1.1", b"200 OK"),
        (b"GET /?nothing HTTP/1.1", b"400 Bad Request"),
        (b"GET /favicon.ico HTTP/1.1", b"404 Not Found"),
        (b"POST /?code=c HTTP/1.1", b"404 Not Found"),
        (b"\xff\xfe", b"404 Not Found"),
        (b"GET http://[/ HTTP/1.1", b""),
        (b"GET /?" + b"x" * LINE * 2 + b" HTTP/1.1", b""),
    ],
)
async def test_the_loopback_takes_one_answer_and_nothing_else(line: bytes, status: bytes) -> None:
    def take(address: str) -> bool | None:
        return {"/?code=c": True, "/?error=no": False}.get(address)

    async with listening("http://localhost", take) as loopback:
        port = urlsplit(loopback.redirect).port or 0
        assert loopback.redirect == f"http://localhost:{port}"
        answer = await request(port, line + b"\r\nHost: x\r\n\r\n")
        assert answer.partition(b"\r\n")[0] == (b"HTTP/1.1 " + status if status else b"")
        assert b"code=c" not in answer
        # and whoever comes next is answered
        assert b"200 OK" in await request(port, b"GET /?code=c HTTP/1.1\r\n\r\n")


async def test_a_port_that_is_taken_is_said() -> None:
    async with listening("http://127.0.0.1", lambda _: None) as first:
        with pytest.raises(ConfigError, match="cannot listen on port"):
            async with listening(first.redirect, lambda _: None):
                pass


@dataclass
class Device:
    """An authorization server that answers as it is told, and notes when it was asked."""

    clock: ManualClock
    answers: Sequence[Exception | TokenAnswer]
    asked: list[float] = field(default_factory=list)
    server: str = "login.example:443"

    async def ask_for_device(self, code: DeviceCode) -> TokenAnswer:
        self.asked.append(self.clock.monotonic())
        answer = self.answers[len(self.asked) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def asked(clock: ManualClock, device: Device) -> TokenAnswer:
    code = DeviceCode("d", "u", "https://login.example/device", "", 900.0, 5.0)
    waiting = asyncio.ensure_future(wait_for_person(device, code, clock))
    await asyncio.sleep(0)
    while not waiting.done() and await clock.skip():
        pass
    return await waiting


async def test_we_ask_no_more_often_than_the_server_wants() -> None:
    clock, tokens = ManualClock(), TokenAnswer("a", 1.0, "r")
    pending, slower = AskedTooEarly(slower=False), AskedTooEarly(slower=True)
    away = TokenUnavailable("login.example:443", "no answer")
    device = Device(clock, [pending, slower, pending, away, pending, tokens])
    assert await asked(clock, device) == tokens
    waits = [b - a for a, b in zip([0.0, *device.asked], device.asked, strict=False)]
    assert waits == [5.0, 5.0, 10.0, 10.0, 20.0, 20.0]


async def test_we_ask_until_the_code_has_ended_or_the_person_refuses() -> None:
    clock = ManualClock()
    device = Device(clock, [AskedTooEarly(slower=False)] * 1000)
    with pytest.raises(TokenRefused, match="the code has ended"):
        await asked(clock, device)
    assert device.asked[-1] == 900.0
    refuses = Device(clock, [TokenRefused("login.example:443", "access_denied")])
    with pytest.raises(TokenRefused, match="access_denied"):
        await asked(clock, refuses)
