"""Sessions with a server that does as a script says: what no real server can be made to do."""

import asyncio
import os
import ssl
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from services.fetcher import exchange
from services.fetcher.session import Login, Session
from shared.errors import ConfigError, LoginRefused, MaildropBusy, ServerFault, Unreachable
from tests.servers.certificates import Certificates, make_certificates
from tests.servers.pop3 import Pop3Server, Say
from tests.servers.process import free_port

MAIL = [b"Subject: %d\r\n\r\nbody %d\r\n" % (n, n) for n in range(1, 201)]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def login(server: Pop3Server, **changes: object) -> Login:
    plain = Login("127.0.0.1", server.port, "none", "sales", lambda: "top secret")
    return replace(plain, **changes)  # type: ignore[arg-type]


def server_context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.cert, certificates.key)
    return context


async def retrieved(session: Session, numbers: list[int]) -> list[bytes | str]:
    """Return each message, or the text of its refusal."""
    found: list[bytes | str] = []
    async with aclosing(session.retrieve(numbers)) as messages:
        async for message in messages:
            whole = b"".join([chunk async for chunk in message.chunks()])
            found.append(whole if message.refused is None else message.refused)
    return found


async def everything_runs() -> None:
    """Let everything run that can run without anything new."""
    for _ in range(20):
        await asyncio.sleep(0)


async def nobody_connected(server: Pop3Server) -> None:
    async with asyncio.timeout(20):
        while server.open:
            await asyncio.sleep(0)


