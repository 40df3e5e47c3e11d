"""Sessions: how one is opened, what keeps us out, and what a hostile server may do."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.deliverer.courier import MailObject, Throttled
from services.deliverer.destinations import courier_for
from shared.errors import TokenRefused, Unreachable
from tests.clock import ManualClock
from tests.servers.certificates import make_certificates
from tests.servers.imap import DROP, HANG, USUAL, ImapServer, imap_server
from tests.unit.deliverer.content import told
from tests.unit.deliverer.crowds import fates, passing
from tests.unit.deliverer.imap.mailboxes import mail, mails, opened

PASSWORD = "s3cret-pass"
PLAINLY = "IMAP4rev1 LITERAL+ AUTH=PLAIN"
"""Each message in a command of its own."""


async def refusal(server: ImapServer, path: str = "", patience: float = 1.0) -> Unreachable:
    async with opened(server, path, patience=patience) as courier:
        (result,) = await told(courier, [mail()])
    assert isinstance(result, Unreachable), result
    return result


@pytest.mark.parametrize(
    "offers",
    [
        USUAL,
        USUAL.replace(" SASL-IR", ""),
        USUAL.replace(" AUTH=PLAIN", ""),
        "IMAP4rev1",
        "IMAP4rev2 AUTH=PLAIN",
    ],
)
@pytest.mark.parametrize("login", [("anna", "secret"), ("anna@x", 'a"b\\c d'), ("änna", "grün")])
async def test_a_login_by_what_is_offered(offers: str, login: tuple[str, str]) -> None:
    async with imap_server(offers=offers, login=login) as server:
        user, password = (part.encode().hex() for part in login)
        quoted = [
            "".join(f"%{x[i : i + 2]}" for i in range(0, len(x), 2)) for x in (user, password)
        ]
        url = f"imap://{quoted[0]}:{quoted[1]}@127.0.0.1:{server.port}/?tls=none"
        courier = courier_for("away", url)
        try:
            assert fates(await told(courier, [mail()])) == {"delivered"}
        finally:
            await courier.close()


@dataclass
class Tokens:
    """Access tokens, one after the other."""

    left: list[str]

    async def current(self) -> str:
        return self.left[0]

    async def renewed(self, refused: str) -> str:
        assert refused == self.left.pop(0)
        if not self.left:
            raise TokenRefused("login.example.net", "authorize it anew")
        return self.left[0]

    async def grant(self) -> str:
        return "one"


@pytest.mark.parametrize("offers", [USUAL + " AUTH=XOAUTH2", "IMAP4rev1 AUTH=XOAUTH2"])
@pytest.mark.parametrize("tokens", [["right"], ["revoked", "right"]])
async def test_a_login_by_an_access_token_which_is_renewed_once(
    offers: str, tokens: list[str]
) -> None:
    async with imap_server(offers=offers, token="right") as server:
        url = f"imap://anna@127.0.0.1:{server.port}/?tls=none"
        courier = courier_for("away", url, tokens=Tokens([*tokens]))
        assert fates(await told(courier, [mail()])) == {"delivered"}
        await courier.close()


async def test_a_token_that_needs_a_person_is_nobodys_fault() -> None:
    async with imap_server(offers=USUAL + " AUTH=XOAUTH2", token="right") as server:
        url = f"imap://anna@127.0.0.1:{server.port}/?tls=none"
        courier = courier_for("away", url, tokens=Tokens(["revoked"]))
        (result,) = await told(courier, [mail()])
        await courier.close()
    assert isinstance(result, Unreachable)
    assert "authorize it anew" in str(result)


async def test_why_a_token_is_refused_is_told_without_it() -> None:
    explains = "the token secret-token-1 has ended"
    async with imap_server(offers=USUAL + " AUTH=XOAUTH2", explains=explains) as server:
        url = f"imap://anna:secret-token-1@127.0.0.1:{server.port}/?tls=none&auth=xoauth2"
        courier = courier_for("away", url)
        (result,) = await told(courier, [mail()])
        await courier.close()
    assert isinstance(result, Unreachable)
    assert "the token *** has ended" in str(result)


async def test_a_password_that_a_mechanism_cannot_take_goes_by_another() -> None:
    login = ("anna", "a\x07b")  # SASLprep (RFC 4013) has no such character
    async with imap_server(offers=USUAL + " AUTH=SCRAM-SHA-256", login=login) as server:
        url = f"imap://anna:a%07b@127.0.0.1:{server.port}/?tls=none"
        courier = courier_for("away", url)
        assert fates(await told(courier, [mail()])) == {"delivered"}
        await courier.close()
        alone = courier_for("away", f"{url}&auth=scram-sha-256")
        (result,) = await told(alone, [mail()])
        await alone.close()
    assert "SCRAM-SHA-256: user name or password cannot be used" in str(result)


async def test_a_mechanism_that_it_hangs_up_at_is_done_without_the_next_time() -> None:
    async with imap_server(offers=USUAL + " AUTH=CRAM-MD5") as server:
        server.answer("AUTHENTICATE", *[DROP] * 5)
        async with opened(server) as courier:
            (result,) = await told(courier, [mail()])
            assert isinstance(result, Unreachable)
            for id_ in ("3f9b", "3f9c"):
                assert fates(await told(courier, [mail(id_=id_)])) == {"delivered"}
    asked = [line.split()[1] for line in server.commands if line.startswith("AUTHENTICATE")]
    assert asked[:2] == ["CRAM-MD5", "PLAIN"]
    assert "CRAM-MD5" not in asked[2:]


async def test_starttls_comes_before_the_password(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.cert, certificates.key)
    async with imap_server(context=context) as server:
        url = f"{server.url}?ca_file={certificates.ca}"
        courier = courier_for("away", url)
        assert fates(await told(courier, [mail()])) == {"delivered"}
        await courier.close()
    assert server.commands[0] == "STARTTLS"
    assert len(server.folders["INBOX"]) == 1


@pytest.mark.parametrize(
    ("greeting", "why"),
    [
        ("* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hello", "it offers no STARTTLS"),
        ("* PREAUTH [CAPABILITY IMAP4rev1] hello", "it greets with PREAUTH"),
    ],
)
async def test_without_tls_no_password_is_sent(greeting: str, why: str) -> None:
    async with imap_server() as server:
        server.answer("GREETING", greeting)
        courier = courier_for("away", server.url)
        (result,) = await told(courier, [mail()])
        await courier.close()
    assert isinstance(result, Unreachable)
    assert why in str(result)
    assert not [line for line in server.commands if "LOGIN" in line or "AUTH" in line]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("NO [AUTHENTICATIONFAILED] secret is wrong", "does not accept the user name and password"),
        ("NO [EXPIRED] secret", "has expired"),
        ("NO secret secret", "it refuses the login"),
        ("NO [ALERT] Application-specific password required", "may want an app password"),
        ("NO [secret] oh", "it refuses the login"),
    ],
)
async def test_a_login_that_is_refused_is_nobodys_fault_and_not_quoted(said: str, why: str) -> None:
    async with imap_server() as server:
        server.answer("LOGIN", said)
        error = await refusal(server)
    assert why in str(error)
    assert "secret" not in str(error).lower()


@pytest.mark.parametrize(
    "said",
    [
        "NO [UNAVAILABLE] Maximum number of connections from user+IP exceeded",
        "NO [LIMIT] LOGIN Rate limit hit.",
        "BAD Request is throttled. Suggested Backoff Time: 92415 milliseconds",
    ],
)
async def test_a_limit_that_is_stated_at_the_login(said: str) -> None:
    async with imap_server() as server:
        server.answer("LOGIN", said)
        error = await refusal(server)
    assert isinstance(error, Throttled)


async def test_a_server_with_room_for_two_takes_all_over_two(clock: ManualClock) -> None:
    async with (
        imap_server(most=2, offers=PLAINLY) as server,
        opened(server, clock=clock) as courier,
    ):
        assert fates(await told(courier, mails(50))) == {"delivered"}
    assert len(server.folders["INBOX"]) == 50


async def test_a_limit_that_is_stated_of_a_message_slows_down_and_loses_none(
    clock: ManualClock,
) -> None:
    async with (
        imap_server(offers=PLAINLY) as server,
        opened(server, clock=clock, connections=2) as courier,
        passing(clock),
    ):
        await told(courier, [mail(id_="before")])
        server.answer("END", *["NO [LIMIT] slower"] * 3)
        assert fates(await told(courier, mails(6))) == {"delivered"}
    assert len(server.folders["INBOX"]) == 7


@pytest.mark.parametrize(
    ("greeting", "why", "patience"),
    [
        ("* BYE too busy today", "too busy today", 1.0),
        ("* OK " + "x" * 70_000, "a line of more than", 1.0),
        ("* X {999999999}", "a response of more than", 1.0),
        (DROP, "it closed the connection", 1.0),
        ("+ what", "said nothing for", 0.0005),
    ],
)
async def test_a_greeting_that_is_none(greeting: str, why: str, patience: float) -> None:
    async with imap_server() as server:
        server.answer("GREETING", greeting)
        error = await refusal(server, patience=patience)
    assert str(error).isprintable()
    assert why in str(error)


@pytest.mark.parametrize("at", ["GREETING", "LOGIN", "CAPABILITY", "NAMESPACE", "END", "CREATE"])
async def test_silence_ends(at: str) -> None:
    offers = "IMAP4rev1 NAMESPACE LITERAL+ AUTH=PLAIN"
    async with imap_server(offers=offers, folders={}) as server:
        for _ in range(5):
            server.answer(at, HANG)
        if at == "CAPABILITY":
            server.answer("GREETING", *["* OK hi"] * 5)
        error = await refusal(server, patience=0.0005)
    assert "for" in str(error)


@pytest.mark.parametrize("at", ["LOGIN", "NAMESPACE", "END"])
async def test_text_without_end_in_place_of_a_reply_is_given_up(at: str) -> None:
    async with imap_server() as server:
        for _ in range(5):
            server.answer(at, tuple(["* 5 EXISTS"] * 12_000))
        error = await refusal(server)
    assert "without end" in str(error) or "this and that" in str(error)


@pytest.mark.parametrize("said", ["\x1b[31mred", "MAYBE ok", "", "OK\0"])
async def test_replies_that_are_none_are_shown_escaped(said: str) -> None:
    async with imap_server(offers="IMAP4rev1 LITERAL+ AUTH=PLAIN") as server:
        for _ in range(5):
            server.answer("END", said)
        async with opened(server) as courier:
            (result,) = await told(courier, [mail()])
    text = str(result) if isinstance(result, Exception) else next(iter(result.values())).reply
    assert text.isprintable()


async def test_the_dialogue_has_neither_the_password_nor_the_message() -> None:
    lines: list[str] = []
    for offers in (USUAL, "IMAP4rev1", USUAL.replace(" SASL-IR", "")):
        async with imap_server(login=("anna", PASSWORD), offers=offers) as server:
            server.answer("LOGIN", f"NO [ALERT] {PASSWORD}?", "OK in")
            async with opened(server, listen=lines.append) as courier:
                await told(courier, [mail()])
                server.answer("END", f"NO {PASSWORD}, you said?")
                await told(courier, [mail(b"Subject: very private\r\n\r\n")])
    text = "\n".join(lines)
    assert "C:" in text
    assert "S:" in text
    assert "<bytes" in text
    assert PASSWORD not in text
    assert "AGFubmEA" not in text
    assert "private" not in text


async def test_a_password_that_is_repeated_in_a_refusal_is_hidden() -> None:
    async with imap_server(login=("anna", PASSWORD)) as server, opened(server) as courier:
        server.answer("END", f"NO we know {PASSWORD} of yours")
        (result,) = await told(courier, [mail()])
    assert isinstance(result, dict)
    (told_of,) = result.values()
    assert PASSWORD not in told_of.reply
    assert "***" in told_of.reply


async def test_a_kept_connection_that_the_server_has_closed_costs_no_try() -> None:
    async with imap_server() as server, opened(server, connections=1) as courier:
        await told(courier, [mail(id_="one")])
        server.answer("END", ("* BYE idle for too long", DROP))
        results = await told(courier, [mail(id_="two")])
    assert fates(results) == {"delivered"}
    assert len(server.folders["INBOX"]) == 2


async def test_several_messages_go_over_one_connection() -> None:
    async with imap_server() as server, opened(server, connections=1) as courier:
        for number in range(3):
            posts: list[MailObject] = [mail(id_=str(number))]
            assert fates(await told(courier, posts)) == {"delivered"}
    assert server.connections == 1
