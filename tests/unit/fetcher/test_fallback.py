"""Logging in where the server offers what it does not keep, and doing without."""

import asyncio
from collections.abc import Callable

import pytest

from services.fetcher.pop3.quirks import NONE, Quirks
from services.fetcher.pop3.session import Pop3Session
from shared.errors import (
    LoginRefused,
    MaildropBusy,
)
from tests.servers.pop3 import Pop3Server, Say
from tests.unit.fetcher.pop3_session import (
    MAIL,
    everything_runs,
    login,
    retrieved,
    uidls_of,
)


async def opened(
    server: Pop3Server, forward: Callable[[float], None], quirks: Quirks = NONE
) -> Pop3Session:
    """Open a session, with time put forward whenever the server leaves us waiting."""
    opening = asyncio.create_task(Pop3Session.open(login(server), quirks))
    while not opening.done():
        await everything_runs()
        if server.hanging:
            server.hanging = False
            await everything_runs()
            forward(61)
    return await opening


CAPA = {
    "hangs": Say(then="hang"),
    "hangs up": Say(then="drop"),
    "is a bare +OK": Say(b"+OK\r\n", then="hang"),
    "is half a listing": Say(b"+OK\r\nUIDL\r\n", then="drop"),
}


@pytest.mark.parametrize("say", CAPA.values(), ids=CAPA)
async def test_a_server_that_cannot_stand_capa(say: Say, forward: Callable[[float], None]) -> None:
    async with Pop3Server(MAIL, ["a"], says={"CAPA": say}).serving() as server:
        session = await opened(server, forward)
        assert session.quirks == Quirks(no_capa=True)
        assert (await session.surveyor.survey()).uidls == uidls_of([(1, "a")])
        assert await retrieved(session, [1, 2]) == MAIL[:2]
        await session.quit()
        # Where it was cut, the line may have been at fault the first time.
        assert server.connections == (3 if say.then == "drop" else 2)
        server.commands.clear()
        session = await opened(server, forward, session.quirks)
        await session.quit()
    assert server.commands == ["USER sales", "PASS top secret", "QUIT"]


@pytest.mark.parametrize("busy", [2, 9])
async def test_a_maildrop_that_the_connection_before_still_holds_is_waited_for(
    busy: int, forward: Callable[[float], None]
) -> None:
    hangs_up, locked = Say(then="drop"), Say(b"-ERR [IN-USE] locked\r\n")
    server = Pop3Server(MAIL, ["a"], capabilities=None)
    async with server.serving():
        opening = asyncio.create_task(Pop3Session.open(login(server)))
        while not opening.done():
            held = 2 < server.connections < 3 + busy
            first = "PASS top secret" in server.commands
            server.says = {"CAPA": hangs_up} if first else {}
            server.says |= {"PASS": locked} if held else {}
            await asyncio.sleep(0)
            forward(0.01)
        if busy > 4:
            with pytest.raises(MaildropBusy):
                await opening
        else:
            assert (await opening).quirks.no_capa
            await (await opening).quit()
    assert server.connections == 3 + min(busy, 4)


async def test_capa_is_not_waited_for_as_long_as_others(forward: Callable[[float], None]) -> None:
    async with Pop3Server(MAIL, says={"CAPA": Say(then="hang")}).serving() as server:
        opening = asyncio.create_task(Pop3Session.open(login(server)))
        while not server.hanging:
            await asyncio.sleep(0)
        await everything_runs()
        forward(13)
        session = await opening
        await session.quit()


async def test_a_server_that_cannot_stand_capa_after_the_login(
    forward: Callable[[float], None],
) -> None:
    server = Pop3Server(MAIL, ["a"], capabilities=None, says={"CAPA": Say(b"-ERR no\r\n")})
    async with server.serving():
        opening = asyncio.create_task(Pop3Session.open(login(server)))
        while "PASS top secret" not in server.commands:
            server.says = (
                {"CAPA": Say(then="drop")} if "USER sales" in server.commands else server.says
            )
            await asyncio.sleep(0)
        session = await opening
        assert session.quirks.no_capa
        await session.quit()