@pytest.fixture
async def forward(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return what puts the loop's clock forward by so many seconds."""
    loop = asyncio.get_running_loop()
    real, ahead = loop.time, [0.0]
    monkeypatch.setattr(loop, "time", lambda: real() + sum(ahead))
    return ahead.append


# Logging in


async def test_a_login_asks_for_the_password_each_time_and_sends_it_as_it_is() -> None:
    secrets = iter(["one  two ", "three"])
    async with Pop3Server(MAIL).serving() as server:
        for _ in range(2):
            session = await Session.open(login(server, password=lambda: next(secrets)))
            await session.quit()
    assert [line for line in server.commands if line.startswith("PASS")] == [
        "PASS one  two ",
        "PASS three",
    ]


async def test_capabilities_are_asked_again_after_a_login_that_was_offered_little() -> None:
    async with Pop3Server(MAIL, capabilities=["TOP", "EXPIRE 60"]).serving() as server:
        session = await Session.open(login(server))
        await session.quit()
    assert session.capabilities == {"TOP": (), "EXPIRE": ("60",)}
    assert server.commands == ["CAPA", "USER sales", "PASS top secret", "CAPA", "QUIT"]


async def test_a_server_without_capa_and_uidl_is_good_enough() -> None:
    async with Pop3Server(MAIL, capabilities=None).serving() as server:
        session = await Session.open(login(server))
        assert session.capabilities == {}
        assert await session.uidl() is None
        assert await session.sizes() == {n: len(raw) for n, raw in enumerate(MAIL, 1)}
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
        ({"PASS": b"-ERR Too many concurrent logins"}, MaildropBusy, "Too many"),
        ({"PASS": b"-ERR account locked by the administrator"}, LoginRefused, "locked"),
        ({"PASS": b"-ERR [AUTH] mailbox locked for good"}, LoginRefused, "for good"),
        ({"PASS": b"-ERR [LOGIN-DELAY] too soon"}, ServerFault, "too soon"),
        ({"PASS": b"-ERR [SYS/TEMP] later"}, ServerFault, "later"),
        ({"PASS": b"-ERR [SYS/PERM] no POP3 for you"}, ServerFault, "no POP3 for you"),
        ({"greeting": b"-ERR [SYS/TEMP] full house"}, ServerFault, "full house"),
        ({"greeting": b"220 smtp ready"}, ServerFault, "out of turn: 220 smtp"),
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
            session = await Session.open(login(server))
            await session.stat()
    assert type(raised.value) is error
    assert raised.value.server == f"127.0.0.1:{server.port}"


async def test_a_failed_login_leaves_no_connection_behind() -> None:
    async with Pop3Server(says={"PASS": Say(b"-ERR [AUTH] wrong\r\n")}).serving() as server:
        with pytest.raises(LoginRefused):
            await Session.open(login(server))
        await nobody_connected(server)


async def test_a_password_that_the_server_repeats_is_not_told() -> None:
    script = {"PASS": Say(b"-ERR [AUTH] sales/top secret is wrong\r\n")}
    async with Pop3Server(says=script).serving() as server:
        with pytest.raises(LoginRefused, match=r"sales/\*\*\* is wrong") as raised:
            await Session.open(login(server))
    assert "top secret" not in str(raised.value)
    assert "top secret" not in repr(login(server))


@pytest.mark.parametrize("secret", ["a\r\nDELE 1", "a\nb", "a\0"])
async def test_credentials_cannot_smuggle_in_commands(secret: str) -> None:
    async with Pop3Server(MAIL).serving() as server:
        for bad in (login(server, password=lambda: secret), login(server, username=secret)):
            with pytest.raises(ConfigError, match="line breaks"):
                await Session.open(bad)
    assert set(server.commands) == {"CAPA"}


# Reaching the server


async def test_nobody_listens() -> None:
    with pytest.raises(Unreachable, match="Connect call failed"):
        await Session.open(Login("127.0.0.1", free_port(), "none", "u", str))


async def test_a_server_that_listens_a_moment_later_is_reached() -> None:
    server = Pop3Server(MAIL, port=free_port())
    opening = asyncio.create_task(Session.open(login(server)))
    await everything_runs()
    async with server.serving():
        session = await opening
        await session.quit()
    assert server.commands[-1] == "QUIT"


async def test_a_host_name_that_cannot_be_one() -> None:
    with pytest.raises(ConfigError, match="cannot be a host name"):
        await Session.open(Login("a" * 64 + ".example", 110, "none", "u", str))


@pytest.mark.parametrize("silent", ["greeting", "CAPA", "PASS", "UIDL", "QUIT"])
async def test_a_server_that_never_answers_counts_as_gone(
    silent: str, forward: Callable[[float], None]
) -> None:
    async def visit() -> None:
        session = await Session.open(login(server))
        await session.uidl()
        await session.quit()

    async with Pop3Server(MAIL, ["a"], says={silent: Say(then="hang")}).serving() as server:
        visiting = asyncio.create_task(visit())
        while not server.hanging:
            await asyncio.sleep(0)
        await everything_runs()
        forward(59)
        await everything_runs()
        assert not visiting.done()
        forward(2)
        with pytest.raises(Unreachable, match="nothing came for 60 seconds"):
            await visiting


async def test_a_slow_consumer_is_not_a_silent_server(forward: Callable[[float], None]) -> None:
    async with Pop3Server(MAIL).serving() as server:
        session = await Session.open(login(server))
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
        session = await Session.open(login(server, tls=tls, ca_file=str(certificates.ca)))
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
            await Session.open(login(server, tls=tls))
    assert not isinstance(raised.value, Unreachable)
    assert not any(line.startswith(("USER", "PASS")) for line in server.commands)


async def test_a_certificate_for_another_host_is_refused(certificates: Certificates) -> None:
    server = Pop3Server(MAIL, tls=server_context(certificates), host="127.0.0.2")
    async with server.serving(implicit=True):
        elsewhere = login(server, tls="implicit", ca_file=str(certificates.ca), host=server.host)
        with pytest.raises(ServerFault, match="certificate is refused: IP address mismatch"):
            await Session.open(elsewhere)


async def test_a_server_without_tls_on_a_tls_port() -> None:
    async with Pop3Server(MAIL).serving() as server:
        with pytest.raises(ServerFault, match="TLS failed"):
            await Session.open(login(server, tls="implicit"))


async def test_there_is_no_falling_back_from_stls() -> None:
    async with Pop3Server(MAIL, says={"STLS": Say(b"-ERR not here\r\n")}).serving() as server:
        with pytest.raises(ServerFault, match="STLS is refused: not here"):
            await Session.open(login(server, tls="starttls"))
    assert server.commands == ["STLS"]


async def test_nothing_said_in_clear_after_stls_is_believed(certificates: Certificates) -> None:
    injected = Say(b"+OK begin\r\n+OK believe me\r\n", then="tls")
    server = Pop3Server(MAIL, says={"STLS": injected}, tls=server_context(certificates))
    async with server.serving():
        with pytest.raises(ServerFault, match="in clear after its answer to STLS"):
            await Session.open(login(server, tls="starttls", ca_file=str(certificates.ca)))
    assert server.commands == ["STLS"]


async def test_a_ca_file_that_is_renewed_counts_at_once(
    certificates: Certificates, tmp_path: Path
) -> None:
    ca_file = make_certificates(tmp_path).ca
    server = Pop3Server(MAIL, tls=server_context(certificates))
    async with server.serving(implicit=True):
        mine = login(server, tls="implicit", ca_file=str(ca_file))
        with pytest.raises(ServerFault, match="certificate is refused"):
            await Session.open(mine)
        ca_file.write_bytes(certificates.ca.read_bytes())
        os.utime(ca_file, (1, 1))
        session = await Session.open(mine)
        await session.quit()


@pytest.mark.parametrize(
    "say", [Say(b"+OK begin\r\n", then="drop"), Say(b"+OK begin\r\n", then="hang")]
)
async def test_a_server_that_goes_away_when_tls_begins(
    certificates: Certificates, say: Say, forward: Callable[[float], None]
) -> None:
    async with Pop3Server(MAIL, says={"STLS": say}).serving() as server:
        mine = login(server, tls="starttls", ca_file=str(certificates.ca))
        opening = asyncio.create_task(Session.open(mine))
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
    with pytest.raises(ConfigError, match=r"ca_file .*ca\.pem"):
        await Session.open(Login("127.0.0.1", 1, "implicit", "u", str, ca_file=str(ca_file)))


# Listings


async def test_a_maildrop_is_listed() -> None:
    async with Pop3Server(MAIL[:3], ["a", "b", "b"]).serving() as server:
        session = await Session.open(login(server))
        assert await session.stat() == (3, sum(map(len, MAIL[:3])))
        assert await session.uidl() == [(1, "a"), (2, "b"), (3, "b")]
        assert await session.top(2, 0) == b"Subject: 2\r\n\r\n"
        await session.noop()
        await session.quit()


@pytest.mark.parametrize(
    ("says", "offered", "text"),
    [
        (b"-ERR later\r\n", ["UIDL"], "UIDL is refused: later"),
        (b"-ERR [SYS/TEMP] later\r\n", [], "UIDL is refused"),
        (b"+OK\r\nnonsense\r\n.\r\n", ["UIDL"], "no listing"),
    ],
)
async def test_a_server_that_has_uidl_must_give_it(
    says: bytes, offered: list[str], text: str
) -> None:
    script = {"UIDL": Say(says)}
    async with Pop3Server(MAIL, ["a"], capabilities=offered, says=script).serving() as server:
        session = await Session.open(login(server))
        with pytest.raises(ServerFault, match=text):
            await session.uidl()
        await session.abort()


async def test_a_stat_without_numbers_is_the_servers_fault() -> None:
    async with Pop3Server(MAIL, says={"STAT": Say(b"+OK many\r\n")}).serving() as server:
        session = await Session.open(login(server))
        with pytest.raises(ServerFault, match="no numbers"):
            await session.stat()
        await session.abort()


async def test_a_refused_top_leaves_the_session_usable() -> None:
    async with Pop3Server(MAIL, says={"TOP 1 0": Say(b"-ERR no\r\n")}).serving() as server:
        session = await Session.open(login(server))
        with pytest.raises(ServerFault, match="TOP is refused"):
            await session.top(1, 0)
        assert await retrieved(session, [1]) == MAIL[:1]
        await session.quit()


# Retrieving


@pytest.mark.parametrize("offered", [["PIPELINING"], []])
async def test_one_refused_message_does_not_hold_up_the_others(offered: list[str]) -> None:
    script = {"RETR 2": Say(b"-ERR gone\r\n")}
    async with Pop3Server(MAIL, capabilities=offered, says=script).serving() as server:
        session = await Session.open(login(server))
        expected: list[bytes | str] = [MAIL[0], "gone", *MAIL[2:]]
        assert await retrieved(session, list(range(1, 201))) == expected
        await session.quit()


async def test_without_pipelining_one_command_waits_for_the_other() -> None:
    async with Pop3Server(MAIL, capabilities=[]).serving() as server:
        session = await Session.open(login(server))
        before = len(server.commands)
        async with aclosing(session.retrieve([1, 2, 3])) as messages:
            await anext(messages)
            await everything_runs()
            assert server.commands[before:] == ["RETR 1"]
        await session.abort()


async def test_with_pipelining_the_window_bounds_what_is_asked_ahead() -> None:
    async with Pop3Server(MAIL).serving() as server:
        session = await Session.open(login(server))
        before = len(server.commands)
        async with aclosing(session.retrieve(list(range(1, 201)))) as messages:
            async for message in messages:
                asked = min(64 + (message.number - 1) // 32 * 32, 200)
                while len(server.commands) < before + asked:
                    await asyncio.sleep(0)
                await everything_runs()
                assert server.commands[before:] == [f"RETR {n}" for n in range(1, asked + 1)]
        await session.abort()


async def test_only_crlf_dot_crlf_ends_a_message() -> None:
    raw = b"Subject: smuggled\r\n\r\none\n.\ntwo\r.\rthree\n.\r\nfour\r\n"
    script = {"RETR 1": Say(b"+OK\r\n" + raw + b".\r\n")}
    async with Pop3Server(MAIL, says=script).serving() as server:
        session = await Session.open(login(server))
        assert await retrieved(session, [1, 2]) == [raw, MAIL[1]]
        await session.quit()


async def test_an_empty_message_is_empty() -> None:
    async with Pop3Server([b"", b".\r\n"]).serving() as server:
        session = await Session.open(login(server))
        assert await retrieved(session, [1, 2]) == [b"", b".\r\n"]
        await session.quit()


async def test_what_is_not_consumed_is_skipped() -> None:
    large = b"x" * 300_000 + b"\r\n"
    async with Pop3Server([large, *MAIL]).serving() as server:
        session = await Session.open(login(server))
        numbers = []
        async with aclosing(session.retrieve([1, 2, 3])) as messages:
            async for message in messages:
                numbers.append(message.number)
                if message.number == 1:
                    assert len(await anext(message.chunks())) < len(large)
        assert numbers == [1, 2, 3]
        assert await session.delete([1, 2]) == [1, 2]
        await session.quit()
    assert server.deleted == {1, 2}


async def test_a_retrieval_left_early_does_not_confuse_what_follows() -> None:
    async def leave_early() -> None:
        async with aclosing(session.retrieve(list(range(1, 101)))) as messages:
            async for message in messages:
                if message.number == 5:
                    break

    async with Pop3Server(MAIL).serving() as server:
        session = await Session.open(login(server))
        await leave_early()
        assert await session.stat() == (200, sum(map(len, MAIL)))
        await leave_early()
        assert await retrieved(session, [7]) == [MAIL[6]]
        await leave_early()
        assert await session.delete([7]) == [7]
        await leave_early()
        await session.quit()
    assert server.deleted == {7}


async def test_a_listing_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BODY_LIMIT", 300_000)
    async with Pop3Server(MAIL, says={"UIDL": Say(Endless(1_000_000))}).serving() as server:
        session = await Session.open(login(server))
        with pytest.raises(ServerFault, match="a response of more than 300000 bytes"):
            await session.uidl()
        await session.abort()


async def test_a_cancelled_command_does_not_confuse_the_next() -> None:
    async with Pop3Server(MAIL, ["a", "b"]).serving() as server:
        session = await Session.open(login(server))
        task = asyncio.create_task(session.uidl())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await session.stat() == (200, sum(map(len, MAIL)))
        assert await session.uidl() == [(1, "a"), (2, "b")]
        await session.quit()


@pytest.mark.parametrize("sent", [b"", b"+OK\r\n", b"+OK\r\nSubject: x\r\n\r\nhalf a li"])
async def test_a_connection_that_drops_in_the_middle_of_a_message(sent: bytes) -> None:
    script = {"RETR 2": Say(sent, then="drop")}
    async with Pop3Server(MAIL, says=script).serving() as server:
        session = await Session.open(login(server))
        found: list[bytes] = []
        with pytest.raises(Unreachable, match="connection"):
            async with aclosing(session.retrieve([1, 2, 3])) as messages:
                async for message in messages:
                    found.append(b"".join([chunk async for chunk in message.chunks()]))
        assert found == MAIL[:1]
        with pytest.raises(Unreachable):
            await session.quit()
    assert server.deleted == set()


class Endless:
    """The answer to RETR for a large message, made while it is sent."""

    block = b"0123456789abcdef" * 1023 + b"\r\n"

    def __init__(self, size: int) -> None:
        self.blocks = size // len(self.block)
        self.size = self.blocks * len(self.block)

    def __iter__(self) -> Iterator[bytes]:
        yield b"+OK\r\n"
        for _ in range(self.blocks):
            yield self.block
        yield b".\r\n"


@pytest.mark.parametrize("tls", ["none", "implicit"])
async def test_a_large_message_is_taken_no_faster_than_it_is_consumed(
    certificates: Certificates, tls: str
) -> None:
    answer = Endless(24_000_000)
    server = Pop3Server(says={"RETR 1": Say(answer)}, tls=server_context(certificates))
    async with server.serving(implicit=tls == "implicit"):
        session = await Session.open(login(server, tls=tls, ca_file=str(certificates.ca)))
        tracemalloc.start()
        try:
            total = 0
            async for message in session.retrieve([1]):
                async for chunk in message.chunks():
                    total += len(chunk)
                    await everything_runs()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert total == answer.size
        assert peak < 6_000_000
        await session.quit()


# Deleting


@pytest.mark.parametrize("offered", [["PIPELINING"], []])
async def test_deletions_count_with_quit(offered: list[str]) -> None:
    mail = MAIL * 6
    script = {"DELE 3": Say(b"-ERR no\r\n")}
    async with Pop3Server(mail, capabilities=offered, says=script).serving() as server:
        session = await Session.open(login(server))
        numbers = list(range(1, len(mail) + 1))
        expected = [n for n in numbers if n != 3]
        assert await session.delete(numbers) == expected
        assert server.deleted == set()
        await session.quit()
        assert server.deleted == set(expected)
        await nobody_connected(server)


async def test_without_pipelining_one_deletion_waits_for_the_other() -> None:
    script = {"DELE 1": Say()}
    async with Pop3Server(MAIL, capabilities=[], says=script).serving() as server:
        session = await Session.open(login(server))
        deleting = asyncio.create_task(session.delete([1, 2]))
        await everything_runs()
        assert server.commands[-1] == "DELE 1"
        deleting.cancel()
        await session.abort()


async def test_nothing_is_deleted_after_rset_or_abort() -> None:
    async with Pop3Server(MAIL).serving() as server:
        session = await Session.open(login(server))
        await session.delete([1, 2])
        await session.rset()
        await session.delete([3])
        await session.quit()
        session = await Session.open(login(server))
        await session.delete([4])
        await session.abort()
    assert server.deleted == {3}


async def test_quit_closes_the_connection_even_if_the_server_does_not() -> None:
    async with Pop3Server(MAIL, says={"QUIT": Say(b"+OK\r\n")}).serving() as server:
        session = await Session.open(login(server))
        await session.quit()
        await nobody_connected(server)


@pytest.mark.parametrize(
    ("say", "error"),
    [
        (Say(b"-ERR some deleted messages not removed\r\n", then="drop"), ServerFault),
        (Say(then="drop"), Unreachable),
        (Say(b"+O", then="drop"), Unreachable),
    ],
)
async def test_a_quit_without_ok_is_an_error(say: Say, error: type[ServerFault]) -> None:
    async with Pop3Server(MAIL, says={"QUIT": say}).serving() as server:
        session = await Session.open(login(server))
        await session.delete([1])
        with pytest.raises(error) as raised:
            await session.quit()
    assert type(raised.value) is error
