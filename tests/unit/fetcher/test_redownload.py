"""The breaker: a maildrop that seems to come all over again is held, and nothing published."""

import math
from collections.abc import Sequence

import pytest

from services.fetcher.account import Intake
from services.fetcher.identity import Identity, identify_with_head
from services.fetcher.redownload import SAMPLE_LEAST
from shared.ledger import ADOPT, FLOOD, RELEASE, SKIP, UNDELIVERED
from tests.servers.pop3 import Pop3Server, Say
from tests.unit.fetcher.desk import Desk

COUNT = 100
MAIL = [
    b"From: ann@example.net\r\nMessage-ID: <%d@example.net>\r\n"
    b"Date: Tue, 01 Dec 2026 06:00:00 +0000\r\n\r\nbody %d\r\n" % (n, n)
    for n in range(3 * COUNT)
]
MOVED = [b"X-New-House: yes\r\n" + raw for raw in MAIL]
OTHERS = MAIL[COUNT:]


def uidls(prefix: str, count: int = COUNT) -> list[str]:
    return [f"{prefix}{n}" for n in range(count)]


def holding(messages: Sequence[bytes], prefix: str) -> Pop3Server:
    return Pop3Server(messages, uidls(prefix, len(messages)))


async def fetched_before(desk: Desk, server: Pop3Server) -> None:
    """Have the maildrop fetched once, and what came then no measure of anything."""
    await desk.poll(server, keep=math.inf)
    await desk.clock.advance(60)


async def held(desk: Desk) -> str:
    account = (await desk.state.accounts())["sales"]
    return account.held or ""


async def poll(desk: Desk, server: Pop3Server, intake: Intake = Intake()) -> int:
    return (await desk.poll(server, keep=math.inf, intake=intake))["fetched"]


async def test_mail_with_another_header_line_is_held_and_nothing_of_it_published(
    desk: Desk,
) -> None:
    async with holding(MAIL[:COUNT], "a").serving() as server:
        await fetched_before(desk, server)
        server.messages, server.uidls = MOVED[:COUNT], uidls("b")
        assert await poll(desk, server) == 0
        said = await held(desk)
        assert said.startswith(FLOOD)
        assert "64 of 64 messages" in said
        assert "account release sales" in said
        server.commands.clear()
        assert await poll(desk, server) == 0
        assert server.commands == [], "it is not polled"
    assert desk.raws() == MAIL[:COUNT]
    assert server.deleted == set()


async def test_what_is_held_is_fetched_when_the_operator_releases_it(desk: Desk) -> None:
    async with holding(MAIL[:COUNT], "a").serving() as server:
        await fetched_before(desk, server)
        server.messages, server.uidls = MOVED[:COUNT], uidls("b")
        await poll(desk, server)
        await desk.state.choose(["sales"], RELEASE)
        assert await poll(desk, server) == COUNT
        state = (await desk.state.accounts())["sales"]
        assert (state.held, state.choice) == (None, None)
    assert desk.raws() == MAIL[:COUNT] + MOVED[:COUNT]


async def test_what_is_released_comes_in_several_polls_where_one_fails(desk: Desk) -> None:
    async with holding(MAIL[:COUNT], "a").serving() as server:
        await fetched_before(desk, server)
        server.messages, server.uidls = MOVED[:COUNT], uidls("b")
        await poll(desk, server)
        await desk.state.choose(["sales"], RELEASE)
        server.says = {f"RETR {n}": Say(b"", "drop") for n in range(40, COUNT + 1)}
        await poll(desk, server)
        server.says = {}
        await desk.clock.advance(4_000)
        await poll(desk, server)
    assert sorted(desk.raws()) == sorted(MAIL[:COUNT] + MOVED[:COUNT])


async def test_what_is_skipped_stays_and_what_comes_later_is_fetched(desk: Desk) -> None:
    async with holding(MAIL[:COUNT], "a").serving() as server:
        await fetched_before(desk, server)
        server.messages, server.uidls = MOVED[:COUNT], uidls("b")
        await poll(desk, server)
        await desk.state.choose(["sales"], SKIP)
        assert await poll(desk, server) == 0
        server.messages, server.uidls = [*MOVED[:COUNT], OTHERS[0]], uidls("b", COUNT + 1)
        assert (await desk.poll(server, keep=0.0))["fetched"] == 1
        assert server.deleted == {COUNT + 1}


async def test_renumbered_mail_is_no_flood_and_new_mail_beside_it_comes(desk: Desk) -> None:
    """However little is plausible; also with the newest first."""
    for prefix, intake, news in (("b", Intake(), 30), ("c", Intake(False, True), 60)):
        async with holding(MAIL[:COUNT], "a").serving() as server:
            await fetched_before(desk, server)
            mail = MAIL[: COUNT + news]
            server.messages, server.uidls = mail, uidls(prefix, len(mail))
            limited = Intake(False, intake.newest_first, None, 70)
            await poll(desk, server, limited)
        assert await held(desk) == ""
        assert sorted(desk.raws()) == sorted(mail)