async def test_a_server_that_loses_what_is_sent_along(forward: Callable[[float], None]) -> None:
    server = Pop3Server(MAIL, ["a", "b"], loses=True)
    async with server.serving():
        session = await opened(server, forward)
        assert session.quirks == Quirks(no_pipelining=True)
        assert (await session.surveyor.survey()).uidls == uidls_of([(1, "a"), (2, "b")])
        assert await retrieved(session, [1, 2, 3]) == MAIL[:3]
        assert await session.quit([1, 2]) == [1, 2]
    assert server.deleted == {1, 2}


@pytest.mark.parametrize("say", [Say(b"-ERR USER first\r\n"), Say(then="drop")])
async def test_a_login_that_is_mixed_up_is_tried_once_more_one_by_one(say: Say) -> None:
    async with Pop3Server(MAIL, ["a"], says={"PASS": say}).serving() as server:
        opening = asyncio.create_task(Pop3Session.open(login(server)))
        while server.connections < 2:
            await asyncio.sleep(0)
        server.says = {}
        session = await opening
        assert session.quirks == Quirks(no_pipelining=True)
        await session.quit()


async def test_a_login_that_is_refused_one_by_one_is_refused() -> None:
    script = {"PASS": Say(b"-ERR USER first\r\n")}
    async with Pop3Server(MAIL, ["a"], says=script).serving() as server:
        with pytest.raises(LoginRefused):
            await Pop3Session.open(login(server))
    assert server.connections == 2


# UTF8


UTF8 = ["UIDL", "UTF8 USER", "PIPELINING"]


@pytest.mark.parametrize("offered", [UTF8, UTF8[:-1]])
async def test_utf8_is_asked_for_before_the_login(offered: list[str]) -> None:
    script = {"UTF8": Say(b"+OK\r\n")}
    async with Pop3Server(MAIL, capabilities=offered, says=script).serving() as server:
        session = await Pop3Session.open(login(server))
        assert session.quirks == Quirks()
        await session.quit()
    assert server.commands[:4] == ["CAPA", "UTF8", "USER sales", "PASS top secret"]
    assert server.commands.count("UTF8") == 1


async def test_utf8_is_not_asked_for_where_it_is_not_offered() -> None:
    async with Pop3Server(MAIL).serving() as server:
        await (await Pop3Session.open(login(server))).quit()
    assert "UTF8" not in server.commands


@pytest.mark.parametrize("offered", [UTF8, UTF8[:-1]])
async def test_utf8_that_is_refused_is_asked_for_after_the_login_and_then_no_more(
    offered: list[str],
) -> None:
    async with Pop3Server(MAIL, capabilities=offered).serving() as server:
        session = await Pop3Session.open(login(server))
        assert session.quirks == Quirks(no_utf8=True)
        await session.quit()
        sent = [c for c in server.commands if c.startswith(("UTF8", "PASS"))]
        assert sent == ["UTF8", "PASS top secret", "UTF8"]
        server.commands.clear()
        await (await Pop3Session.open(login(server), session.quirks)).quit()
    assert "UTF8" not in server.commands


async def test_utf8_that_is_accepted_after_the_login_is_no_quirk() -> None:
    server = Pop3Server(MAIL, capabilities=UTF8, says={"UTF8": Say(b"-ERR not yet\r\n")})
    async with server.serving():
        opening = asyncio.create_task(Pop3Session.open(login(server)))
        while "PASS top secret" not in server.commands:
            await asyncio.sleep(0)
        server.says = {"UTF8": Say(b"+OK\r\n")}
        session = await opening
        assert session.quirks == Quirks()
        await session.quit()


async def test_a_server_that_hangs_up_at_utf8() -> None:
    script = {"UTF8": Say(then="drop")}
    async with Pop3Server(MAIL, capabilities=UTF8[:-1], says=script).serving() as server:
        session = await Pop3Session.open(login(server))
        assert session.quirks == Quirks(no_utf8=True)
        await session.quit()


async def test_a_slow_login_delay_is_told() -> None:
    async with Pop3Server(MAIL, capabilities=["LOGIN-DELAY 60 USER"]).serving() as server:
        session = await Pop3Session.open(login(server))
        assert session.login_delay == 60.0
        await session.quit()
