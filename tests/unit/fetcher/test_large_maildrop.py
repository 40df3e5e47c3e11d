"""Maildrops that are too large to be held in memory, or to be fetched in one session."""

import asyncio
import math
import tracemalloc

import pytest

from services.fetcher import commit_pipeline, compare, ledger_pages, refused_messages
from services.fetcher.interfaces import SessionLimits
from services.fetcher.ledger_pages import LedgerPages
from shared.ledger import LedgerEntry
from tests.servers.pop3 import Pop3Server, Say
from tests.unit.fetcher.desk import UIDLS, Desk, some
from tests.unit.fetcher.pop3_session import MAIL


@pytest.mark.parametrize("count", [0, 1, 2, 3, 6, 7, 11])
@pytest.mark.parametrize("kept", [1, 3])
async def test_the_ledger_is_read_page_by_page_as_often_as_it_takes(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, count: int, kept: int
) -> None:
    monkeypatch.setattr(ledger_pages, "KEPT", kept)
    await desk.state.record("other", [LedgerEntry("u1", f"{99:032x}", 5)])
    entries = [LedgerEntry(f"ü{n}", f"{n:032x}", n) for n in range(count)]
    await desk.state.record("sales", entries)
    ledger = LedgerPages(desk.state, "sales", asyncio.Lock(), size=2)
    for _ in range(2):
        read = [page async for page in ledger.read()]
        assert all(len(page) <= 2 for page in read)
        assert {u: k.size for page in read for u, k in page.items()} == {
            e.uidl: e.size for e in entries
        }
    await ledger.close()


async def test_for_one_maildrop_at_a_time_the_ledger_is_read_ahead(desk: Desk) -> None:
    await desk.state.record("sales", [LedgerEntry(f"u{n}", f"{n:032x}", n) for n in range(9)])
    ahead = asyncio.Lock()
    first = LedgerPages(desk.state, "sales", ahead, size=4)
    await first.ready()
    second = LedgerPages(desk.state, "sales", ahead, size=4)
    await second.ready()
    await desk.state.forget("sales", ["u8"])  # it is on the last page
    assert [len(page) async for page in first.read()] == [4, 4, 1]
    assert [len(page) async for page in second.read()] == [4, 4, 0]
    await first.close()
    third = LedgerPages(desk.state, "sales", ahead, size=3)
    await third.ready()
    await desk.state.forget("sales", ["u7"])
    assert [len(page) async for page in third.read()] == [3, 3, 2]
    await second.close()
    await third.close()
    assert not ahead.locked()


async def test_a_copy_is_known_by_the_ledger_once_it_is_long_ago(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_pipeline, "SINCE_KEPT", 12)
    copies = [*MAIL[:40], *MAIL[:40]]
    limits = SessionLimits(chunk_messages=2)
    async with Pop3Server(copies, UIDLS[:80]).serving() as server:
        happened = await desk.poll(server, keep=math.inf, limits=limits)
    assert (happened["fetched"], happened["suppressed"]) == (40, 40)
    assert desk.raws() == MAIL[:40]


@pytest.mark.parametrize("offered", [["UIDL", "PIPELINING"], ["UIDL"]])
async def test_what_a_session_leaves_comes_in_another(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, offered: list[str]
) -> None:
    monkeypatch.setattr(compare, "FETCH_MOST", 40)
    monkeypatch.setattr(compare, "SLICE", 30)
    async with Pop3Server(MAIL, UIDLS, capabilities=offered).serving() as server:
        await desk.poll(server, keep=math.inf)
    assert desk.raws() == MAIL
    assert server.commands.count("QUIT") == len(MAIL) / 40


async def test_a_session_that_records_nothing_is_the_last(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "FETCH_MOST", 3)
    async with some(9, says={"RETR": Say(b"-ERR no\r\n")}).serving() as server:
        await desk.poll(server, keep=math.inf)
    assert server.commands.count("QUIT") == 1
    assert desk.raws() == []


async def test_of_many_refusals_the_words_of_the_first_are_kept(desk: Desk) -> None:
    count, reply = 2_000, f"-ERR {chr(0x1F600) * 500}\r\n".encode()
    says = {"RETR": Say(reply), "RETR 1": Say(b"+OK\r\n" + MAIL[0] + b".\r\n")}
    maildrop = [MAIL[0]] + [b"x\r\n"] * (count - 1)
    server = Pop3Server(maildrop, [f"u{n}" for n in range(count)], says=says)
    tracemalloc.start()
    try:
        async with server.serving():
            await desk.poll(server, keep=math.inf)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < count * 2_000, "less than the words of them all"
    assert desk.raws() == MAIL[:1]
    undone = (await desk.state.accounts())["sales"].undone
    assert undone is not None
    assert undone.startswith(f"{count - 1} messages cannot be fetched: message 2 (UIDL u1): RETR")
    assert chr(0x1F600) * 100 in undone


@pytest.mark.parametrize("kept", [0, 3])
async def test_what_is_temporary_is_tried_again_however_many_refusals_there_are(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    monkeypatch.setattr(refused_messages, "REPLIES_KEPT", kept)
    refused = {f"RETR {n}": Say(b"-ERR [sys/temp] later\r\n") for n in range(2, 10)}
    async with some(9, says=refused).serving() as server:
        for _ in range(5):
            await desk.poll(server, keep=math.inf)
            await desk.clock.advance(300.0)
        assert server.commands.count("RETR 9") == 5
    async with some(9).serving() as server:
        await desk.poll(server, keep=math.inf)
    assert sorted(desk.raws()) == sorted(MAIL[:9])


async def test_a_listing_and_a_ledger_of_many_pages_are_compared(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_pages, "KEPT", 2)
    monkeypatch.setattr(LedgerPages.__init__, "__defaults__", (7,))
    async with Pop3Server(MAIL[:90], UIDLS[:90]).serving() as server:
        await desk.poll(server, keep=math.inf)
    async with Pop3Server(MAIL[20:100], UIDLS[20:100]).serving() as server:
        happened = await desk.poll(server, keep=math.inf)
    assert (happened["fetched"], happened["suppressed"]) == (10, 0)
    assert desk.raws() == MAIL[:100]
    assert set(await desk.state.known("sales")) == set(UIDLS[20:100]), "what is gone is forgotten"
