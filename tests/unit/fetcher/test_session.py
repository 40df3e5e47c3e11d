"""Sessions with a server that does as a script says: what no real server can be made to do."""

import asyncio
import itertools
import tracemalloc
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from services.fetcher.pop3 import survey
from services.fetcher.pop3.session import Pop3Session
from services.fetcher.pop3.window import MARK_AFTER
from shared.errors import ServerFault, Unreachable
from shared.network.tls import Trust
from tests.servers.certificates import Certificates
from tests.servers.pop3 import Pop3Server, Say
from tests.unit.fetcher.pop3_session import (
    MAIL,
    everything_runs,
    login,
    nobody_connected,
    retrieved,
    server_context,
    uidls_of,
)

# Retrieving


@pytest.mark.parametrize("offered", [["PIPELINING"], []])
async def test_one_refused_message_does_not_hold_up_the_others(offered: list[str]) -> None:
    script = {"RETR 2": Say(b"-ERR gone\r\n")}
    async with Pop3Server(MAIL, capabilities=offered, says=script).serving() as server:
        session = await Pop3Session.open(login(server))
        expected: list[bytes | str] = [MAIL[0], "gone", *MAIL[2:]]
        assert await retrieved(session, list(range(1, 201))) == expected
        await session.quit()


async def test_without_pipelining_one_command_waits_for_the_other() -> None:
    async with Pop3Server(MAIL, capabilities=[]).serving() as server:
        session = await Pop3Session.open(login(server))
        before = len(server.commands)
        async with aclosing(session.retrieve([1, 2, 3])) as messages:
            await anext(messages)
            await everything_runs()
            assert server.commands[before:] == ["RETR 1"]
        await session.abort()


async def test_with_pipelining_the_window_bounds_what_is_asked_ahead() -> None:
    async with Pop3Server(MAIL).serving() as server:
        session = await Pop3Session.open(login(server))
        before = len(server.commands)
        async with aclosing(session.retrieve(list(range(1, 201)))) as messages:
            async for message in messages:
                while f"RETR {min(message.number + 30, 200)}" not in server.commands[before:]:
                    await asyncio.sleep(0)
                await everything_runs()
                answered = before + server.commands[before:].index(f"RETR {message.number}") + 1
                assert len(server.commands) - answered <= 64
        await session.abort()


async def test_pipelined_messages_are_followed_by_marks_that_name_the_last_one() -> None:
    async with Pop3Server(MAIL).serving() as server:
        session = await Pop3Session.open(login(server))
        before = len(server.commands)
        await retrieved(session, list(range(1, 201)))
        asked = [command.split() for command in server.commands[before:]]
        assert [int(number) for verb, number in asked if verb == "RETR"] == [*range(1, 201)]
        marks = [place for place, (verb, _) in enumerate(asked) if verb == "LIST"]
        assert all(asked[place][1] == asked[place - 1][1] for place in marks)
        assert marks[-1] == len(asked) - 1
        assert max(b - a for a, b in itertools.pairwise([-1, *marks])) == MARK_AFTER + 1
        assert session.marks == len(marks)
        await session.quit()


async def test_only_crlf_dot_crlf_ends_a_message() -> None:
    raw = b"Subject: smuggled\r\n\r\none\n.\ntwo\r.\rthree\n.\r\nfour\r\n"
    script = {"RETR 1": Say(b"+OK\r\n" + raw + b".\r\n")}
    async with Pop3Server(MAIL, says=script).serving() as server:
        session = await Pop3Session.open(login(server))
        assert await retrieved(session, [1, 2]) == [raw, MAIL[1]]
        await session.quit()


async def test_an_empty_message_is_empty() -> None:
    async with Pop3Server([b"", b".\r\n"]).serving() as server:
        session = await Pop3Session.open(login(server))
        assert await retrieved(session, [1, 2]) == [b"", b".\r\n"]
        await session.quit()


async def test_what_is_not_consumed_is_skipped() -> None:
    large = b"x" * 300_000 + b"\r\n"
    async with Pop3Server([large, *MAIL]).serving() as server:
        session = await Pop3Session.open(login(server))
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
        session = await Pop3Session.open(login(server))
        await leave_early()
        assert await session.surveyor.stat() == (200, sum(map(len, MAIL)))
        await leave_early()
        assert await retrieved(session, [7]) == [MAIL[6]]
        await leave_early()
        assert await session.delete([7]) == [7]
        await leave_early()
        await session.quit()
    assert server.deleted == {7}


