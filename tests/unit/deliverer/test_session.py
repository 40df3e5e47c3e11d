"""How a session with a mail server comes about: greeting, TLS, login."""

import asyncio
import base64
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.deliverer.courier import Throttled
from services.deliverer.destinations import courier_for
from services.deliverer.servers.pool import IDLE_SECONDS
from services.deliverer.servers.promise import DAY, HOUR
from shared.errors import TokenRefused, Unreachable
from tests.clock import ManualClock
from tests.servers.certificates import Certificates, make_certificates
from tests.servers.smtp import DROP, HANG, smtp_server
from tests.unit.deliverer.content import ANNA, SENDER, One, content, courier
from tests.unit.test_network import dropping


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Certificates]:
    yield make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def context(certificates: Certificates) -> ssl.SSLContext:
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.load_cert_chain(certificates.cert, certificates.key)
    return made


async def test_starttls_is_taken_where_it_is_offered(context: ssl.SSLContext) -> None:
    async with smtp_server(context=context) as server, courier(server.url) as smtp:
        await smtp.deliver(content(), SENDER, [ANNA])
        async with courier(server.url + "?tls=none") as plain:
            await plain.deliver(content(), SENDER, [ANNA])
    assert [m.tls for m in server.received] == [True, False]
    assert [c for c in server.commands if c.startswith("EHLO")] == ["EHLO [127.0.0.1]"] * 3


async def test_opportunistic_tls_does_without_where_it_fails(context: ssl.SSLContext) -> None:
    async with smtp_server(context=context) as server, courier(server.url) as smtp:
        server.answer("STARTTLS", ("220 2.0.0 go ahead", DROP))
        await smtp.deliver(content(), SENDER, [ANNA])
        server.answer("STARTTLS", "454 4.7.0 not now")
        async with courier(server.url) as other:
            await other.deliver(content(), SENDER, [ANNA])
    assert [m.tls for m in server.received] == [False, False]


@pytest.mark.parametrize("key", ["STARTTLS", "EHLO"])
@pytest.mark.parametrize("action", [DROP, HANG])
async def test_tls_that_is_offered_and_does_not_come_about_is_done_without_for_an_hour(
    key: str, action: str, context: ssl.SSLContext
) -> None:
    clock = ManualClock()
    async with (
        smtp_server(context=context) as server,
        courier(server.url, clock, patience=0.005) as smtp,
    ):
        good = "250-mail.corp.example\r\n250 STARTTLS"
        server.answer(key, *([good, action] if key == "EHLO" else [action]))
        for seconds in (IDLE_SECONDS, HOUR, 0):
            await smtp.deliver(content(), SENDER, [ANNA])
            await clock.advance(seconds)
    assert [m.tls for m in server.received] == [False, False, True]
    assert server.connections == 4


async def test_where_tls_has_come_about_it_is_not_done_without(context: ssl.SSLContext) -> None:
    clock = ManualClock()
    async with smtp_server(context=context) as server, courier(server.url, clock) as smtp:
        await smtp.deliver(content(), SENDER, [ANNA])
        await clock.advance(IDLE_SECONDS)
        server.answer("STARTTLS", DROP)
        await smtp.deliver(content(), SENDER, [ANNA])
        await clock.advance(IDLE_SECONDS)
        await smtp.deliver(content(), SENDER, [ANNA])
    assert [m.tls for m in server.received] == [True, False, True]


async def test_what_was_offered_in_the_clear_does_not_count_over_tls(
    context: ssl.SSLContext,
) -> None:
    async with smtp_server(context=context) as server, courier(server.url) as smtp:
        server.answer("EHLO", "250-mail\r\n250-SIZE 10\r\n250 STARTTLS", "502 5.5.1 what")
        results = await smtp.deliver(content(), SENDER, [ANNA])
    assert results[ANNA].verdict == "delivered"
    assert server.received[0].parameters == []
    assert server.received[0].tls


