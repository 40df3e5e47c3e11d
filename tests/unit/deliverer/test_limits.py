"""Servers with a limit of connections, or of messages over one. None of them is down."""

import asyncio

import pytest

from services.deliverer.destinations import courier_for
from services.deliverer.servers.pool import IDLE_SECONDS
from shared.errors import Unreachable
from tests.clock import ManualClock
from tests.servers.smtp import DROP, HANG, smtp_server
from tests.unit.deliverer.content import told, until
from tests.unit.deliverer.crowds import fates, opened, passing, posts, subjects


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("most", [1, 2, 5])
@pytest.mark.parametrize(
    "beyond",
    ["421 4.3.2 The maximum number of connections has been reached", "554 5.7.0 no more", DROP],
)
async def test_of_many_connections_some_are_refused_and_every_message_goes_over_the_others(
    clock: ManualClock, lmtp: bool, most: int, beyond: str
) -> None:
    async with (
        smtp_server(lmtp=lmtp, most=most, beyond=beyond) as server,
        opened(server, clock) as courier,
    ):
        assert fates(await told(courier, posts(60))) == {"delivered"}
    assert subjects(server) == list(range(60))
    assert server.connections <= 8 + most  # nor was it asked again and again


@pytest.mark.parametrize("most", [1, 2])
@pytest.mark.parametrize(
    "beyond",
    [
        ("421 4.3.2 Service not available", DROP),
        DROP,
        "452 4.3.2 too many connections",
        "451 4.3.2 no",
        "450 Too many sessions from your host",
    ],
)
async def test_those_that_are_let_in_and_refused_at_mail_cost_no_try_while_others_live(
    clock: ManualClock, most: int, beyond: str | tuple[str, ...]
) -> None:
    let_in = 0

    def rule(key: str, carried: int) -> str | tuple[str, ...] | None:
        nonlocal let_in
        if key != "MAIL" or carried:
            return None
        let_in += 1
        return None if let_in <= most else beyond

    async with smtp_server(rule=rule) as server, opened(server, clock) as courier:
        assert fates(await told(courier, posts(60))) == {"delivered"}
    assert subjects(server) == list(range(60))
    assert server.connections <= 24


async def test_messages_wait_for_no_connection_that_is_not_greeted(clock: ManualClock) -> None:
    """As with amavis: four processes take connections, others wait in the backlog of the kernel."""
    async with smtp_server(most=4) as server, opened(server, clock, 10) as courier:
        assert fates(await told(courier, posts(100))) == {"delivered"}
        assert clock.monotonic() == 0.0
    assert subjects(server) == list(range(100))


async def test_connections_that_are_not_greeted_are_given_up_when_nobody_needs_them(
    clock: ManualClock,
) -> None:
    async with smtp_server(most=1) as server, opened(server, clock, 3) as courier:
        await told(courier, posts(9))
        async with passing(clock):
            await until(lambda: len(courier._workers) == 0)
        assert clock.monotonic() < IDLE_SECONDS  # while the one that lives is kept
        server.most = None
        server.left.set()
        await until(lambda: server.open == 1)


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize(
    "enough",
    ["451 4.7.0 too many messages in this session", "421 4.4.2 enough", "452 4.3.1 later", DROP],
)
async def test_a_connection_that_has_carried_enough_is_followed_by_another(
    clock: ManualClock, lmtp: bool, enough: str
) -> None:
    """OpenSMTPD has 452 for MAIL after a hundred."""

    def rule(key: str, carried: int) -> str | tuple[str, ...] | None:
        return (enough, DROP) if key == "MAIL" and carried >= 5 else None

    async with (
        smtp_server(lmtp=lmtp, rule=rule) as server,
        opened(server, clock, 2) as courier,
        passing(clock),
    ):
        assert fates(await told(courier, posts(40))) == {"delivered"}
    assert subjects(server) == list(range(40))


