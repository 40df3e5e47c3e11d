"""What a session says of what a maildrop holds: how much, which, of what sizes."""

import asyncio

import pytest

from services.fetcher.pop3.quirks import Quirks
from services.fetcher.pop3.session import Pop3Session
from services.fetcher.pop3.survey import Survey
from shared.errors import PromiseBroken, ServerFault
from tests.servers.pop3 import Pop3Server, Say
from tests.unit.fetcher.pop3_session import (
    MAIL,
    login,
    uidls_of,
)


async def test_a_maildrop_is_listed() -> None:
    async with Pop3Server(MAIL[:3], ["a", "b", "b"]).serving() as server:
        session = await Pop3Session.open(login(server))
        assert await session.surveyor.stat() == (3, sum(map(len, MAIL[:3])))
        await session.round_trip()
        await session.quit()


PIPELINING = pytest.mark.parametrize("offered", [["UIDL", "PIPELINING"], ["UIDL"]])


@PIPELINING
async def test_a_survey_tells_how_much_there_is_and_which(offered: list[str]) -> None:
    async with Pop3Server(MAIL[:3], ["a", "b", "b"], capabilities=offered).serving() as server:
        session = await Pop3Session.open(login(server))
        octets = sum(map(len, MAIL[:3]))
        assert await session.surveyor.survey() == Survey(
            3, octets, uidls_of([(1, "a"), (2, "b"), (3, "b")])
        )
        await session.quit()


async def test_a_survey_is_asked_for_in_one_where_that_is_allowed() -> None:
    script = {"STAT": Say(then="hang")}
    async with Pop3Server(MAIL[:3], ["a", "b", "b"], says=script).serving() as server:
        session = await Pop3Session.open(login(server))
        surveying = asyncio.create_task(session.surveyor.survey())
        while not server.unread:
            await asyncio.sleep(0)
        assert server.unread == b"UIDL\r\n"
        surveying.cancel()
        await session.abort()


@PIPELINING
@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ({"STAT": b"+OK 0 0", "UIDL": b"-ERR nothing here"}, Survey(0, 0, uidls_of([]))),
        ({"STAT": b"+OK 0 0", "UIDL": b"+OK\r\n."}, Survey(0, 0, uidls_of([]))),
        (
            {"STAT": b"-ERR what?", "UIDL": b"+OK\r\n2 b\r\n."},
            Survey(2, None, uidls_of([(2, "b")])),
        ),
        ({"STAT": b"+OK two"}, Survey(2, None, uidls_of([(1, "a"), (2, "b")]))),
        ({"STAT": b"+OK two", "UIDL": b"-ERR no"}, Survey(3, None, None, "no_uidl")),
        ({"UIDL": b"-ERR no"}, Survey(3, 66, None, "no_uidl")),
        ({"UIDL": b"+OK\r\nnonsense\r\n."}, Survey(3, 66, None, "no_uidl")),
        ({"STAT": b"+OK 9999999 1"}, Survey(100_002, 1, uidls_of([(1, "a"), (2, "b")]))),
        ({"UIDL": b"+OK\r\n900000 a\r\n."}, Survey(100_001, 66, uidls_of([(900_000, "a")]))),
        ({"UIDL": b"+OK\r\n9999999 a\r\n."}, Survey(3, 66, uidls_of([]))),
        ({"STAT": b"+OK 99999999 1"}, Survey(2, None, uidls_of([(1, "a"), (2, "b")]))),
        (
            {"UIDL": b"+OK\r\n\r\n1 a\r\n4000000000 b\r\n."},
            Survey(3, 66, uidls_of([(1, "a")])),
        ),
        ({"STAT": b"+OK\t1\t20"}, Survey(2, 20, uidls_of([(1, "a"), (2, "b")]))),
    ],
)
async def test_a_survey_makes_do_with_what_it_gets(
    says: dict[str, bytes], expected: Survey, offered: list[str]
) -> None:
    script = {verb: Say(wire + b"\r\n") for verb, wire in says.items()}
    server = Pop3Server(MAIL[:3], ["a", "b"], capabilities=offered, says=script)
    async with server.serving():
        session = await Pop3Session.open(login(server))
        assert await session.surveyor.survey() == expected
        assert session.in_step
        await session.quit()