async def test_required_tls_verifies_the_certificate(
    context: ssl.SSLContext, certificates: Certificates
) -> None:
    async with smtp_server(context=context) as server:
        async with courier(f"{server.url}?ca_file={certificates.ca}") as trusting:
            await trusting.deliver(content(), SENDER, [ANNA])
        async with courier(f"{server.url}?tls=required") as strict:
            with pytest.raises(Unreachable, match=r"TLS failed.*certificate"):
                await strict.deliver(content(), SENDER, [ANNA])
    assert [m.tls for m in server.received] == [True]


async def test_required_tls_without_an_offer_delivers_nothing() -> None:
    async with smtp_server() as server, courier(server.url + "?tls=required") as smtp:
        with pytest.raises(Unreachable, match="offers no STARTTLS"):
            await smtp.deliver(content(), SENDER, [ANNA])
    assert server.received == []


async def test_text_in_the_clear_behind_starttls_is_no_reply(
    context: ssl.SSLContext, certificates: Certificates
) -> None:
    url = f"?ca_file={certificates.ca}"
    async with smtp_server(context=context) as server, courier(server.url + url) as smtp:
        server.answer("STARTTLS", "220 2.0.0 go ahead\r\n250-mail\r\n250 AUTH PLAIN")
        with pytest.raises(Unreachable, match="more than its reply"):
            await smtp.deliver(content(), SENDER, [ANNA])


async def test_implicit_tls(context: ssl.SSLContext, certificates: Certificates) -> None:
    async with smtp_server(context=context, implicit_tls=True) as server:
        url = f"smtps://127.0.0.1:{server.port}"
        async with courier(f"{url}?ca_file={certificates.ca}") as smtp:
            results = await smtp.deliver(content(), SENDER, [ANNA])
        async with courier(url) as strict:
            with pytest.raises(Unreachable, match="no connection"):
                await strict.deliver(content(), SENDER, [ANNA])
    assert results[ANNA].verdict == "delivered"
    assert "STARTTLS" not in server.commands


@pytest.mark.parametrize(
    ("mechanisms", "taken"),
    [
        ("PLAIN LOGIN", ["PLAIN"]),
        ("LOGIN", ["LOGIN"]),
        ("CRAM-MD5 PLAIN", ["CRAM-MD5"]),
        ("PLAIN SCRAM-SHA-1", ["SCRAM-SHA-1"]),
        ("PLAIN CRAM-MD5 SCRAM-SHA-256 SCRAM-SHA-1", ["SCRAM-SHA-256"]),
    ],
)
async def test_login_by_the_strongest_that_is_offered(
    mechanisms: str, taken: list[str], context: ssl.SSLContext, certificates: Certificates
) -> None:
    login = ("anna", "s3cret pä%ss")
    async with smtp_server(context=context, login=login, mechanisms=mechanisms) as server:
        at = f"127.0.0.1:{server.port}?ca_file={certificates.ca}"
        async with courier(f"smtp://anna:s3cret%20p%C3%A4%25ss@{at}") as smtp:
            results = await smtp.deliver(content(), SENDER, [ANNA])
        assert results[ANNA].verdict == "delivered"
        assert [c.split()[1] for c in server.commands if c.startswith("AUTH")] == taken
        async with courier(f"smtp://anna:wrong@{at}") as smtp:
            with pytest.raises(
                Unreachable, match=r"535 5\.7\.8 \(said to AUTH\): it does not accept"
            ):
                await smtp.deliver(content(), SENDER, [ANNA])


@dataclass
class Tokens:
    """Access tokens, of which the first ones are refused before their time."""

    left: list[str]

    async def current(self) -> str:
        return self.left[0]

    async def renewed(self, refused: str) -> str:
        assert refused == self.left.pop(0)
        if not self.left:
            raise TokenRefused("login.example.net:443", "authorize it anew")
        return self.left[0]

    async def grant(self) -> str:
        return "one"