@pytest.mark.parametrize("lmtp", [False, True])
async def test_421_at_the_end_is_about_the_connection_and_costs_no_try(
    clock: ManualClock, lmtp: bool
) -> None:
    def rule(key: str, carried: int) -> tuple[str, ...] | None:
        return ("421 4.4.2 enough", DROP) if key == "END" and carried >= 3 else None

    async with (
        smtp_server(lmtp=lmtp, rule=rule) as server,
        opened(server, clock, 2) as courier,
        passing(clock),
    ):
        assert fates(await told(courier, posts(40))) == {"delivered"}
    assert subjects(server) == list(range(40))


async def test_a_message_that_is_told_421_each_time_is_tried_another_time(
    clock: ManualClock,
) -> None:
    async with (
        smtp_server(
            rule=lambda key, _: ("421 4.3.0 oops", DROP) if key == "END" else None
        ) as server,
        opened(server, clock, 2) as courier,
        passing(clock),
    ):
        assert fates(await told(courier, posts(2))) == {"Unreachable"}
        assert len(server.received) <= 6


async def test_a_server_that_restarts_costs_no_try(clock: ManualClock) -> None:
    async with smtp_server() as server, opened(server, clock, 2) as courier:
        await told(courier, posts(2))
        server.most, server.beyond = 0, DROP
        for writer in server.writers:
            writer.close()
        await until(lambda: server.open == 0)
        waiting = asyncio.create_task(told(courier, posts(5)))
        await until(lambda: server.connections > 2)
        server.most = None
        async with passing(clock):
            assert fates(await waiting) == {"delivered"}


async def test_one_that_does_not_come_back_is_down(clock: ManualClock) -> None:
    async with smtp_server() as server, opened(server, clock, 2) as courier:
        await told(courier, posts(2))
        server.most, server.beyond = 0, "421 4.3.2 going down"
        for writer in server.writers:
            writer.close()
        await until(lambda: server.open == 0)
        async with passing(clock):
            assert fates(await told(courier, posts(5))) == {"Unreachable"}


@pytest.mark.parametrize("beyond", ["421 4.3.2 full", DROP])
async def test_a_server_that_never_let_anybody_in_is_down_for_all_who_wait(
    clock: ManualClock, beyond: str
) -> None:
    async with (
        smtp_server(most=0, beyond=beyond) as server,
        opened(server, clock, 8) as courier,
    ):
        delivered = await told(courier, posts(100))
        assert {type(d) for d in delivered} == {Unreachable}
        assert server.connections == 8
        server.most = None
        assert fates(await told(courier, posts(3))) == {"delivered"}


async def test_a_server_that_is_silent_to_all_has_an_end() -> None:
    async with smtp_server() as server:
        server.rule = lambda key, _: HANG if key == "MAIL" else None
        courier = courier_for("local", server.url, connections=8, patience=0.002)
        async with asyncio.timeout(60):
            delivered = await told(courier, posts(100))
        assert all(isinstance(each, Unreachable) for each in delivered)
        assert server.connections <= 16
        await courier.close()


async def test_a_sender_that_is_put_off_on_a_fresh_connection_too_is_put_off(
    clock: ManualClock,
) -> None:
    async with smtp_server() as server, opened(server, clock, 1) as courier:
        await told(courier, posts(1))
        server.rule = lambda key, _: "452 4.3.1 later" if key == "MAIL" else None
        assert fates(await told(courier, posts(1))) <= {"temporary", "Unreachable"}
        assert server.connections == 2


async def test_a_server_that_answers_for_no_message_is_down_for_those_behind() -> None:
    async with smtp_server() as server:
        server.rule = lambda key, _: HANG if key == "END" else None
        courier = courier_for("local", server.url, connections=8, patience=0.001)
        async with asyncio.timeout(60):
            delivered = await told(courier, posts(60))
        assert len(server.received) == 8
        assert sum(isinstance(each, Unreachable) for each in delivered) == 52
        await courier.close()
