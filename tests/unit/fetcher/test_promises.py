"""Sessions with a server that mixes up what it says: nothing is believed that is not certain."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import pytest

from services.fetcher.pop3 import client
from services.fetcher.pop3.quirks import Quirks
from services.fetcher.pop3.session import Pop3Session
from shared.errors import PromiseBroken, ServerFault, Silent, Unreachable
from tests.servers.pop3 import Pop3Server, Say, wire
from tests.unit.fetcher.pop3_session import MAIL, everything_runs, login, retrieved

LONE_DOT = b"Subject: two\r\n\r\nfirst half\r\n.\r\nsecond half\r\nmore\r\n"


async def whole_until_broken(
    session: Pop3Session, numbers: list[int], found: list[tuple[int, bytes, bool]]
) -> None:
    """Retrieve messages, and note of each whether the server was in step after it."""
    async with aclosing(session.retrieve(numbers)) as messages:
        async for message in messages:
            raw = b"".join([chunk async for chunk in message.chunks()])
            found.append((message.number, raw, session.in_step))


@pytest.mark.parametrize(
    ("quirks", "error"), [(Quirks(), PromiseBroken), (Quirks(no_pipelining=True), ServerFault)]
)
async def test_a_dot_that_is_not_stuffed_is_noticed(
    quirks: Quirks, error: type[ServerFault]
) -> None:
    script = {"RETR 2": Say(b"+OK\r\n" + LONE_DOT + b".\r\n")}
    found: list[tuple[int, bytes, bool]] = []
    async with Pop3Server(MAIL[:3], says=script).serving() as server:
        session = await Pop3Session.open(login(server), quirks)
        with pytest.raises(error, match="out of turn: second half") as raised:
            await whole_until_broken(session, [1, 2, 3], found)
        await session.abort()
    assert type(raised.value) is error
    assert [number for number, _, _ in found] == [1, 2]
    assert not found[1][2]


async def test_what_is_left_over_after_the_last_message_shows_itself_with_the_next_command() -> (
    None
):
    script = {"RETR 2": Say(b"+OK\r\n" + LONE_DOT + b".\r\n")}
    async with Pop3Server(MAIL[:3], says=script).serving() as server:
        session = await Pop3Session.open(login(server))
        await retrieved(session, [2])
        assert not session.in_step
        with pytest.raises(ServerFault, match="out of turn: second half"):
            await session.quit([2])
    assert server.deleted == set()
    assert "DELE 2" not in server.commands


async def test_a_session_is_in_step_when_all_is_answered() -> None:
    async with Pop3Server(MAIL[:3], ["a", "b", "c"]).serving() as server:
        session = await Pop3Session.open(login(server))
        found: list[tuple[int, bytes, bool]] = []
        await session.surveyor.survey()
        await whole_until_broken(session, [1, 2, 3], found)
        assert session.in_step
        assert server.commands[-1] == "LIST 3"  # the answer names what was asked last
        await session.quit()


MERGED = wire(MAIL[0]).removesuffix(b"\r\n.\r\n") + b".\r\n"


@pytest.mark.parametrize(
    "script",
    [
        {"RETR 1": Say(MERGED), "RETR 3": Say(MERGED)},
        {"RETR 3": Say(b"+OK\r\nhalf a message", then="hang")},
        {"RETR 3": Say(then="hang")},
        {"RETR 1": Say(b"")},
    ],
    ids=["a dot glued to the text", "half a message", "no answer", "an answer lost"],
)
async def test_silence_with_answers_outstanding_breaks_the_promise(
    script: dict[str, Say], forward: Callable[[float], None]
) -> None:
    found: list[tuple[int, bytes, bool]] = []
    async with Pop3Server(MAIL[:3], ["a", "b", "c"], says=script).serving() as server:
        session = await Pop3Session.open(login(server))
        await session.surveyor.survey()
        retrieving = asyncio.create_task(whole_until_broken(session, [1, 2, 3], found))
        while "RETR 3" not in server.commands:
            await asyncio.sleep(0)
        await everything_runs()
        forward(61)
        with pytest.raises(PromiseBroken, match="commands sent together") as raised:
            await retrieving
        assert raised.value.quirk == "no_pipelining"
        await session.abort()
    assert not any(in_step for _, _, in_step in found)


@pytest.mark.parametrize("answered", [True, False])
async def test_a_line_that_breaks_is_the_servers_promise_only_where_it_never_kept_one(
    answered: bool,
) -> None:
    script = {"RETR 2": Say(then="drop")}
    async with Pop3Server(MAIL[:3], ["a", "b", "c"], says=script).serving() as server:
        session = await Pop3Session.open(login(server))
        if answered:
            await session.surveyor.survey()
        with pytest.raises(Unreachable if answered else PromiseBroken):
            await retrieved(session, [1, 2, 3])
        assert session.at == 2
        await session.abort()


@pytest.mark.parametrize("end", [b".\n", b".\r\n"])
async def test_messages_that_end_in_line_feeds_after_a_status_line_that_does_not(
    end: bytes, forward: Callable[[float], None]
) -> None:
    raw = b"Subject: x\n\none\n.two\n"
    script = {"RETR 1": Say(b"+OK\r\n" + raw.replace(b"\n.", b"\n..") + end)}
    async with Pop3Server(MAIL[:2], says=script).serving() as server:
        session = await Pop3Session.open(login(server), Quirks(no_pipelining=True))
        retrieving = asyncio.create_task(retrieved(session, [1]))
        while "RETR 1" not in server.commands:
            await asyncio.sleep(0)
        await everything_runs()
        forward(61)
        with pytest.raises(PromiseBroken) as raised:
            await retrieving
        assert raised.value.quirk == "bare_ends"
        await session.abort()
        session = await Pop3Session.open(login(server), Quirks(bare_ends=True))
        assert await retrieved(session, [1, 2]) == [raw, MAIL[1]]
        await session.quit()


# Messages that did not end as they should, read by their size


@pytest.mark.parametrize("listed", [len(LONE_DOT), 70])
async def test_a_dot_that_is_not_stuffed_is_no_end_where_the_size_is_known(listed: int) -> None:
    script = {"RETR 2": Say(b"+OK\r\n" + LONE_DOT + b".\r\n")}
    async with Pop3Server(MAIL[:3], says=script).serving() as server:
        session = await Pop3Session.open(login(server), Quirks(no_pipelining=True))
        found = [
            (m.number, m.whole) async for m in session.retrieve([1, 2, 3], {2: listed}) if m.whole
        ]
        assert (2, LONE_DOT) in found
        assert session.in_step
        await session.round_trip()
        await session.quit()


async def test_a_dot_glued_to_the_text_is_an_end_where_the_size_is_known() -> None:
    glued = MAIL[1].removesuffix(b"\r\n")
    script = {"RETR 2": Say(b"+OK\r\n" + glued + b".\r\n"), "RETR 3": Say(b"-ERR no\r\n")}
    async with Pop3Server(MAIL[:3], says=script).serving() as server:
        session = await Pop3Session.open(login(server), Quirks(no_pipelining=True))
        by_size = {2: len(glued), 3: 70}
        found = [(m.whole, m.refused) async for m in session.retrieve([2, 3], by_size)]
        assert found == [(glued, None), (None, "no")]
        assert session.in_step
        await session.quit()


async def test_a_message_that_is_read_by_its_size_is_not_held_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "FRAMED_LIMIT", 1_000)
    script = {"RETR 1": Say(b"+OK\r\n" + b"x" * 10_000)}
    async with Pop3Server(MAIL[:3], says=script).serving() as server:
        session = await Pop3Session.open(login(server), Quirks(no_pipelining=True))
        with pytest.raises(ServerFault, match="a message of more than 1000 bytes"):
            async for _ in session.retrieve([1], {1: 10}):
                pass
        await session.abort()


# QUIT where nothing is to be deleted


@pytest.mark.parametrize(
    "say", [Say(b"-ERR what?\r\n"), Say(then="drop"), Say(b"what?\r\n"), Say(b"+O", then="drop")]
)
async def test_whatever_is_said_to_quit_where_nothing_is_deleted_will_do(say: Say) -> None:
    async with Pop3Server(MAIL, says={"QUIT": say}).serving() as server:
        session = await Pop3Session.open(login(server))
        assert await session.quit() == []


async def test_quit_is_not_waited_for_long_where_nothing_is_deleted(
    forward: Callable[[float], None],
) -> None:
    async with Pop3Server(MAIL, says={"QUIT": Say(then="hang")}).serving() as server:
        session = await Pop3Session.open(login(server))
        quitting = asyncio.create_task(session.quit())
        while not server.hanging:
            await asyncio.sleep(0)
        await everything_runs()
        assert not quitting.done()
        forward(6)
        assert await quitting == []


async def test_quit_is_waited_for_where_something_is_deleted(
    forward: Callable[[float], None],
) -> None:
    async with Pop3Server(MAIL, says={"QUIT": Say(then="hang")}).serving() as server:
        session = await Pop3Session.open(login(server))
        quitting = asyncio.create_task(session.quit([1]))
        while not server.hanging:
            await asyncio.sleep(0)
        await everything_runs()
        forward(6)
        await everything_runs()
        assert not quitting.done()
        forward(60)
        with pytest.raises((Silent, PromiseBroken)):
            await quitting


async def test_the_message_at_which_a_server_hangs_up_is_known() -> None:
    script = {"DELE 2": Say(then="drop")}
    async with Pop3Server(MAIL, says=script).serving() as server:
        session = await Pop3Session.open(login(server))
        with pytest.raises(ServerFault):
            await session.delete([1, 2, 3])
        assert session.at == 2
        await session.abort()