@pytest.mark.parametrize(
    ("tokens", "tries", "why"),
    [
        (["right"], 1, None),
        (["revoked", "right"], 2, None),
        (["revoked", "wrong"], 2, r"535 5\.7\.8 \(said to AUTH\)"),
        (["revoked"], 1, "authorize it anew"),
    ],
)
async def test_login_by_an_access_token_which_is_renewed_once(
    tokens: list[str],
    tries: int,
    why: str | None,
    context: ssl.SSLContext,
    certificates: Certificates,
) -> None:
    login = ("anna", "right")
    async with smtp_server(context=context, login=login, mechanisms="PLAIN XOAUTH2") as server:
        url = f"smtp://anna@127.0.0.1:{server.port}?ca_file={certificates.ca}"
        made = courier_for("local", url, clock=ManualClock(), tokens=Tokens(tokens))
        smtp = One(made)
        if why is None:
            assert (await smtp.deliver(content(), SENDER, [ANNA]))[ANNA].verdict == "delivered"
        else:
            with pytest.raises(Unreachable, match=why):
                await smtp.deliver(content(), SENDER, [ANNA])
        await made.close()
    assert [c.split()[1] for c in server.commands if c.startswith("AUTH")] == ["XOAUTH2"] * tries


async def test_login_by_the_mechanism_that_the_destination_names(
    context: ssl.SSLContext, certificates: Certificates
) -> None:
    login = ("anna", "secret")
    async with smtp_server(context=context, login=login, mechanisms="PLAIN CRAM-MD5") as server:
        at = f"127.0.0.1:{server.port}?ca_file={certificates.ca}&auth=plain"
        async with courier(f"smtp://anna:secret@{at}") as smtp:
            results = await smtp.deliver(content(), SENDER, [ANNA])
    assert results[ANNA].verdict == "delivered"
    assert [c.split()[1] for c in server.commands if c.startswith("AUTH")] == ["PLAIN"]


async def test_what_is_offered_and_cannot_take_the_password_is_done_without(
    context: ssl.SSLContext, certificates: Certificates
) -> None:
    async with smtp_server(
        context=context,
        login=("anna", "secret"),
        mechanisms="CRAM-MD5 SCRAM-SHA-1 PLAIN",
        unable=("CRAM-MD5", "SCRAM-SHA-1"),
    ) as server:
        at = f"127.0.0.1:{server.port}?ca_file={certificates.ca}"
        async with courier(f"smtp://anna:secret@{at}") as smtp:
            results = await smtp.deliver(content(), SENDER, [ANNA])
            assert results[ANNA].verdict == "delivered"
            for writer in server.writers:
                writer.close()
            again = await smtp.deliver(content(), SENDER, [ANNA])
    assert again[ANNA].verdict == "delivered"
    asked = [c.split()[1] for c in server.commands if c.startswith("AUTH")]
    assert asked == ["SCRAM-SHA-1", "PLAIN", "PLAIN"]


@pytest.mark.parametrize("offer", ["AUTH=LOGIN", "AUTH PLAIN LOGIN"])
async def test_login_in_the_way_that_is_known_after_all(
    offer: str, context: ssl.SSLContext, certificates: Certificates
) -> None:
    async with smtp_server(context=context, login=("anna", "secret")) as server:
        hello = f"250-mail\r\n250-STARTTLS\r\n250 {offer}"
        server.answer("EHLO", hello, hello)
        if "PLAIN" in offer:
            server.answer("AUTH", "504 5.7.4 unrecognized authentication type")
        at = f"127.0.0.1:{server.port}?ca_file={certificates.ca}"
        async with courier(f"smtp://anna:secret@{at}") as smtp:
            results = await smtp.deliver(content(), SENDER, [ANNA])
    assert results[ANNA].verdict == "delivered"
    assert [c for c in server.commands if c.startswith("AUTH")][-1] == "AUTH LOGIN"


@pytest.mark.parametrize("offered", ["PLAIN", "CRAM-MD5 PLAIN"])
async def test_a_mechanism_that_is_named_and_not_known_is_not_tried_without_end(
    offered: str, context: ssl.SSLContext, certificates: Certificates
) -> None:
    login = ("anna", "secret")
    async with smtp_server(context=context, login=login, mechanisms=offered) as server:
        server.rule = lambda key, _: "504 5.5.4 unrecognized" if key == "AUTH" else None
        at = f"127.0.0.1:{server.port}?ca_file={certificates.ca}&auth=cram-md5"
        async with courier(f"smtp://anna:secret@{at}") as smtp, asyncio.timeout(20):
            with pytest.raises(Unreachable, match="504"):
                await smtp.deliver(content(), SENDER, [ANNA])
    assert len([c for c in server.commands if c.startswith("AUTH")]) <= 2


