"""Messages that another program has fetched: not retrieved, and deleted when that is safe."""

import math
from collections.abc import Sequence

import pytest

from services.fetcher.deletion import CONFIRM_MOST
from shared.ledger import FETCH_AGAIN, IMPORTED, UNDELIVERED
from tests.servers.pop3 import Pop3Server, Say
from tests.unit.fetcher.desk import UIDLS, Desk, deleted, some
from tests.unit.fetcher.pop3_session import MAIL

DAY = 86_400.0
WEEK = 7 * DAY
WITHOUT_TOP = ("UIDL", "USER", "PIPELINING", "RESP-CODES")


async def bring_in(desk: Desk, *uidls: str, age: float = 0.0) -> None:
    await desk.state.import_uidls("sales", dict.fromkeys(uidls, desk.clock.now() - age))


def asked(server: Pop3Server, verb: str) -> list[int]:
    return [int(c.split()[1]) for c in server.commands if c.startswith(f"{verb} ")]


async def ids(desk: Desk) -> list[str]:
    return [known.id.partition(":")[0] for known in (await desk.state.known("sales")).values()]


async def test_what_was_imported_is_not_retrieved_and_what_is_new_is(desk: Desk) -> None:
    await bring_in(desk, "u1", "u2", "gone")
    async with some(3).serving() as server:
        happened = await desk.poll(server, keep=math.inf)
        assert (asked(server, "RETR"), asked(server, "TOP")) == ([3], [1, 2])
        assert desk.raws() == MAIL[2:3]
        assert (happened["fetched"], happened["suppressed"]) == (1, 0)
        known = await desk.state.known("sales")
        assert list(known) == ["u1", "u2", "u3"]
        assert [one.size for one in known.values()] == [len(raw) for raw in MAIL[:3]]
        server.commands.clear()
        await desk.poll(server, keep=math.inf)
        assert (asked(server, "RETR"), asked(server, "TOP")) == ([], []), "it is done once"
    assert desk.raws() == MAIL[2:3]


async def test_it_is_deleted_in_its_time_and_is_seen_to_be_the_same_first(desk: Desk) -> None:
    await bring_in(desk, "u1", age=6 * DAY)
    await bring_in(desk, "u2", age=8 * DAY)
    async with some(2).serving() as server:
        await desk.poll(server, keep=WEEK)
        assert deleted(server) == [], "nobody here had looked at it"
        await desk.poll(server, keep=WEEK)
        assert deleted(server) == [2]
        assert asked(server, "TOP") == [1, 2, 2]
        assert asked(server, "RETR") == []
    assert desk.raws() == []


async def test_one_that_is_to_be_deleted_at_once_is_looked_at_and_goes_with_the_next_poll(
    desk: Desk,
) -> None:
    await bring_in(desk, "u1")
    async with some(1).serving() as server:
        await desk.poll(server, keep=0.0)
        await desk.poll(server, keep=0.0)
        assert (deleted(server), asked(server, "RETR")) == ([1], [])


@pytest.mark.parametrize(
    "other", [b"Subject: 1\r\n\r\nanother body\r\n", b"Subject: 7\r\n\r\nbody 1\r\n"]
)
async def test_another_message_under_its_uidl_is_delivered_and_not_deleted_unread(
    desk: Desk, other: bytes
) -> None:
    """Of another size it is at once; of the same, when it is to be deleted."""
    await bring_in(desk, "u1", age=8 * DAY)
    async with some(1).serving() as server:
        await desk.poll(server, keep=WEEK)
        server.messages = [other]
        await desk.poll(server, keep=WEEK)
        assert desk.raws() == [other]
        assert deleted(server) == []


async def test_where_top_is_not_offered_it_is_read_once_and_counts_as_delivered(
    desk: Desk,
) -> None:
    await bring_in(desk, "u1", "u2", age=8 * DAY)
    async with some(2, capabilities=WITHOUT_TOP).serving() as server:
        happened = await desk.poll(server, keep=WEEK)
        assert (asked(server, "RETR"), asked(server, "TOP")) == ([1, 2], [])
        assert (happened["fetched"], happened["suppressed"]) == (0, 2)
        assert deleted(server) == []
        await desk.clock.advance(WEEK + DAY)
        await desk.poll(server, keep=WEEK)
        assert deleted(server) == [1, 2]
    assert desk.raws() == []
    assert IMPORTED not in await ids(desk)


async def test_what_stays_for_ever_is_never_read_where_top_shows_nothing(desk: Desk) -> None:
    await bring_in(desk, "u1")
    async with some(1, capabilities=WITHOUT_TOP).serving() as server:
        await desk.poll(server, keep=math.inf)
        assert asked(server, "RETR") == []
    assert await ids(desk) == [IMPORTED]


