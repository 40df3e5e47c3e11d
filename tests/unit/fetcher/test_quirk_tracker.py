"""What one account learns of its maildrop says nothing of its neighbours at the same server."""

import asyncio
import math
from collections.abc import Callable

import pytest

from services.fetcher.inventory import SIZES_VARY
from shared.ledger import Quirk
from tests.servers.pop3 import Pop3Server, Say
from tests.unit.fetcher.desk import Desk, some
from tests.unit.fetcher.pop3_session import MAIL, everything_runs


async def _poll_of_hanging(
    desk: Desk, server: Pop3Server, forward: Callable[[float], None]
) -> None:
    """Poll, with time put forward whenever the server leaves us waiting."""
    poll = asyncio.create_task(desk.poll(server, keep=math.inf))
    while not poll.done():
        await everything_runs()
        if server.hanging:
            server.hanging = False
            await everything_runs()
            forward(61)
    await poll


@pytest.mark.parametrize("offers", [("UIDL", "TOP"), ("UIDL", "TOP", "PIPELINING")])
@pytest.mark.parametrize("verb", ["UIDL", "LIST", "STAT"])
async def test_a_maildrop_at_which_a_listing_hangs_costs_its_neighbours_nothing(
    desk: Desk, forward: Callable[[float], None], verb: str, offers: tuple[str, ...]
) -> None:
    says = {verb: Say(then="hang")} | ({"LIST": Say(b"-ERR no\r\n")} if verb == "STAT" else {})
    async with some(2, capabilities=offers, says=says).serving() as server:
        await _poll_of_hanging(desk, server, forward)
        server.says = {}
        server.commands.clear()
        await desk.poll(server, keep=math.inf)
        assert server.commands.count("UIDL") == (verb != "UIDL")  # its own is remembered
        await desk.clock.advance(86_400)
        server.commands.clear()
        await desk.poll(server, keep=math.inf)
        assert verb in {*server.commands, "STAT"}, "for a day; LIST makes do without STAT"
        server.commands.clear()
        await desk.poll_all(server, ["neighbour"])
        assert {"UIDL", "LIST"} <= set(server.commands)
        assert server.deleted == {1, 2}
        known = await desk.state.recall("neighbour", f"127.0.0.1:{server.port}")
    assert (known.quirks, known.own) == ({}, {})


async def test_an_older_version_s_lessons_of_a_whole_server_are_not_believed_of_a_maildrop(
    desk: Desk,
) -> None:
    async with some(2, capabilities=("UIDL", "TOP")).serving() as server:
        for name in ("no_list", "no_stat", "no_uidl", SIZES_VARY):
            quirk = Quirk(name, 1, desk.clock.now() + 86_400)
            await desk.state.learn(f"127.0.0.1:{server.port}", quirk)
        await desk.poll(server)
        assert {"UIDL", "LIST"} <= set(server.commands)
        assert server.deleted == {1, 2}


async def test_a_trial_outlives_a_login_that_was_refused_while_the_server_held_the_maildrop(
    desk: Desk, forward: Callable[[float], None]
) -> None:
    hangs, locked = Say(then="hang"), Say(b"-ERR [IN-USE] locked\r\n")

    class Holding(dict[str, Say]):
        def get(self, key: str, default: Say | None = None) -> Say | None:  # type: ignore[override]
            if key == "UIDL":
                self["PASS"] = locked
            return super().get(key, default)

    offers = ("UIDL", "TOP")
    async with some(2, capabilities=offers, says=Holding(UIDL=hangs)).serving() as server:
        await _poll_of_hanging(desk, server, forward)
        assert desk.raws() == []
        server.says = {"UIDL": hangs}
        server.commands.clear()
        await _poll_of_hanging(desk, server, forward)
        assert "UIDL" not in server.commands
    assert desk.raws() == MAIL[:2]


async def test_a_mechanism_that_one_password_cannot_be_checked_by_is_used_by_its_neighbours(
    desk: Desk,
) -> None:
    says = {"AUTH": Say(b"-ERR [AUTH] no\r\n")}
    offers = ("UIDL", "TOP", "USER", "SASL CRAM-MD5 PLAIN")
    async with some(2, capabilities=offers, says=says).serving() as server:
        await desk.poll(server, keep=math.inf)
        server.commands.clear()
        await desk.poll(server, keep=math.inf)
        assert "AUTH CRAM-MD5" not in server.commands  # its own is remembered
        await desk.clock.advance(7 * 86_400)
        await desk.poll(server, keep=math.inf)
        assert server.commands.count("AUTH CRAM-MD5") == 1, "for a week"
        server.commands.clear()
        await desk.poll_all(server, ["neighbour"])
        assert server.commands.count("AUTH CRAM-MD5") == 1
