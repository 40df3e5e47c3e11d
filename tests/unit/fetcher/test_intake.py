"""What is taken of a maildrop, and in which order: skipped at first, the newest first, in parts."""

import math

import pytest

from services.fetcher.account import Intake
from services.fetcher.interfaces import SessionLimits
from shared.ledger import ADOPTED, SKIPPED
from tests.servers.pop3 import Pop3Server, Say
from tests.unit.fetcher.desk import UIDLS, Desk, deleted, some
from tests.unit.fetcher.pop3_session import MAIL

SKIP = Intake(skip_existing=True)
NEWEST = Intake(newest_first=True)


def retrieved(server: Pop3Server) -> list[int]:
    return [int(c.split()[1]) for c in server.commands if c.startswith("RETR")]


async def test_what_is_there_at_the_first_poll_stays_and_what_comes_later_is_fetched(
    desk: Desk,
) -> None:
    async with some(5).serving() as server:
        assert (await desk.poll(server, intake=SKIP))["fetched"] == 0
        server.messages, server.uidls = MAIL[:7], UIDLS[:7]
        assert (await desk.poll(server, intake=SKIP))["fetched"] == 2
        server.messages, server.uidls = MAIL[:5], UIDLS[:5]
        await desk.clock.advance(3_600)
        await desk.poll(server, intake=SKIP)
        assert (retrieved(server), server.deleted) == ([6, 7], {6, 7})
    assert desk.raws() == MAIL[5:7]
    assert (await desk.state.accounts())["sales"].choice is None


async def test_mail_that_comes_during_the_first_poll_is_not_skipped(desk: Desk) -> None:
    async with some(3).serving() as server:

        def arrives() -> None:
            server.messages, server.uidls = MAIL[:4], UIDLS[:4]

        listing = b"".join(b"%d %d\r\n" % (n, len(MAIL[0])) for n in (1, 2, 3))
        server.says = {"LIST": Say(b"+OK\r\n" + listing + b".\r\n", between=arrives)}
        await desk.poll(server, intake=SKIP)
        server.says = {}
        await desk.poll(server, intake=SKIP)
    assert desk.raws() == MAIL[3:4]


async def test_a_first_poll_that_fails_at_the_login_skips_all_the_same(desk: Desk) -> None:
    async with some(3, says={"PASS": Say(b"-ERR no\r\n")}).serving() as server:
        await desk.poll(server, intake=SKIP)
        server.says = {}
        await desk.clock.advance(4_000)
        assert (await desk.poll(server, intake=SKIP, keep=math.inf))["fetched"] == 0
        assert retrieved(server) == []


async def test_an_account_with_history_skips_nothing(desk: Desk) -> None:
    broken = {"RETR 2": Say(b"", "drop"), "RETR 3": Say(b"", "drop")}
    async with some(3, says=broken).serving() as server:
        await desk.poll(server, keep=math.inf)  # one of three, and it failed
        server.says = {}
        await desk.poll(server, keep=math.inf, intake=SKIP)
    assert sorted(desk.raws()) == sorted(MAIL[:3])


async def test_a_uidl_that_was_skipped_and_names_another_message_now_is_fetched(
    desk: Desk,
) -> None:
    longer = b"Subject: another\r\n\r\nsome more of it\r\n"
    async with some(3).serving() as server:
        await desk.poll(server, intake=SKIP)
        server.messages = [*MAIL[:2], longer]
        await desk.poll(server, intake=SKIP)
        assert server.deleted == {3}
    assert desk.raws() == [longer]


@pytest.mark.parametrize(("keep", "fetched"), [(math.inf, 0), (0.0, 3)])
async def test_without_uidls_nothing_is_deleted_that_was_not_delivered(
    desk: Desk, keep: float, fetched: int
) -> None:
    async with Pop3Server(MAIL[:3], None, ["USER"]).serving() as server:
        happened = await desk.poll(server, intake=SKIP, keep=keep)
        assert happened["fetched"] == fetched
        assert len(deleted(server)) == fetched
        server.messages = MAIL[:4]
        await desk.poll(server, intake=SKIP, keep=math.inf)
    assert MAIL[3] in desk.raws()
    assert (await desk.state.accounts())["sales"].choice is None