@pytest.mark.parametrize("does", [DROP, "no reply of SMTP"])
async def test_what_is_offered_and_hung_up_at_is_done_without_the_next_time(
    does: str, context: ssl.SSLContext, certificates: Certificates
) -> None:
    login = ("anna", "secret")
    async with smtp_server(context=context, login=login, mechanisms="CRAM-MD5 PLAIN") as server:
        asked: list[str] = []

        def rule(key: str, _: int) -> str | None:
            if key != "AUTH":
                return None
            asked.append(server.commands[-1].split()[1])
            return does if asked[-1] == "CRAM-MD5" else None

        server.rule = rule
        at = f"127.0.0.1:{server.port}?ca_file={certificates.ca}"
        async with courier(f"smtp://anna:secret@{at}") as smtp:
            with pytest.raises(Unreachable):
                await smtp.deliver(content(), SENDER, [ANNA])
            for _ in range(2):
                results = await smtp.deliver(content(), SENDER, [ANNA])
                assert results[ANNA].verdict == "delivered"
                for writer in server.writers:
                    writer.close()
    assert asked == ["CRAM-MD5", "PLAIN", "PLAIN"]


async def test_a_token_goes_to_the_server_and_port_that_it_names(
    context: ssl.SSLContext, certificates: Certificates
) -> None:
    login = ("anna", "token")
    async with smtp_server(context=context, login=login, mechanisms="OAUTHBEARER") as server:
        server.rule = lambda key, _: "535 no" if key == "AUTH" else None
        at = f"127.0.0.1:{server.port}?ca_file={certificates.ca}&auth=oauthbearer"
        async with courier(f"smtp://anna:token@{at}") as smtp:
            with pytest.raises(Unreachable):
                await smtp.deliver(content(), SENDER, [ANNA])
    (sent,) = [line for line in server.commands if line.startswith("AUTH")]
    said = base64.b64decode(sent.split()[2]).decode()
    assert f"\1host=127.0.0.1\1port={server.port}\1" in said


async def test_a_password_never_goes_in_the_clear() -> None:
    async with (
        smtp_server(login=("anna", "secret")) as server,
        courier(f"smtp://anna:secret@127.0.0.1:{server.port}") as smtp,
    ):
        with pytest.raises(Unreachable, match="TLS is required"):
            await smtp.deliver(content(), SENDER, [ANNA])
    assert not [c for c in server.commands if c.startswith("AUTH")]


async def test_a_server_that_wants_a_login_is_not_the_messages_fault() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer("MAIL", "530 5.7.0 authentication required")
        with pytest.raises(Unreachable, match=r"530 5\.7\.0"):
            await smtp.deliver(content(), SENDER, [ANNA])


async def test_a_server_that_talks_nonsense_is_unreachable() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer("GREETING", "HTTP/1.1 400 Bad Request")
        with pytest.raises(Unreachable, match="not an SMTP reply"):
            await smtp.deliver(content(), SENDER, [ANNA])


@pytest.mark.parametrize("action", [DROP, HANG])
async def test_a_server_that_has_nothing_to_say_to_ehlo_is_told_helo(action: str) -> None:
    clock = ManualClock()
    async with (
        smtp_server() as server,
        courier(server.url, clock, connections=1, patience=0.001) as smtp,
    ):
        server.answer("EHLO", action)
        for _ in range(2):
            await smtp.deliver(content(), SENDER, [ANNA])
            await clock.advance(IDLE_SECONDS)
        await clock.advance(DAY)
        await smtp.deliver(content(), SENDER, [ANNA])
    assert len(server.received) == 3
    hello = [command.split()[0] for command in server.commands if "127.0.0.1" in command]
    assert hello == ["EHLO", "HELO", "HELO", "EHLO"]  # remembered for a day


