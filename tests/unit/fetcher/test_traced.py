"""What ``--debug`` shows of a POP3 session."""

import pytest

from services.fetcher.pop3.session import Pop3Session
from shared.errors import LoginRefused, ServerFault
from tests.servers.pop3 import Pop3Server, Say
from tests.unit.fetcher.pop3_session import MAIL, login, retrieved


async def test_a_session_is_told_line_by_line_less_password_and_mail() -> None:
    script = {"UIDL": Say(b"+OK here\r\n1 a\r\n2 \x1b[2J\r\n.\r\n")}
    told: list[str] = []
    async with Pop3Server(MAIL[:2], ["a", "b"], says=script).serving() as server:
        session = await Pop3Session.open(login(server), tell=told.append)
        await session.surveyor.survey()
        assert await retrieved(session, [1, 2]) == MAIL[:2]
        await session.quit([1])
    assert told[0] == f"# connected to 127.0.0.1:{server.port}, tls none"
    assert told[1:] == [
        "S: +OK",
        "C: CAPA",
        "S: +OK",
        "S: UIDL",
        "S: TOP",
        "S: USER",
        "S: PIPELINING",
        "S: RESP-CODES",
        "S: .",
        "C: USER sales",
        "C: PASS ***",
        "S: +OK",
        "S: +OK",
        "C: STAT",
        "C: UIDL",
        "S: +OK 2 44",
        "S: +OK here",
        "S: 1 a",
        "S: 2 \\x1b[2J",
        "S: .",
        "C: RETR 1",
        "C: RETR 2",
        "C: LIST 2",
        "S: +OK here it is",
        "S: <bytes 22>",
        "S: .",
        "S: +OK here it is",
        "S: <bytes 22>",
        "S: .",
        "S: +OK 2 22",
        "C: DELE 1",
        "C: QUIT",
        "S: +OK",
        "S: +OK bye",
    ]


async def test_a_password_that_the_server_repeats_is_not_told() -> None:
    script = {"PASS": Say(b"-ERR [AUTH] sales/top secret is wrong\r\n")}
    told: list[str] = []
    async with Pop3Server(says=script).serving() as server:
        with pytest.raises(LoginRefused):
            await Pop3Session.open(login(server), tell=told.append)
    assert told[-1] == "S: -ERR [AUTH] sales/*** is wrong"


async def test_what_is_out_of_turn_is_told() -> None:
    told: list[str] = []
    async with Pop3Server(says={"greeting": Say(b"hello\r\n")}).serving() as server:
        with pytest.raises(ServerFault):
            await Pop3Session.open(login(server), tell=told.append)
    assert told[-1] == "# it said, out of turn: hello"