@PIPELINING
async def test_a_number_that_list_makes_up_is_not_believed(offered: list[str]) -> None:
    script = {
        "STAT": Say(b"-ERR\r\n"),
        "LIST": Say(b"+OK\r\n900000 5\r\n9999999 5\r\n99999999 5\r\n.\r\n"),
    }
    server = Pop3Server(MAIL[:1], ["a"], capabilities=offered, says=script)
    async with server.serving():
        session = await Pop3Session.open(login(server))
        survey = await session.surveyor.survey(sizes=True)
        assert (survey.count, dict(survey.sizes or {})) == (100_001, {900_000: 5})
        await session.quit()


async def test_a_server_that_has_no_uidl_is_no_offender() -> None:
    async with Pop3Server(MAIL[:3], capabilities=["TOP"]).serving() as server:
        session = await Pop3Session.open(login(server))
        assert await session.surveyor.survey() == Survey(3, sum(map(len, MAIL[:3])), None)
        await session.quit()


async def test_what_is_known_to_be_refused_is_not_asked_for() -> None:
    async with Pop3Server(MAIL[:3], ["a"]).serving() as server:
        session = await Pop3Session.open(login(server), Quirks(no_uidl=True))
        assert (await session.surveyor.survey()).uidls is None
        await session.quit()
    assert "UIDL" not in server.commands


@PIPELINING
@pytest.mark.parametrize(
    ("says", "text"),
    [
        ({"UIDL": b"-ERR [SYS/TEMP] later"}, "UIDL is refused"),
        ({"STAT": b"-ERR", "UIDL": b"-ERR", "LIST": b"-ERR"}, "neither STAT nor LIST"),
    ],
)
async def test_a_survey_that_says_nothing(
    says: dict[str, bytes], text: str, offered: list[str]
) -> None:
    script = {verb: Say(wire + b"\r\n") for verb, wire in says.items()}
    async with Pop3Server(MAIL, ["a"], capabilities=offered, says=script).serving() as server:
        session = await Pop3Session.open(login(server))
        with pytest.raises(ServerFault, match=text):
            await session.surveyor.survey()
        await session.abort()


@PIPELINING
async def test_sizes_are_asked_for_one_by_one(offered: list[str]) -> None:
    script = {
        "LIST 2": Say(b"+OK 2 many\r\n"),
        "LIST 3": Say(b"-ERR no\r\n"),
        "LIST 4": Say(b"+OK 4 70 octets\r\n"),
    }
    async with Pop3Server(MAIL, capabilities=offered, says=script).serving() as server:
        session = await Pop3Session.open(login(server))
        found = await session.surveyor.sizes([1, 2, 3, 4, 200])
        assert found == {1: len(MAIL[0]), 4: 70, 200: len(MAIL[199])}
        await session.quit()


async def test_an_answer_about_another_message_breaks_the_promise_of_pipelining() -> None:
    script = {"LIST 2": Say(b"+OK 3 70\r\n")}
    async with Pop3Server(MAIL, says=script).serving() as server:
        session = await Pop3Session.open(login(server))
        with pytest.raises(PromiseBroken, match="LIST 2 is about another message") as raised:
            await session.surveyor.sizes([1, 2, 3])
        await session.abort()
        assert raised.value.quirk == "no_pipelining"
        session = await Pop3Session.open(login(server), Quirks(no_pipelining=True))
        assert await session.surveyor.sizes([1, 2]) == {1: len(MAIL[0])}
        await session.quit()


async def test_a_refused_list_is_no_failure() -> None:
    async with Pop3Server(MAIL, says={"LIST": Say(b"-ERR empty\r\n")}).serving() as server:
        session = await Pop3Session.open(login(server))
        assert await session.surveyor.sizes() == {}
        await session.quit()


@PIPELINING
async def test_header_blocks_are_had_without_bodies(offered: list[str]) -> None:
    script = {"TOP 2 0": Say(b"-ERR no\r\n")}
    async with Pop3Server(MAIL, capabilities=offered, says=script).serving() as server:
        session = await Pop3Session.open(login(server))
        found = [top async for top in session.tops([1, 2, 200])]
        assert found == [(1, b"Subject: 1\r\n\r\n"), (2, None), (200, b"Subject: 200\r\n\r\n")]
        await session.quit()


async def test_a_stat_without_numbers_is_the_servers_fault() -> None:
    async with Pop3Server(MAIL, says={"STAT": Say(b"+OK many\r\n")}).serving() as server:
        session = await Pop3Session.open(login(server))
        with pytest.raises(ServerFault, match="no numbers"):
            await session.surveyor.stat()
        await session.abort()