@pytest.mark.parametrize("url", ["?tls=required", ""])
async def test_what_helo_cannot_give_is_not_done_without(url: str) -> None:
    async with smtp_server(lmtp=not url) as server:
        server.answer("LHLO", DROP)
        server.answer("EHLO", DROP)
        async with courier(server.url + url) as smtp:
            with pytest.raises(Unreachable, match="closed the connection"):
                await smtp.deliver(content(), SENDER, [ANNA])
    assert not [c for c in server.commands if c.startswith("HELO")]


async def test_a_server_that_has_answered_ehlo_knows_it() -> None:
    clock = ManualClock()
    async with smtp_server() as server, courier(server.url, clock, connections=1) as smtp:
        await smtp.deliver(content(), SENDER, [ANNA])
        await clock.advance(IDLE_SECONDS)
        server.answer("EHLO", DROP)
        with pytest.raises(Unreachable, match="closed the connection"):
            await smtp.deliver(content(), SENDER, [ANNA])
    assert not [c for c in server.commands if c.startswith("HELO")]


@pytest.mark.parametrize(
    ("url", "greeting", "advice"),
    [
        ("smtp://127.0.0.1", HANG, r"said nothing for .*; is smtps:// meant at port"),
        ("smtp://127.0.0.1", "+OK POP3 ready", r"POP3 is spoken there: is the port right\?"),
        ("smtp://127.0.0.1", "* OK IMAP4rev1", "IMAP is spoken there"),
        ("smtp://127.0.0.1", "\x15\x03\x01", "is smtps:// meant"),
        ("lmtp://127.0.0.1", "220 ready", "is smtp:// meant"),
        ("smtps://127.0.0.1", "220 ready", r"does not begin with TLS.*smtp:// or lmtp:// meant"),
        ("smtp://nowhere.invalid", "220 ready", r"its name (is not known|could not be looked up)"),
        ("smtp://a..b", "220 ready", "cannot be a host's"),
    ],
)
async def test_what_is_likely_set_wrong_is_said(url: str, greeting: str, advice: str) -> None:
    async with (
        smtp_server() as server,
        courier(f"{url}:{server.port}", patience=0.001) as smtp,
    ):
        server.answer("GREETING", greeting)
        with pytest.raises(Unreachable, match=advice):
            await smtp.deliver(content(), SENDER, [ANNA])


async def test_lmtp_taken_for_smtp_is_said() -> None:
    async with smtp_server(lmtp=True) as server:
        server.answer("HELO", "502 5.5.1 unknown command")
        async with courier(server.url.replace("lmtp", "smtp")) as smtp:
            with pytest.raises(Unreachable, match="is lmtp:// meant"):
                await smtp.deliver(content(), SENDER, [ANNA])


async def test_a_socket_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    async with courier(f"lmtp+unix://{tmp_path}/lmtp") as lmtp:
        with pytest.raises(Unreachable, match="there is no socket: is the path right"):
            await lmtp.deliver(content(), SENDER, [ANNA])


async def test_an_address_that_leads_nowhere_keeps_nobody_from_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def look_up(host: str, port: int, **_: object) -> list[object]:
        found = ("127.0.0.2", "127.0.0.1") if host == "two.example" else (host,)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with smtp_server() as server:
        url = f"smtp://two.example:{server.port}"
        with dropping("127.0.0.2", server.port):
            async with courier(url) as smtp, asyncio.timeout(20):
                results = await smtp.deliver(content(), SENDER, [ANNA])
    assert results[ANNA].verdict == "delivered"


@pytest.mark.parametrize(
    "said", ["421 4.7.0 too many connections", "450 4.7.1 rate limit exceeded"]
)
async def test_a_limit_at_the_door_is_told_from_a_closed_one(said: str) -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer("GREETING", said, "554 5.3.2 closed")
        with pytest.raises(Throttled, match=said):
            await smtp.deliver(content(), SENDER, [ANNA])
        with pytest.raises(Unreachable, match="closed") as caught:
            await smtp.deliver(content(), SENDER, [ANNA])
    assert not isinstance(caught.value, Throttled)


async def test_our_name_can_be_set() -> None:
    async with smtp_server() as server, courier(server.url + "?helo=gate.corp.example") as smtp:
        await smtp.deliver(content(), SENDER, [ANNA])
    assert server.commands[0] == "EHLO gate.corp.example"