async def test_more_than_is_plausible_is_held(desk: Desk) -> None:
    async with holding(MAIL[:COUNT], "a").serving() as server:
        await fetched_before(desk, server)
        server.messages, server.uidls = MAIL, uidls("a", len(MAIL))
        limited = Intake(flood_limit=len(OTHERS) - 1)
        assert await poll(desk, server, limited) == 0
        assert f"{len(OTHERS)} messages are new all at once" in await held(desk)
    assert desk.raws() == MAIL[:COUNT]


async def test_as_much_as_is_plausible_is_fetched(desk: Desk) -> None:
    async with holding(MAIL[:COUNT], "a").serving() as server:
        await fetched_before(desk, server)
        server.messages, server.uidls = MAIL, uidls("a", len(MAIL))
        assert await poll(desk, server, Intake(flood_limit=len(OTHERS))) == len(OTHERS)


async def test_ten_times_the_busiest_poll_is_plausible_and_the_first_is_no_measure(
    desk: Desk,
) -> None:
    async with holding(MAIL[:COUNT], "a").serving() as server:
        await fetched_before(desk, server)
        assert (await desk.state.recall("sales", "s")).busiest == 0
        server.messages, server.uidls = MAIL[: COUNT + 20], uidls("a", COUNT + 20)
        await poll(desk, server, Intake(flood_least=30))
        assert (await desk.state.recall("sales", "s")).busiest == 20
        server.messages, server.uidls = MAIL, uidls("a", len(MAIL))
        assert await poll(desk, server, Intake(flood_least=30)) == len(OTHERS) - 20


async def test_a_first_poll_that_takes_several_is_no_flood(desk: Desk) -> None:
    strict = Intake(flood_limit=10)
    cut = {f"RETR {n}": Say(b"", "drop") for n in range(40, COUNT + 1)}
    async with holding(MAIL[:COUNT], "a").serving() as server:
        server.says = cut
        await poll(desk, server, strict)
        server.says = {}
        await desk.clock.advance(4_000)
        await poll(desk, server, strict)
    assert (sorted(desk.raws()), await held(desk)) == (sorted(MAIL[:COUNT]), "")


@pytest.mark.parametrize("choice", [UNDELIVERED, ADOPT])
async def test_what_the_operator_has_chosen_is_no_flood(desk: Desk, choice: str) -> None:
    async with holding(MAIL[:COUNT], "a").serving() as server:
        await fetched_before(desk, server)
        await desk.state.choose(["sales"], choice)
        server.messages, server.uidls = MAIL, uidls("b", len(MAIL))
        await poll(desk, server, Intake(flood_limit=10))
        assert await held(desk) == ""
        state = (await desk.state.accounts())["sales"]
        assert (state.choice, state.last_error) == (None, None)


async def test_a_few_that_are_alike_are_delivered(desk: Desk) -> None:
    few = SAMPLE_LEAST - 1
    async with holding(MAIL[:few], "a").serving() as server:
        await fetched_before(desk, server)
        server.messages, server.uidls = MOVED[:few], uidls("b", few)
        assert await poll(desk, server) == few


async def test_twins_of_one_poll_are_not_taken_for_mail_of_earlier_ones(desk: Desk) -> None:
    async with holding(MAIL[:COUNT], "a").serving() as server:
        await fetched_before(desk, server)
        twins = [raw for pair in zip(OTHERS, MOVED[COUNT:], strict=True) for raw in pair]
        server.messages, server.uidls = twins, uidls("t", len(twins))
        assert await poll(desk, server) == len(twins)


@pytest.mark.parametrize("cut", [1, 7, 1_000_000])
def test_a_fingerprint_is_the_same_however_a_message_comes_and_with_other_lines(cut: int) -> None:
    folded = MOVED[0].replace(b"From: ann", b"FROM:\r\n ann")
    found = set()
    for raw in (MAIL[0], MOVED[0], folded):
        streamed = Identity("sales")
        for start in range(0, len(raw), cut):
            streamed.feed(raw[start : start + cut])
        id_, _, loose = identify_with_head("sales", raw)
        assert (streamed.id(), streamed.loose()) == (id_, loose)
        found.add(loose)
    assert len(found) == 1
    assert identify_with_head("sales", MAIL[1])[2] not in found
    assert identify_with_head("sales", MAIL[0] + b"more\r\n")[2] not in found
    assert identify_with_head("other", MAIL[0])[2] not in found
    assert identify_with_head("sales", b"Subject: none\r\n\r\nx\r\n")[2] is None
