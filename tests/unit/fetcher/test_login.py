"""Connecting and logging in, with a server that does as a script says."""

import asyncio
import os
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from services.fetcher.pop3 import login as login_module
from services.fetcher.pop3.login import Login
from services.fetcher.pop3.quirks import Quirks
from services.fetcher.pop3.session import Pop3Session
from shared.errors import (
    ConfigError,
    LoginRefused,
    MaildropBusy,
    NoAnswer,
    PromiseBroken,
    ServerFault,
    Silent,
    TooManyConnections,
    Ungreeted,
    Unreachable,
)
from shared.network.tls import Trust
from tests.servers.certificates import Certificates, make_certificates
from tests.servers.pop3 import Pop3Server, Say
from tests.servers.process import free_port
from tests.unit.fetcher.pop3_session import (
    MAIL,
    everything_runs,
    login,
    nobody_connected,
    retrieved,
    server_context,
)

# Logging in


async def test_a_login_asks_for_the_password_each_time_and_sends_it_as_it_is() -> None:
    secrets = iter(["one  two ", "three"])
    async with Pop3Server(MAIL).serving() as server:
        for _ in range(2):
            session = await Pop3Session.open(login(server, password=lambda: next(secrets)))
            await session.quit()
    assert [line for line in server.commands if line.startswith("PASS")] == [
        "PASS one  two ",
        "PASS three",
    ]


async def test_capabilities_are_asked_again_after_a_login_that_was_offered_little() -> None:
    async with Pop3Server(MAIL, capabilities=["TOP", "EXPIRE 60"]).serving() as server:
        session = await Pop3Session.open(login(server))
        await session.quit()
    assert session.capabilities == {"TOP": (), "EXPIRE": ("60",)}
    assert server.commands == ["CAPA", "USER sales", "PASS top secret", "CAPA", "QUIT"]


async def test_a_server_without_capa_and_uidl_is_good_enough() -> None:
    async with Pop3Server(MAIL, capabilities=None).serving() as server:
        session = await Pop3Session.open(login(server))
        assert session.capabilities == {}
        assert (await session.surveyor.survey()).uidls is None
        assert await session.surveyor.sizes() == {n: len(raw) for n, raw in enumerate(MAIL, 1)}
        assert await retrieved(session, [1, 2, 3]) == MAIL[:3]
        await session.quit()


@pytest.mark.parametrize(
    ("says", "error", "text"),
    [
        ({"PASS": b"-ERR [AUTH] wrong"}, LoginRefused, r"\[AUTH\] wrong"),
        ({"PASS": b"-ERR wrong"}, LoginRefused, "wrong"),
        ({"PASS": b"-ERR"}, LoginRefused, "refused PASS without a reason"),
        ({"USER": b"-ERR never heard of him"}, LoginRefused, "never heard of him"),
        ({"PASS": b"-ERR [IN-USE] busy"}, MaildropBusy, "busy"),
        ({"PASS": b"-ERR maildrop already locked"}, MaildropBusy, "locked"),
        ({"PASS": b"-ERR Too many concurrent logins"}, TooManyConnections, "Too many"),
        ({"PASS": b"-ERR account locked by the administrator"}, LoginRefused, "locked"),
        ({"PASS": b"-ERR [AUTH] mailbox locked for good"}, LoginRefused, "for good"),
        ({"PASS": b"-ERR [LOGIN-DELAY] too soon"}, MaildropBusy, "too soon"),
        ({"PASS": b"-ERR [SYS/TEMP] later"}, MaildropBusy, "later"),
        ({"PASS": b"-ERR [SYS/PERM] no POP3 for you"}, ServerFault, "no POP3 for you"),
        ({"greeting": b"-ERR [SYS/TEMP] full house"}, MaildropBusy, "full house"),
        ({"greeting": b"-ERR too many connections"}, TooManyConnections, "too many"),
        ({"greeting": b"220 smtp ready"}, ServerFault, "SMTP is spoken at port .* 220 smtp ready"),
        ({"greeting": b"* OK imap"}, ServerFault, "IMAP is spoken at port"),
        ({"greeting": b"HTTP/1.1 400 Bad"}, ServerFault, "HTTP is spoken at port"),
        ({"greeting": b"hello"}, NoAnswer, "out of turn: hello"),
        ({"greeting": b"+OK \x1b]0;x\x07" + b"x" * 70_000}, ServerFault, "status line"),
        ({"PASS": b"+OK\r\n+OK twice"}, ServerFault, "out of turn"),
    ],
)
@pytest.mark.parametrize("pipelining", [True, False])
async def test_why_a_login_fails(
    says: dict[str, bytes], error: type[ServerFault], text: str, pipelining: bool
) -> None:
    script = {verb: Say(wire + b"\r\n") for verb, wire in says.items()}
    offered = ["UIDL", "PIPELINING"] if pipelining else ["UIDL"]
    async with Pop3Server(MAIL, says=script, capabilities=offered).serving() as server:
        with pytest.raises(error, match=text) as raised:
            session = await Pop3Session.open(login(server))
            await session.surveyor.stat()
    assert type(raised.value) is error
    assert raised.value.server == f"127.0.0.1:{server.port}"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[AUTH] Plaintext authentication disallowed on non-secure (SSL/TLS) connections.", True),
        ("TLS required to log in.", True),
        ("Must issue a STLS command first", True),
        ("[AUTH] wrong", False),
    ],
)
async def test_a_server_that_wants_tls_is_understood(text: str, hint: bool) -> None:
    script = {"USER": Say(f"-ERR {text}\r\n".encode())}
    async with Pop3Server(says=script).serving() as server:
        with pytest.raises(LoginRefused) as raised:
            await Pop3Session.open(login(server))
    assert raised.value.said.startswith(text)
    assert ('is tls = "starttls" or tls = "implicit" meant' in raised.value.said) is hint


