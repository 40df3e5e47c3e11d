"""Servers that show but a part of a maildrop: sessions repeat until one finds nothing new."""

import math

from services.fetcher.retriever import FULL
from tests.servers.pop3 import Pop3Server, Say
from tests.unit.fetcher.desk import Desk

MAIL = [b"Subject: %d\r\n\r\nbody %d\r\n" % (n, n) for n in range(2 * FULL + 7)]
UIDLS = [f"u{n}" for n in range(len(MAIL))]


def showing(server: Pop3Server, *shown: slice) -> None:
    """Have a server show one part of its mail in each session."""
    parts = iter(shown)

    def next_part() -> None:
        part = next(parts, slice(0, 0))
        server.messages, server.uidls = MAIL[part], UIDLS[part]

    server.says = {"PASS": Say(b"+OK\r\n", between=next_part)}


async def test_what_a_server_hides_once_it_was_retrieved_comes_in_one_poll(desk: Desk) -> None:
    async with Pop3Server().serving() as server:
        showing(server, slice(0, FULL), slice(FULL, 2 * FULL), slice(2 * FULL, None))
        happened = await desk.poll(server, keep=math.inf)
        assert server.connections == 3
    assert (desk.raws(), happened["polled"]) == (MAIL, 1)


async def test_what_lies_behind_the_oldest_comes_when_these_are_deleted(desk: Desk) -> None:
    async with Pop3Server().serving() as server:
        showing(server, slice(0, FULL), slice(FULL, FULL + 3))
        await desk.poll(server)
        assert (server.connections, len(server.deleted)) == (2, FULL)
    assert desk.raws() == MAIL[: FULL + 3]


async def test_a_maildrop_that_is_shown_as_a_whole_is_looked_at_once_more(desk: Desk) -> None:
    async with Pop3Server(MAIL[:FULL], UIDLS[:FULL]).serving() as server:
        await desk.poll(server, keep=math.inf)
        assert (server.connections, server.commands.count("RETR 1")) == (2, 1)
        server.messages, server.uidls = MAIL, UIDLS
        await desk.poll(server, keep=math.inf)
        assert server.connections == 3
    assert desk.raws() == MAIL


async def test_less_than_that_costs_no_second_look(desk: Desk) -> None:
    async with Pop3Server(MAIL[: FULL - 1], UIDLS[: FULL - 1]).serving() as server:
        await desk.poll(server)
        assert server.connections == 1
