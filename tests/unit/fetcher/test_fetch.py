"""The fetch story with a real ledger, broker and spool, and a POP3 server that does as told."""

import asyncio
import math
from pathlib import Path

import pytest

from services.fetcher.interfaces import SessionLimits
from shared.message import Inline, Spooled
from shared.state import State, new_owner
from tests.servers.pop3 import Pop3Server, Say
from tests.unit.fetcher.desk import UIDLS, Desk, deleted, some
from tests.unit.fetcher.pop3_session import MAIL


async def test_everything_is_published_recorded_and_then_deleted(desk: Desk) -> None:
    async with some(200).serving() as server:
        happened = await desk.poll(server)
    assert desk.raws() == MAIL
    assert [e.payload.uidl for e in desk.incoming()] == UIDLS
    assert server.deleted == set(range(1, 201))
    assert (happened["fetched"], happened["removed"], happened["polled"]) == (200, 200, 1)


async def test_a_session_that_deletes_quits_after_so_many_and_the_next_goes_on(
    desk: Desk,
) -> None:
    async with some(7).serving() as server:
        happened = await desk.poll(server, keep=600.0, limits=SessionLimits(session_messages=3))
        said = [c for c in server.commands if c.startswith(("RETR", "QUIT"))]
    assert said[:5] == ["RETR 1", "RETR 2", "RETR 3", "QUIT", "RETR 4"]
    assert server.connections == 3
    assert desk.raws() == MAIL[:7]
    assert (happened["fetched"], happened["polled"]) == (7, 1)


async def test_a_server_that_says_ok_and_deletes_nothing_keeps_no_message_from_us(
    desk: Desk,
) -> None:
    kept = {"QUIT": Say(b"+OK bye\r\n", "drop")}
    async with some(7, says=kept).serving() as server, asyncio.timeout(20):
        await desk.poll(server, limits=SessionLimits(session_messages=3))
        assert [c for c in server.commands if "RETR" in c] == [f"RETR {n}" for n in range(1, 8)]
        assert desk.raws() == MAIL[:7]
        undone = (await desk.state.accounts())["sales"].undone
        assert undone is not None
        assert undone == "6 messages are there still, though the server said +OK to DELE and QUIT"
        server.commands.clear()
        await desk.poll(server, limits=SessionLimits(session_messages=3))
        assert not [c for c in server.commands if c in {f"RETR {n}" for n in range(1, 7)}]


async def test_a_session_that_deletes_nothing_takes_all(desk: Desk) -> None:
    async with some(7).serving() as server:
        await desk.poll(server, keep=math.inf, limits=SessionLimits(session_messages=3))
        assert server.connections == 1
    assert desk.raws() == MAIL[:7]


async def test_what_stays_on_the_server_is_fetched_once(desk: Desk) -> None:
    async with some(3).serving() as server:
        await desk.poll(server, keep=math.inf)
        server.commands.clear()
        again = await desk.poll(server, keep=math.inf)
    assert not [c for c in server.commands if c.startswith(("RETR", "DELE"))]
    assert again["fetched"] == 0
    assert desk.raws() == MAIL[:3]


async def test_what_stays_for_a_while_is_deleted_after_it(desk: Desk) -> None:
    async with some(2).serving() as server:
        await desk.poll(server, keep=600.0)
        await desk.clock.advance(599)
        await desk.poll(server, keep=600.0)
        assert deleted(server) == []
        await desk.clock.advance(1)
        await desk.poll(server, keep=600.0)
    assert deleted(server) == [1, 2]
    assert desk.raws() == MAIL[:2]


async def test_deletions_that_quit_does_not_confirm_are_made_again_without_fetching(
    desk: Desk,
) -> None:
    async with some(
        2, says={"QUIT": Say(b"-ERR some deleted messages not removed\r\n")}
    ).serving() as server:
        happened = await desk.poll(server)
        assert (happened["removed"], happened["accounts_failed"]) == (0, 1)
        server.says = {}
        server.commands.clear()
        happened = await desk.poll(server)
    assert deleted(server) == [1, 2]
    assert happened["fetched"] == 0
    assert desk.raws() == MAIL[:2]