@pytest.mark.parametrize("large", [False, True])
async def test_where_top_is_refused_when_it_is_to_be_deleted_its_header_is_seen_by_reading_it(
    desk: Desk, large: bool
) -> None:
    """And of a large one nothing is left in the spool."""
    raw = MAIL[0] + b"x" * 70 + b"\r\n" * 40 * 100 if large else MAIL[0]
    await bring_in(desk, "u1", age=8 * DAY)
    async with Pop3Server([raw], UIDLS[:1]).serving() as server:
        await desk.poll(server, keep=WEEK)
        server.says = {"TOP": Say(b"-ERR not now\r\n")}
        happened = await desk.poll(server, keep=WEEK)
        assert asked(server, "RETR") == [1]
        assert (happened["fetched"], happened["suppressed"]) == (0, 1)
    assert desk.raws() == []
    assert not [path for path in (desk.folder / "spool").rglob("*") if path.is_file()]


async def test_a_message_of_which_top_is_refused_is_read_and_the_others_are_not(
    desk: Desk,
) -> None:
    await bring_in(desk, "u1", "u2")
    refuses = {"TOP 2 0": Say(b"-ERR no\r\n")}
    async with some(2, says=refuses).serving() as server:
        happened = await desk.poll(server, keep=WEEK)
        assert asked(server, "RETR") == [2]
        assert (happened["fetched"], happened["suppressed"]) == (0, 1)


@pytest.mark.parametrize("then", ["drop", "hang"])
async def test_a_server_that_breaks_at_top_keeps_no_mail_from_us(desk: Desk, then: str) -> None:
    await bring_in(desk, "u1", "u2")
    breaks = {"TOP": Say(b"", "drop" if then == "drop" else "hang")}
    async with some(3, says=breaks).serving() as server:
        happened = await desk.poll(server, keep=WEEK, timeout=0.2)
        assert desk.raws() == MAIL[2:3]
        assert (happened["fetched"], happened["polled"]) == (1, 1)
        assert sorted(set(asked(server, "RETR"))) == [1, 2, 3]


async def test_of_very_many_some_are_looked_at_with_each_poll(desk: Desk) -> None:
    count = CONFIRM_MOST + 3
    uidls = [f"u{n}" for n in range(count)]
    await bring_in(desk, *uidls)
    async with Pop3Server([MAIL[0]] * count, uidls).serving() as server:
        looked: Sequence[int] = []
        for seen in (CONFIRM_MOST, count):
            await desk.poll(server, keep=WEEK)
            looked = asked(server, "TOP")
            assert len(looked) == seen
        assert (len(set(looked)), asked(server, "RETR")) == (count, [])
        assert server.connections == 2


async def test_fetch_again_forgets_what_was_imported(desk: Desk) -> None:
    await bring_in(desk, "u1")
    async with some(1).serving() as server:
        await desk.poll(server, keep=math.inf)
        await desk.state.choose(["sales"], FETCH_AGAIN)
        await desk.poll(server, keep=math.inf)
    assert desk.raws() == MAIL[:1]


async def test_what_was_never_delivered_does_not_mean_what_was_imported(desk: Desk) -> None:
    await bring_in(desk, "u1")
    async with some(1).serving() as server:
        await desk.poll(server, keep=math.inf)
        await desk.state.choose(["sales"], UNDELIVERED)
        await desk.poll(server, keep=math.inf)
    assert desk.raws() == []


async def test_another_message_under_its_uidl_that_was_never_looked_at_is_delivered(
    desk: Desk,
) -> None:
    await bring_in(desk, "u1")
    async with some(1, capabilities=WITHOUT_TOP).serving() as server:
        await desk.poll(server, keep=math.inf)
        server.messages = [b"Subject: another\r\n\r\n"]
        await desk.poll(server, keep=WEEK)
        assert asked(server, "RETR") == [1]
        assert desk.raws() == server.messages


async def test_a_server_that_refuses_top_is_not_asked_for_all(desk: Desk) -> None:
    await bring_in(desk, *UIDLS[:9])
    refuses = {"TOP": Say(b"-ERR never\r\n")}
    async with some(9, capabilities=("UIDL", "TOP", "USER"), says=refuses).serving() as server:
        happened = await desk.poll(server, keep=WEEK)
        assert asked(server, "TOP") == [1, 2, 3]
        assert (happened["fetched"], happened["suppressed"]) == (0, 9)