async def test_very_many_are_skipped_at_once(desk: Desk) -> None:
    many = [f"m{n}" for n in range(2_500)]
    async with Pop3Server([MAIL[0]] * 2_500, many).serving() as server:
        await desk.poll(server, intake=SKIP, keep=math.inf)
        known = await desk.state.known("sales")
        assert (server.connections, {k.id for k in known.values()}) == (1, {SKIPPED})
        await desk.poll(server, intake=SKIP, keep=math.inf)
        assert retrieved(server) == []
    assert ADOPTED not in {k.id for k in known.values()}


@pytest.mark.parametrize("keep", [0.0, 600.0, math.inf])
async def test_the_newest_come_first_and_all_is_known_and_deleted_as_ever(
    desk: Desk, keep: float
) -> None:
    async with some(9).serving() as server:
        await desk.poll(server, intake=NEWEST, keep=keep)
        assert retrieved(server) == list(range(9, 0, -1))
        assert len(server.deleted) == (9 if keep == 0 else 0)
        await desk.clock.advance(700)
        server.commands.clear()
        await desk.poll(server, intake=NEWEST, keep=keep)
        assert [n for n in retrieved(server) if keep] == []
        assert len(server.deleted) == (0 if keep == math.inf else 9)
    assert desk.raws() == MAIL[8::-1]


@pytest.mark.parametrize("intake", [Intake(max_per_session=3), Intake(False, True, 3)])
@pytest.mark.parametrize("keep", [0.0, math.inf])
async def test_a_session_takes_so_many_and_the_poll_goes_on(
    desk: Desk, intake: Intake, keep: float
) -> None:
    async with some(8).serving() as server:
        happened = await desk.poll(server, intake=intake, keep=keep)
        assert server.connections == 3
        order = list(range(8, 0, -1)) if intake.newest_first else list(range(1, 9))
        assert retrieved(server) == order
    assert (happened["fetched"], happened["polled"]) == (8, 1)
    assert sorted(desk.raws()) == sorted(MAIL[:8])


async def test_what_came_meanwhile_is_fetched_before_what_is_old(desk: Desk) -> None:
    async with some(6).serving() as server:

        def arrives() -> None:
            server.messages, server.uidls = MAIL[:7], UIDLS[:7]
            server.says = {}

        server.says = {"QUIT": Say(b"+OK\r\n", "drop", between=arrives)}
        await desk.poll(server, intake=Intake(False, True, 3), keep=math.inf)
    assert desk.raws()[3] == MAIL[6]


async def test_portions_are_left_alone_where_the_next_session_could_not_go_on(desk: Desk) -> None:
    async with Pop3Server(MAIL[:8], None, ["USER"]).serving() as server:
        await desk.poll(server, intake=Intake(max_per_session=3), keep=math.inf)
        assert server.connections == 1
    assert desk.raws() == MAIL[:8]


async def test_what_our_side_does_not_take_is_not_asked_for_without_end(desk: Desk) -> None:
    (desk.folder / "spool").write_bytes(b"a file where the folder should be")
    large = b"Subject: large\r\n\r\n" + b"0123456789abcdef\r\n" * 20_000
    async with Pop3Server([large] * 3, UIDLS[:3]).serving() as server:
        happened = await desk.poll(server, intake=Intake(max_per_session=1), keep=math.inf)
        assert (server.connections, happened["accounts_failed"]) == (1, 1)


async def test_after_a_pause_between_logins_the_next_portion_comes(desk: Desk) -> None:
    offered = ("UIDL", "TOP", "USER", "LOGIN-DELAY 600")
    async with some(5, capabilities=offered).serving() as server:
        await desk.poll(server, intake=Intake(max_per_session=3), keep=math.inf)
        assert (server.connections, await desk.due_in("sales")) == (1, 600.0)
        await desk.clock.advance(600)
        limits = SessionLimits()
        await desk.poll(server, intake=Intake(max_per_session=3), keep=math.inf, limits=limits)
    assert desk.raws() == MAIL[:5]