@pytest.mark.parametrize(
    "limits", [SessionLimits(chunk_messages=2, chunks_underway=0), SessionLimits()]
)
async def test_a_session_that_breaks_off_keeps_what_came_whole(
    desk: Desk, limits: SessionLimits
) -> None:
    script = {"RETR 5": Say(b"+OK\r\nhalf a mess", "drop")}
    async with some(6, says=script).serving() as server:
        happened = await desk.poll(server, limits=limits)
        assert happened["fetched"] == 5
        assert server.commands.count("RETR 5") == 1
        assert desk.raws() == MAIL[:4] + MAIL[5:6]
        assert server.deleted == {1, 2, 3, 4, 6}
        server.says = {}
        happened = await desk.poll(server, limits=limits)
    assert (happened["fetched"], happened["polled"]) == (1, 1)
    assert server.deleted == set(range(1, 7))


async def test_a_large_message_that_breaks_off_leaves_no_blob(desk: Desk) -> None:
    half = b"Subject: large\r\n\r\n" + b"0123456789abcdef\r\n" * 1_000
    script = {"RETR 2": Say(b"+OK\r\n" + half, "drop")}
    async with some(2, says=script).serving() as server:
        await desk.poll(server)
    assert desk.raws() == MAIL[:1]
    assert [p for p in (desk.folder / "spool").rglob("*") if p.is_file()] == []


async def test_one_message_that_the_server_refuses_keeps_none_of_the_others(desk: Desk) -> None:
    async with some(5, says={"RETR 3": Say(b"-ERR [SYS/TEMP] unreadable\r\n")}).serving() as server:
        happened = await desk.poll(server)
    assert desk.raws() == [MAIL[0], MAIL[1], MAIL[3], MAIL[4]]
    assert server.deleted == {1, 2, 4, 5}
    assert (happened["accounts_failed"], happened["polled"]) == (0, 1)
    state = (await desk.state.accounts())["sales"]
    assert (state.last_error, state.next_poll) == (None, desk.clock.now() + 300.0)
    assert state.undone == (
        "1 message cannot be fetched: message 3 (UIDL u3): RETR is refused: [SYS/TEMP] unreadable"
    )


async def test_nothing_is_deleted_that_the_broker_did_not_take(desk: Desk) -> None:
    async with some(3).serving() as server:
        happened = await desk.poll(server, outbox="no such queue")
        assert (happened["fetched"], happened["accounts_failed"]) == (0, 1)
        assert deleted(server) == []
        await desk.poll(server)
    assert desk.raws() == MAIL[:3]


async def test_a_second_copy_is_suppressed_and_counted(desk: Desk) -> None:
    twins = Pop3Server([MAIL[0], MAIL[1], MAIL[0]], ["a", "b", "c"])
    async with twins.serving() as server:
        happened = await desk.poll(server)
    assert desk.raws() == MAIL[:2]
    assert (happened["fetched"], happened["suppressed"]) == (2, 1)
    assert server.deleted == {1, 2, 3}


async def test_renumbered_uidls_bring_no_message_twice(desk: Desk) -> None:
    async with some(3).serving() as server:
        await desk.poll(server, keep=math.inf)
        server.uidls = ["x1", "x2", "x3"]
        happened = await desk.poll(server, keep=math.inf)
        assert (happened["fetched"], happened["suppressed"]) == (0, 3)
        server.commands.clear()
        await desk.poll(server, keep=math.inf)
    assert not [c for c in server.commands if c.startswith("RETR")]
    assert desk.raws() == MAIL[:3]


async def test_a_uidl_that_two_messages_share_loses_neither(desk: Desk) -> None:
    async with Pop3Server(MAIL[:2], ["same", "same"]).serving() as server:
        await desk.poll(server)
    assert desk.raws() == MAIL[:2]


