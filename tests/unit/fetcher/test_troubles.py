"""Messages that cannot be fetched: they hold up no others, and are left alone after some tries."""

import math

import pytest

from services.fetcher.troubles import ALL_LEFT_FOR, LEFT_FOR, NAMED, TRIES, Troubles
from services.fetcher.worklist import FetchList, ListedMessage
from shared.ledger import MessageTrouble
from tests.servers.pop3 import Say
from tests.unit.fetcher.desk import Desk, some
from tests.unit.fetcher.pop3_session import MAIL

NOW = 1_700_000_000.0


def test_what_broke_comes_last_and_is_left_alone_after_some_tries() -> None:
    known: dict[str, MessageTrouble] = {}
    listed = [ListedMessage(1, "bad"), ListedMessage(2, "good")]
    messages = FetchList.of(listed)
    for tries in range(1, TRIES + 1):
        troubles = Troubles(known, NOW)
        in_order = list(troubles.in_order(messages))
        assert in_order == (listed if tries == 1 else listed[::-1])
        troubles.add("bad", 1, "cut")
        troubles.add("bad", 1, "cut")  # another session of the same poll
        assert list(troubles.in_order(messages)) == listed[1:]
        (known["bad"],) = troubles.to_record()
        assert known["bad"].tries == tries
    assert list(Troubles(known, NOW + LEFT_FOR - 1).in_order(messages)) == listed[1:]
    assert list(Troubles(known, NOW + LEFT_FOR).in_order(messages)) == listed[::-1]


def test_a_line_that_broke_is_no_try() -> None:
    known: dict[str, MessageTrouble] = {}
    for _ in range(10):
        troubles = Troubles(known, NOW)
        troubles.add("u", 1, "cut", counts=False)
        (known["u"],) = troubles.to_record()
    assert not Troubles(known, NOW).left_alone("u")


def test_what_is_over_is_forgotten() -> None:
    known = {key: MessageTrouble(key, 1, 1, 0.0, "cut") for key in ("fetched", "gone", "there")}
    troubles = Troubles(known, NOW)
    troubles.settle(["fetched", "unknown"])
    troubles.keep_only(["there", "fetched"])
    assert set(troubles.to_forget()) == {"fetched", "gone"}
    assert troubles.to_forget() == []
    assert troubles.sentences() == ["1 message cannot be fetched: message 1 (UIDL there): cut"]


def test_a_deletion_that_failed_does_not_keep_a_message_from_being_fetched() -> None:
    known = {"u": MessageTrouble("u", 1, 9, NOW + 60, "refused", deletes=True)}
    troubles = Troubles(known, NOW)
    assert list(troubles.in_order(FetchList.of([ListedMessage(1, "u")]))) == [ListedMessage(1, "u")]
    assert troubles.left_alone("u", deletes=True)


def test_only_some_are_named() -> None:
    troubles = Troubles({}, NOW)
    for number in range(1, NAMED + 3):
        troubles.add(ListedMessage(number, None, 7).key, number, "refused")
    (said,) = troubles.sentences()
    assert said.startswith("5 messages cannot be fetched: message 1: refused; message 2")
    assert said.endswith("; and 2 more")


async def test_a_server_that_hands_over_nothing_has_a_trouble_of_its_own(desk: Desk) -> None:
    over = {"RETR": Say(b"-ERR over the limit of today\r\n")}
    async with some(9, says=over).serving() as server:
        for _ in range(TRIES + 1):
            happened = await desk.poll(server, keep=math.inf)
            assert happened["accounts_failed"] == 1
        assert (await desk.state.recall("sales", "")).troubles == {}
        server.says = {}
        await desk.poll(server, keep=math.inf)
    assert desk.raws() == MAIL[:9]


async def test_a_few_messages_that_are_always_refused_do_not_fail_the_account(desk: Desk) -> None:
    async with some(3, says={"RETR": Say(b"-ERR unreadable\r\n")}).serving() as server:
        for _ in range(TRIES + 1):
            assert (await desk.poll(server, keep=math.inf))["accounts_failed"] == 0
        assert sum(c.startswith("RETR") for c in server.commands) == 3 * TRIES
    undone = (await desk.state.accounts())["sales"].undone
    assert undone is not None
    assert undone.startswith("3 messages cannot be fetched")


@pytest.mark.parametrize("others", [0, 1])
async def test_where_all_there_is_is_refused_it_is_tried_again_after_an_hour(
    desk: Desk, others: int
) -> None:
    """A server in trouble over night kept the mail of a small maildrop for a day."""
    no = Say(b"-ERR unreadable\r\n")
    refused = {f"RETR {n}": no for n in range(others + 1, others + 3)}
    async with some(others + 2, says=refused).serving() as server:
        for _ in range(TRIES + 1):
            assert (await desk.poll(server, keep=math.inf))["accounts_failed"] == 0
        server.says = {}
        await desk.clock.advance(ALL_LEFT_FOR - 1)
        assert (await desk.poll(server, keep=math.inf))["fetched"] == 0
        await desk.clock.advance(1)
        assert (await desk.poll(server, keep=math.inf))["fetched"] == (0 if others else 2)
        await desk.clock.advance(LEFT_FOR)
        await desk.poll(server, keep=math.inf)
    assert sorted(desk.raws()) == sorted(MAIL[: others + 2])


async def test_what_is_temporary_by_its_own_word_is_tried_at_each_poll(desk: Desk) -> None:
    async with some(2, says={"RETR 1": Say(b"-ERR [SYS/TEMP] later\r\n")}).serving() as server:
        for _ in range(TRIES + 2):
            await desk.poll(server, keep=math.inf)
        assert server.commands.count("RETR 1") == TRIES + 2


async def test_messages_at_which_the_session_breaks_are_got_round_in_one_poll(desk: Desk) -> None:
    broken = {f"RETR {n}": Say(b"+OK\r\nhalf a mess", "drop") for n in (2, 4)}
    async with some(5, says=broken).serving() as server:
        happened = await desk.poll(server)
        assert (happened["polled"], happened["accounts_failed"]) == (1, 0)
        assert server.deleted == {1, 3, 5}
    assert sorted(desk.raws()) == [MAIL[0], MAIL[2], MAIL[4]]
    undone = (await desk.state.accounts())["sales"].undone
    assert undone is not None
    assert undone.startswith("2 messages cannot be fetched: message 2 (UIDL u2): the connection")


async def test_a_deletion_that_breaks_the_session_among_many_is_found(desk: Desk) -> None:
    async with some(40, says={"DELE 17": Say(b"", "drop")}).serving() as server:
        await desk.poll(server)
        assert server.deleted == set(range(1, 41)) - {17}
        server.messages, server.uidls = MAIL[16:17], ["u17"]
        server.says = {"DELE": Say(b"", "drop")}
        server.commands.clear()
        await desk.poll(server)
        assert not [c for c in server.commands if c.startswith("RETR")]
    assert sorted(desk.raws()) == sorted(MAIL[:40])
    undone = (await desk.state.accounts())["sales"].undone
    assert undone is not None
    assert undone.startswith("1 message cannot be deleted at the server: message 1 (UIDL u17)")
