"""Notices of messages that are larger than the account takes: sent once, and nothing is deleted."""

import math
from collections.abc import Sequence
from email import message_from_bytes, policy

import pytest

from services.fetcher.account import Intake
from tests.servers.pop3 import Pop3Server, Say
from tests.unit.fetcher.desk import Desk
from tests.unit.fetcher.pop3_session import MAIL

MOST = 3_000
LARGE = (
    b"From: =?utf-8?q?M=C3=BCller?= <ann@example.net>\r\nSubject: the plans \xff\r\n"
    b"Date: Tue, 01 Dec 2026 06:00:00 +0000\r\nMessage-ID: <1@example.net>\r\n\r\n"
    + b"0123456789abcdef\r\n"
    * 1_000
)
OTHER = LARGE.replace(b"<1@", b"<2@")
NOTICE = Intake(notice_to="sales@corp.example")


async def poll(desk: Desk, server: Pop3Server, keep: float = 0.0, intake: Intake = NOTICE) -> int:
    happened = await desk.poll(server, keep=keep, intake=intake, max_size=MOST)
    assert happened["crashed"] == 0
    return happened["fetched"]


def notices(desk: Desk) -> Sequence[bytes]:
    return [raw for raw in desk.raws() if b"Too large to be fetched" in raw]


@pytest.mark.parametrize("offered", [("UIDL", "TOP", "PIPELINING"), ("UIDL", "TOP"), ("TOP",)])
async def test_the_mailbox_is_told_once_and_the_message_stays(
    desk: Desk, offered: Sequence[str]
) -> None:
    uidls = ["a", "b"] if "UIDL" in offered else None
    async with Pop3Server([MAIL[0], LARGE], uidls, offered).serving() as server:
        assert await poll(desk, server) == 2
        server.messages, server.uidls = [LARGE], uidls and ["b"]
        assert await poll(desk, server) == 0
        assert not [c for c in server.commands if c in ("RETR 2", "DELE 2")]
    (raw,) = notices(desk)
    told = message_from_bytes(raw, policy=policy.default)
    assert (told["To"], told["Return-Path"]) == ("sales@corp.example", "<>")
    assert (told["Auto-Submitted"], told.defects) == ("auto-generated", [])
    text, head = told.iter_parts()
    assert (text.get_content_type(), head.get_content_type()) == (
        "text/plain",
        "text/rfc822-headers",
    )
    assert "max_size" in text.get_content()
    assert "Subject: the plans" in text.get_content()
    assert "Message-ID: <1@example.net>" in head.get_content()
    undone = (await desk.state.accounts())["sales"].undone
    assert "max_size is 3000" in str(undone)
    assert raw.isascii()


async def test_uidls_given_anew_are_told_of_no_second_time_and_another_message_is(
    desk: Desk,
) -> None:
    async with Pop3Server([LARGE], ["a"]).serving() as server:
        await poll(desk, server)
        server.uidls = ["b"]
        assert await poll(desk, server) == 0
        server.messages, server.uidls = [LARGE, OTHER], ["b", "c"]
        assert await poll(desk, server) == 1
    assert len(notices(desk)) == 2


@pytest.mark.parametrize(
    ("offered", "says"),
    [(("UIDL",), {}), (("UIDL", "TOP"), {"TOP": Say(b"", "drop")})],
)
async def test_without_top_it_is_told_by_its_uidl(
    desk: Desk, offered: Sequence[str], says: dict[str, Say]
) -> None:
    async with Pop3Server([MAIL[0], LARGE], ["a", "b"], offered, says).serving() as server:
        await poll(desk, server, math.inf)
        await poll(desk, server, math.inf)
    (raw,) = notices(desk)
    assert b"UIDL b" in raw
    assert MAIL[0] in desk.raws()


async def test_a_larger_limit_has_it_fetched(desk: Desk) -> None:
    async with Pop3Server([LARGE], ["a"]).serving() as server:
        await poll(desk, server)
        await desk.poll(server, intake=NOTICE)
        assert server.deleted == {1}


async def test_nobody_is_told_where_it_is_just_left(desk: Desk) -> None:
    async with Pop3Server([LARGE], ["a"]).serving() as server:
        assert await poll(desk, server, intake=Intake()) == 0
        assert not [c for c in server.commands if c.startswith("TOP")]


async def test_what_the_broker_does_not_take_is_told_with_the_next_poll(desk: Desk) -> None:
    async with Pop3Server([LARGE], ["a"]).serving() as server:
        await desk.poll(server, intake=NOTICE, max_size=MOST, outbox="no such queue")
        assert await poll(desk, server) == 1
    assert len(notices(desk)) == 1