async def test_a_failed_login_leaves_no_connection_behind() -> None:
    async with Pop3Server(says={"PASS": Say(b"-ERR [AUTH] wrong\r\n")}).serving() as server:
        with pytest.raises(LoginRefused):
            await Pop3Session.open(login(server))
        await nobody_connected(server)


async def test_a_password_that_the_server_repeats_is_not_told() -> None:
    script = {"PASS": Say(b"-ERR [AUTH] sales/top secret is wrong\r\n")}
    async with Pop3Server(says=script).serving() as server:
        with pytest.raises(LoginRefused, match=r"sales/\*\*\* is wrong") as raised:
            await Pop3Session.open(login(server))
    assert "top secret" not in str(raised.value)
    assert "top secret" not in repr(login(server))


@pytest.mark.parametrize("secret", ["a\r\nDELE 1", "a\nb", "a\0"])
async def test_credentials_cannot_smuggle_in_commands(secret: str) -> None:
    async with Pop3Server(MAIL).serving() as server:
        for bad in (login(server, password=lambda: secret), login(server, username=secret)):
            with pytest.raises(ConfigError, match="line breaks"):
                await Pop3Session.open(bad)
    assert not server.commands


# Reaching the server


async def test_nobody_listens() -> None:
    with pytest.raises(Unreachable, match="nothing listens at port"):
        await Pop3Session.open(Login("127.0.0.1", free_port(), "none", "u", str))


async def test_a_server_that_listens_a_moment_later_is_reached() -> None:
    server = Pop3Server(MAIL, port=free_port())
    opening = asyncio.create_task(Pop3Session.open(login(server)))
    await everything_runs()
    async with server.serving():
        session = await opening
        await session.quit()
    assert server.commands[-1] == "QUIT"


async def test_a_host_name_that_cannot_be_one() -> None:
    with pytest.raises(ConfigError, match="cannot be a host name"):
        await Pop3Session.open(Login("a" * 64 + ".example", 110, "none", "u", str))


@pytest.mark.parametrize("mute", ["PASS", "UIDL", "RETR", "QUIT"])
async def test_a_server_that_never_answers_counts_as_gone(
    mute: str, forward: Callable[[float], None]
) -> None:
    async def visit() -> None:
        session = await Pop3Session.open(login(server), Quirks(no_pipelining=True))
        await session.surveyor.survey()
        await retrieved(session, [1])
        await session.delete([1])
        await session.quit()

    async with Pop3Server(MAIL, ["a"], says={mute: Say(then="hang")}).serving() as server:
        visiting = asyncio.create_task(visit())
        while not server.hanging:
            await asyncio.sleep(0)
        await everything_runs()
        forward(59)
        await everything_runs()
        assert not visiting.done()
        forward(2)
        with pytest.raises((Silent, PromiseBroken), match="nothing came for 60 seconds"):
            await visiting


@pytest.mark.parametrize(
    ("say", "text"),
    [
        (Say(then="hang"), 'said nothing for 60 seconds.*is tls = "implicit" meant'),
        (Say(then="drop"), "ended the connection before it said anything"),
        (Say(b"+O", then="drop"), "ended the connection before it said anything"),
    ],
)
async def test_a_server_that_does_not_greet(
    say: Say, text: str, forward: Callable[[float], None]
) -> None:
    async with Pop3Server(MAIL, says={"greeting": say}).serving() as server:
        opening = asyncio.create_task(Pop3Session.open(login(server)))
        while not (server.hanging or opening.done()):
            await asyncio.sleep(0)
        await everything_runs()
        forward(59)
        await everything_runs()
        assert opening.done() is (say.then == "drop")
        forward(2)
        with pytest.raises(Ungreeted, match=text):
            await opening