async def test_a_server_without_uidl_is_told_apart_by_content(desk: Desk) -> None:
    async with Pop3Server(MAIL[:2], None, ["USER"]).serving() as server:
        await desk.poll(server, keep=math.inf)
        happened = await desk.poll(server, keep=math.inf)
    assert desk.raws() == MAIL[:2]
    assert happened["suppressed"] == 2


async def test_a_large_message_goes_to_the_spool_and_its_header_with_the_envelope(
    desk: Desk,
) -> None:
    head = b"Subject: large\r\n\r\n"
    large = head + b"0123456789abcdef\r\n" * 20_000
    async with Pop3Server([MAIL[0], large], ["a", "b"]).serving() as server:
        await desk.poll(server)
    small, spooled = desk.incoming()
    assert small.payload.raw == Inline(MAIL[0])
    assert spooled.payload.raw == Spooled(spooled.id, len(large), head)
    assert b"".join([c async for c in desk.spool.chunks(spooled.id)]) == large


async def test_a_large_message_seen_before_leaves_no_blob(desk: Desk) -> None:
    large = b"Subject: large\r\n\r\n" + b"0123456789abcdef\r\n" * 1_000
    async with Pop3Server([large], ["a"]).serving() as server:
        await desk.poll(server, keep=math.inf)
        (envelope,) = desk.incoming()
        await desk.spool.delete(envelope.id)
        server.uidls = ["b"]
        happened = await desk.poll(server, keep=math.inf)
    assert happened["suppressed"] == 1
    assert [p for p in (desk.folder / "spool").rglob("*") if p.is_file()] == []


async def test_two_jobs_for_one_account_make_one_session(desk: Desk) -> None:
    async with some(3).serving() as server:
        await desk.poll(server, jobs=3)
        assert server.connections == 1
    assert desk.raws() == MAIL[:3]


async def test_an_account_in_other_hands_is_left_alone(desk: Desk, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    other = await State.open(url, owner=new_owner(), clock=desk.clock)
    assert await other.lease("account:sales")
    async with some(1).serving() as server:
        await desk.poll(server)
        assert server.connections == 0
        await other.release("account:sales")
        await desk.poll(server)
    await other.close()
    assert desk.raws() == MAIL[:1]


LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcdef\r\n" * 20_000


async def test_a_large_message_that_the_spool_does_not_take_keeps_none_of_the_others(
    desk: Desk,
) -> None:
    spool = desk.folder / "spool"
    spool.write_bytes(b"a file where the folder should be")
    async with Pop3Server([MAIL[0], LARGE, MAIL[1]], ["a", "b", "c"]).serving() as server:
        happened = await desk.poll(server)
        assert desk.raws() == MAIL[:2]
        assert server.deleted == {1, 3}
        assert (happened["fetched"], happened["accounts_failed"]) == (2, 1)
        state = (await desk.state.accounts())["sales"]
        assert "Not a directory" in str(state.last_error)
        assert b'spool_failures_total{stage="fetcher",what="unavailable"} 1.0' in (
            desk.log.metrics.text()
        )
        spool.unlink()
        await desk.poll(server)
    assert [e.payload.raw.size for e in desk.incoming()] == [*map(len, MAIL[:2]), len(LARGE)]


async def test_a_large_message_that_comes_much_too_short_is_kept_when_it_does_so_again(
    desk: Desk,
) -> None:
    said = Say(b"+OK\r\n1 2000000\r\n.\r\n")
    async with Pop3Server([LARGE], ["a"], says={"LIST": said}).serving() as server:
        await desk.poll(server)
        assert [p for p in (desk.folder / "spool").rglob("*") if p.is_file()] == []
        assert (desk.incoming(), server.deleted) == ([], set())
        await desk.poll(server)
        (envelope,) = desk.incoming()
        assert envelope.payload.raw.size == len(LARGE)
        assert server.deleted == {1}
    assert b"".join([c async for c in desk.spool.chunks(envelope.id)]) == LARGE
