"""What a session asks of the server: no more than it needs, and enough to see what has changed."""

import math

from shared.ledger import LedgerEntry
from tests.servers.pop3 import Pop3Server, Say
from tests.unit.fetcher.desk import Desk

MANY = [b"Subject: %d\r\n\r\nbody\r\n" % n for n in range(1_000, 2_200)]
NAMES = [f"u{n}" for n in range(len(MANY))]
NO_PIPELINING = ("UIDL", "TOP", "USER")


def asked(server: Pop3Server) -> list[str]:
    """Return what was asked since the last time, after the login, but for RETR."""
    ends = ("CAPA", "USER", "PASS", "QUIT", "RETR")
    found = [c for c in server.commands if not c.startswith(ends)]
    server.commands.clear()
    return found


async def test_sizes_of_a_small_maildrop_come_with_the_listing(desk: Desk) -> None:
    async with Pop3Server(MANY[:3], NAMES[:3]).serving() as server:
        await desk.poll(server, keep=math.inf)
        assert asked(server) == ["STAT", "UIDL", "LIST", "LIST 3"]  # the last with RETR
    assert [k.size for k in (await desk.state.known("sales")).values()] == [len(MANY[0])] * 3


async def test_without_pipelining_the_sizes_take_the_place_of_stat(desk: Desk) -> None:
    async with Pop3Server(MANY[:3], NAMES[:3], NO_PIPELINING).serving() as server:
        await desk.poll(server, keep=math.inf)
        assert asked(server) == ["LIST", "UIDL"]
    async with Pop3Server([], [], NO_PIPELINING).serving() as server:
        await desk.poll(server, keep=math.inf)
        assert asked(server) == ["LIST"]


async def test_of_a_large_maildrop_only_new_messages_are_measured(desk: Desk) -> None:
    async with Pop3Server(MANY[:-1], NAMES[:-1]).serving() as server:
        await desk.poll(server, keep=math.inf)
        assert "LIST" in asked(server)
        await desk.poll(server, keep=math.inf)
        assert asked(server) == ["STAT", "UIDL"]
        server.messages, server.uidls = MANY, NAMES
        assert (await desk.poll(server, keep=math.inf))["fetched"] == 1
        assert asked(server) == ["STAT", "UIDL", f"LIST {len(MANY)}"]


async def test_a_sum_that_differs_is_worth_a_listing_that_shows_which_message_is_another(
    desk: Desk,
) -> None:
    async with Pop3Server(MANY, NAMES).serving() as server:
        await desk.poll(server, keep=math.inf)
        asked(server)
        other = b"Subject: under a used UIDL\r\n\r\nbody\r\n"
        server.messages = [*MANY[:700], other, *MANY[701:]]
        assert (await desk.poll(server, keep=math.inf))["fetched"] == 1
        assert asked(server) == ["STAT", "UIDL", "LIST"]
        await desk.poll(server, keep=math.inf)
        assert asked(server) == ["STAT", "UIDL"]


async def test_sizes_that_an_older_version_did_not_record_are_filled_in_once(desk: Desk) -> None:
    async with Pop3Server(MANY, NAMES).serving() as server:
        await desk.poll(server, keep=math.inf)
        known = await desk.state.known("sales")
        await desk.state.forget("sales", NAMES)
        await desk.state.record("sales", [LedgerEntry(uidl, k.id) for uidl, k in known.items()])
        asked(server)
        assert (await desk.poll(server, keep=math.inf))["fetched"] == 0
        assert asked(server) == ["STAT", "UIDL", "LIST"]
        await desk.poll(server, keep=math.inf)
        assert asked(server) == ["STAT", "UIDL"]
    assert {k.size for k in (await desk.state.known("sales")).values()} == {len(MANY[0])}


async def test_a_server_whose_sizes_vary_is_not_asked_again(desk: Desk) -> None:
    async with Pop3Server(MANY, NAMES).serving() as server:
        await desk.poll(server, keep=math.inf)
        listing = "".join(f"{n} {len(raw) + 1}\r\n" for n, raw in enumerate(MANY, 1))
        server.says = {
            "LIST": Say(f"+OK\r\n{listing}.\r\n".encode()),
            "STAT": Say(b"+OK %d %d\r\n" % (len(MANY), sum(map(len, MANY)) + len(MANY))),
        }
        server.commands.clear()
        assert (await desk.poll(server, keep=math.inf))["fetched"] == 0
        # Those that were asked for before the first was there; not all of them.
        assert 0 < sum(c.startswith("RETR") for c in server.commands) <= 128
        asked(server)
        await desk.poll(server, keep=math.inf)
        assert "RETR" not in "".join(server.commands)
        assert asked(server) == ["STAT", "UIDL"]


async def test_list_without_sizes_is_said(desk: Desk) -> None:
    async with Pop3Server(
        MANY[:2], NAMES[:2], says={"LIST": Say(b"+OK\r\n1\r\n2\r\n.\r\n")}
    ).serving() as server:
        assert (await desk.poll(server, keep=math.inf))["fetched"] == 2
    undone = (await desk.state.accounts())["sales"].undone
    assert undone == "LIST says no sizes: a message that comes too short is not noticed"