async def test_silence_at_the_port_for_tls_is_understood_sooner(
    forward: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Pop3Server(MAIL, says={"greeting": Say(then="hang")}).serving() as server:
        monkeypatch.setattr(login_module, "TLS_PORT", server.port)
        opening = asyncio.create_task(Pop3Session.open(login(server)))
        while not server.hanging:
            await asyncio.sleep(0)
        await everything_runs()
        forward(21)
        with pytest.raises(Ungreeted, match="said nothing for 20 seconds"):
            await opening


async def test_a_slow_consumer_is_not_a_silent_server(forward: Callable[[float], None]) -> None:
    async with Pop3Server(MAIL).serving() as server:
        session = await Pop3Session.open(login(server))
        async with aclosing(session.retrieve([1, 2])) as messages:
            async for message in messages:
                forward(3600)
                await everything_runs()
                assert [chunk async for chunk in message.chunks()] == [MAIL[message.number - 1]]
        await session.quit()


# TLS


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
async def test_mail_comes_over_tls(certificates: Certificates, tls: str) -> None:
    server = Pop3Server(MAIL, tls=server_context(certificates))
    async with server.serving(implicit=tls == "implicit"):
        session = await Pop3Session.open(login(server, tls=tls, trust=Trust(str(certificates.ca))))
        assert await retrieved(session, [1, 200]) == [MAIL[0], MAIL[199]]
        await session.quit()
    assert server.commands[0] == ("CAPA" if tls == "implicit" else "STLS")


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
async def test_a_certificate_from_nobody_we_know_is_refused(
    certificates: Certificates, tls: str
) -> None:
    server = Pop3Server(MAIL, tls=server_context(certificates))
    async with server.serving(implicit=tls == "implicit"):
        with pytest.raises(ServerFault, match="its certificate is refused") as raised:
            await Pop3Session.open(login(server, tls=tls))
    assert not isinstance(raised.value, Unreachable)
    assert not any(line.startswith(("USER", "PASS")) for line in server.commands)


async def test_a_certificate_for_another_host_is_refused(certificates: Certificates) -> None:
    server = Pop3Server(MAIL, tls=server_context(certificates), host="127.0.0.2")
    async with server.serving(implicit=True):
        trust = Trust(str(certificates.ca))
        elsewhere = login(server, tls="implicit", trust=trust, host=server.host)
        with pytest.raises(ServerFault, match="certificate is refused: IP address mismatch"):
            await Pop3Session.open(elsewhere)


async def test_a_server_without_tls_on_a_tls_port() -> None:
    async with Pop3Server(MAIL).serving() as server:
        with pytest.raises(ServerFault, match="TLS failed"):
            await Pop3Session.open(login(server, tls="implicit"))


async def test_a_server_that_ends_the_connection_when_tls_begins_may_have_too_many() -> None:
    async def end(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(end, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Ungreeted, match="it may have too many of them"):
            await Pop3Session.open(Login("127.0.0.1", port, "implicit", "u", str))


async def test_there_is_no_falling_back_from_stls() -> None:
    async with Pop3Server(MAIL, says={"STLS": Say(b"-ERR not here\r\n")}).serving() as server:
        with pytest.raises(ServerFault, match="STLS is refused: not here"):
            await Pop3Session.open(login(server, tls="starttls"))
    assert server.commands == ["STLS"]


async def test_nothing_said_in_clear_after_stls_is_believed(certificates: Certificates) -> None:
    injected = Say(b"+OK begin\r\n+OK believe me\r\n", then="tls")
    server = Pop3Server(MAIL, says={"STLS": injected}, tls=server_context(certificates))
    async with server.serving():
        with pytest.raises(ServerFault, match="in clear after its answer to STLS"):
            await Pop3Session.open(login(server, tls="starttls", trust=Trust(str(certificates.ca))))
    assert server.commands == ["STLS"]


async def test_a_ca_file_that_is_renewed_counts_at_once(
    certificates: Certificates, tmp_path: Path
) -> None:
    ca_file = make_certificates(tmp_path).ca
    server = Pop3Server(MAIL, tls=server_context(certificates))
    async with server.serving(implicit=True):
        mine = login(server, tls="implicit", trust=Trust(str(ca_file)))
        with pytest.raises(ServerFault, match="certificate is refused"):
            await Pop3Session.open(mine)
        ca_file.write_bytes(certificates.ca.read_bytes())
        os.utime(ca_file, (1, 1))
        session = await Pop3Session.open(mine)
        await session.quit()


@pytest.mark.parametrize(
    "say", [Say(b"+OK begin\r\n", then="drop"), Say(b"+OK begin\r\n", then="hang")]
)
async def test_a_server_that_goes_away_when_tls_begins(
    certificates: Certificates, say: Say, forward: Callable[[float], None]
) -> None:
    async with Pop3Server(MAIL, says={"STLS": say}).serving() as server:
        mine = login(server, tls="starttls", trust=Trust(str(certificates.ca)))
        opening = asyncio.create_task(Pop3Session.open(mine))
        while not (server.hanging or (server.connections and not server.open)):
            await asyncio.sleep(0)
        await everything_runs()
        forward(61)
        with pytest.raises(Unreachable):
            await opening
        await nobody_connected(server)


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_ca_file_that_cannot_be_used(tmp_path: Path, content: str | None) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_text(content)
    unusable = Login("127.0.0.1", 1, "implicit", "u", str, trust=Trust(str(ca_file)))
    with pytest.raises(ConfigError, match=r"ca_file .*ca\.pem"):
        await Pop3Session.open(unusable)
