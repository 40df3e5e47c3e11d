"""Connections to a mail server over SMTP: kept, lost, bounded, closed."""

import asyncio

import pytest

from shared.errors import Unreachable
from tests.clock import ManualClock
from tests.servers.smtp import DROP, EXTENSIONS, HANG, smtp_server
from tests.unit.deliverer.content import (
    ANNA,
    BERT,
    CARL,
    SENDER,
    content,
    courier,
    until,
)

BYE = ("421 4.3.2 shutting down", DROP)
STEPS = ("MAIL", f"RCPT {ANNA}", "DATA")


@pytest.mark.parametrize(
    ("key", "action", "extensions"),
    [
        *(("GREETING", action, EXTENSIONS) for action in (DROP, HANG, BYE)),
        *((key, BYE, EXTENSIONS) for key in ("EHLO", *STEPS)),
        *((key, action, ("8BITMIME",)) for key in STEPS for action in (DROP, HANG, BYE)),
    ],
)
async def test_a_server_that_goes_away_before_the_message_is_unreachable(
    key: str, action: str | tuple[str, ...], extensions: tuple[str, ...]
) -> None:
    async with (
        smtp_server(extensions=extensions) as server,
        courier(server.url, patience=0.001) as smtp,
    ):
        server.answer(key, action)
        with pytest.raises(Unreachable) as caught:
            await smtp.deliver(content(), SENDER, [ANNA])
        assert str(caught.value).startswith(f"127.0.0.1:{server.port}: ")
        if isinstance(action, tuple):
            assert "421 4.3.2 shutting down" in str(caught.value)
        results = await smtp.deliver(content(), SENDER, [ANNA])
    assert results[ANNA].verdict == "delivered"
    assert len(server.received) == 1


async def test_a_farewell_is_heard_at_once_though_more_replies_are_due() -> None:
    async with smtp_server() as server, courier(server.url) as smtp, asyncio.timeout(30):
        server.answer("MAIL", ("421 4.3.2 shutting down", HANG))
        with pytest.raises(Unreachable, match=r"421 4\.3\.2 shutting down"):
            await smtp.deliver(content(), SENDER, [ANNA])


async def test_nobody_listens() -> None:
    async with smtp_server() as server:
        pass
    async with courier(server.url) as smtp:
        with pytest.raises(Unreachable, match="nothing listens at port"):
            await smtp.deliver(content(), SENDER, [ANNA])


@pytest.mark.parametrize("action", [DROP, HANG])
async def test_a_connection_lost_after_the_dot_leaves_the_outcome_open(action: str) -> None:
    async with smtp_server() as server, courier(server.url, patience=0.001) as smtp:
        server.answer("END", action)
        results = await smtp.deliver(content(), SENDER, [ANNA])
        again = await smtp.deliver(content(), SENDER, [ANNA])
    assert results[ANNA].verdict == "temporary"
    assert results[ANNA].lost
    assert "it may have arrived" in results[ANNA].reply
    assert again[ANNA].verdict == "delivered"


async def test_a_kept_connection_is_used_again() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        for _ in range(3):
            await smtp.deliver(content(), SENDER, [ANNA])
        assert server.open == 1
    assert server.connections == 1
    assert len(server.received) == 3


@pytest.mark.parametrize("action", [DROP, ("421 4.4.2 idle for too long", DROP)])
async def test_a_kept_connection_that_died_costs_a_fresh_one_and_no_failure(
    action: str | tuple[str, ...],
) -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        await smtp.deliver(content(), SENDER, [ANNA])
        server.answer("MAIL", action)
        results = await smtp.deliver(content(), SENDER, [BERT])
    assert results[BERT].verdict == "delivered"
    assert [m.recipients for m in server.received] == [[ANNA], [BERT]]
    assert server.connections == 2


async def test_a_farewell_on_a_kept_connection_is_noticed_before_it_is_used() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        server.answer("END", ("250 2.0.0 taken", "421 4.3.2 bye", DROP))
        await smtp.deliver(content(), SENDER, [ANNA])
        await until(lambda: server.open == 0)
        results = await smtp.deliver(content(), SENDER, [BERT])
    assert results[BERT].verdict == "delivered"
    assert server.connections == 2
    assert len([c for c in server.commands if c.startswith("MAIL")]) == 2


async def test_a_reply_that_nobody_asked_for_is_never_taken_for_an_answer() -> None:
    async with smtp_server() as server, courier(server.url) as smtp:
        await smtp.deliver(content(), SENDER, [ANNA])
        server.writers[0].write(b"250 2.1.0 one too many\r\n")
        ((_, kept),) = smtp.courier._pool._idle  # type: ignore[attr-defined]
        await until(lambda: not kept.connection.idle)
        server.answer(f"RCPT {BERT}", "550 5.1.1 no such user")
        results = await smtp.deliver(content(), SENDER, [BERT, CARL])
    assert [r.verdict for r in results.values()] == ["permanent", "delivered"]
    assert server.connections == 2


async def test_connections_are_bounded() -> None:
    async with smtp_server() as server, courier(server.url, connections=2) as smtp:
        await asyncio.gather(*(smtp.deliver(content(), SENDER, [ANNA]) for _ in range(20)))
    assert len(server.received) == 20
    assert server.connections == 2


async def test_those_behind_a_message_that_hangs_go_over_another_connection() -> None:
    async with (
        smtp_server(extensions=()) as server,
        courier(server.url, connections=1, patience=0.003) as smtp,
    ):
        server.answer("MAIL", HANG)
        tries = [smtp.deliver(content(), SENDER, [ANNA]) for _ in range(3)]
        first, *others = await asyncio.gather(*tries, return_exceptions=True)
    assert isinstance(first, Unreachable)
    assert [not isinstance(other, BaseException) for other in others] == [True, True]
    assert server.connections == 2


async def test_an_idle_connection_is_closed_politely() -> None:
    clock = ManualClock()
    async with smtp_server() as server, courier(server.url, clock) as smtp:
        await smtp.deliver(content(), SENDER, [ANNA])
        await clock.advance(59)
        assert server.commands[-1] == "DATA"
        await clock.advance(1)
        await until(lambda: server.open == 0)
        assert server.commands[-1] == "QUIT"