async def test_a_listing_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "BODY_LIMIT", 300_000)
    async with Pop3Server(MAIL, says={"UIDL": Say(Endless(1_000_000))}).serving() as server:
        session = await Pop3Session.open(login(server), max_messages=1_000)
        with pytest.raises(ServerFault, match="its answer to UIDL has more than 300000 bytes"):
            await session.surveyor.survey()
        await session.abort()


async def test_a_cancelled_command_does_not_confuse_the_next() -> None:
    async with Pop3Server(MAIL, ["a", "b"]).serving() as server:
        session = await Pop3Session.open(login(server))
        task = asyncio.create_task(session.surveyor.survey())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await session.surveyor.stat() == (200, sum(map(len, MAIL)))
        assert (await session.surveyor.survey()).uidls == uidls_of([(1, "a"), (2, "b")])
        await session.quit()


@pytest.mark.parametrize("sent", [b"", b"+OK\r\n", b"+OK\r\nSubject: x\r\n\r\nhalf a li"])
async def test_a_connection_that_drops_in_the_middle_of_a_message(sent: bytes) -> None:
    script = {"RETR 2": Say(sent, then="drop")}
    async with Pop3Server(MAIL, says=script).serving() as server:
        session = await Pop3Session.open(login(server))
        await session.surveyor.survey()
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
        session = await Pop3Session.open(login(server, tls=tls, trust=Trust(str(certificates.ca))))
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
        session = await Pop3Session.open(login(server))
        numbers = list(range(1, len(mail) + 1))
        expected = [n for n in numbers if n != 3]
        assert await session.delete(numbers) == expected
        assert server.deleted == set()
        await session.quit()
        assert server.deleted == set(expected)
        await nobody_connected(server)


@pytest.mark.parametrize("offered", [["PIPELINING"], []])
async def test_what_is_deleted_with_quit_is_what_the_server_accepted(offered: list[str]) -> None:
    mail = MAIL * 6
    script = {f"DELE {n}": Say(b"-ERR no\r\n") for n in (3, 1199)}
    async with Pop3Server(mail, capabilities=offered, says=script).serving() as server:
        session = await Pop3Session.open(login(server))
        numbers = list(range(1, len(mail) + 1))
        expected = [n for n in numbers if n not in (3, 1199)]
        assert await session.quit(numbers) == expected
        assert server.deleted == set(expected)
        await nobody_connected(server)


async def test_quit_does_not_wait_for_the_answers_to_deletions() -> None:
    async with Pop3Server(MAIL, says={"DELE 2": Say()}).serving() as server:
        session = await Pop3Session.open(login(server))
        quitting = asyncio.create_task(session.quit([1, 2]))
        while server.commands[-1] != "QUIT":
            await asyncio.sleep(0)
        assert server.commands[-3:] == ["DELE 1", "DELE 2", "QUIT"]
        quitting.cancel()


async def test_without_pipelining_quit_waits_for_the_answers_to_deletions() -> None:
    script = {"DELE 2": Say()}
    async with Pop3Server(MAIL, capabilities=[], says=script).serving() as server:
        session = await Pop3Session.open(login(server))
        quitting = asyncio.create_task(session.quit([1, 2]))
        while server.commands[-1] != "DELE 2":
            await asyncio.sleep(0)
        await everything_runs()
        assert server.commands[-2:] == ["DELE 1", "DELE 2"]
        quitting.cancel()


async def test_without_pipelining_one_deletion_waits_for_the_other() -> None:
    script = {"DELE 1": Say()}
    async with Pop3Server(MAIL, capabilities=[], says=script).serving() as server:
        session = await Pop3Session.open(login(server))
        deleting = asyncio.create_task(session.delete([1, 2]))
        await everything_runs()
        assert server.commands[-1] == "DELE 1"
        deleting.cancel()
        await session.abort()


async def test_nothing_is_deleted_after_abort() -> None:
    async with Pop3Server(MAIL).serving() as server:
        session = await Pop3Session.open(login(server))
        await session.delete([3])
        await session.quit()
        session = await Pop3Session.open(login(server))
        await session.delete([4])
        await session.abort()
    assert server.deleted == {3}


async def test_quit_closes_the_connection_even_if_the_server_does_not() -> None:
    async with Pop3Server(MAIL, says={"QUIT": Say(b"+OK\r\n")}).serving() as server:
        session = await Pop3Session.open(login(server))
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
        session = await Pop3Session.open(login(server))
        await session.delete([1])
        with pytest.raises(error) as raised:
            await session.quit()
    assert type(raised.value) is error
