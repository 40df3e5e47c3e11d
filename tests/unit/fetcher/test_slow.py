"""Servers that are slow, and never silent: when they are given up, what is kept, what is said."""

import asyncio
import math
from collections.abc import Callable

import pytest

from services.fetcher.interfaces import SessionLimits
from services.fetcher.pop3.connection import Pop3Connection
from services.fetcher.pop3.deadlines import Deadlines, WaitMeter
from shared.errors import Silent
from tests.servers.pop3 import Pop3Server, Say, wire
from tests.unit.fetcher.desk import Desk, some
from tests.unit.fetcher.pop3_session import MAIL, nobody_connected

Forward = Callable[[float], None]

LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcde\r\n" * 20_000


def slowly(forward: Forward, *pieces: bytes, seconds: float = 40.0) -> Say:
    """Say these pieces with so much time between each two."""
    return Say(pieces, "go on", lambda: forward(seconds))


def dripping(forward: Forward, start: bytes = b"+OK ") -> Say:
    """Begin an answer, and say a byte every 40 seconds from then on."""
    return slowly(forward, start, *[b"1"] * 1_000)


STEPS = [
    ("greeting", b"+OK ", "the greeting was awaited"),
    ("PASS", b"+OK ", "the answer to PASS was awaited"),
    ("UIDL", b"+OK\r\n1 ", "the rest of the answer to UIDL was awaited"),
    ("LIST", b"+OK\r\n1 ", "the rest of the answer to LIST was awaited"),
    ("STAT", b"+OK ", "the answer to STAT was awaited"),
]


@pytest.mark.parametrize("keep", [0.0, math.inf])
@pytest.mark.parametrize(("step", "start", "said"), STEPS)
async def test_a_server_that_never_ends_is_given_up_at_every_step(
    desk: Desk, forward: Forward, step: str, start: bytes, said: str, keep: float
) -> None:
    async with some(1, says={step: dripping(forward, start)}).serving() as server:
        await desk.poll(server, keep=keep)
        await nobody_connected(server)
    error = (await desk.state.accounts())["sales"].last_error
    assert error is not None
    assert "the server sent " in error
    assert said in error


async def test_a_message_that_never_ends_keeps_none_of_the_others_and_is_left_for_a_day(
    desk: Desk, forward: Forward
) -> None:
    drip = dripping(forward, b"+OK\r\nSubject: x\r\n")
    offers = ("UIDL", "TOP", "USER")
    async with some(3, capabilities=offers, says={"RETR 2": drip}).serving() as server:
        for _ in range(3):
            await desk.poll(server)
            server.says = {"RETR 2": dripping(forward, b"+OK\r\nSubject: x\r\n")}
        assert server.deleted == {1, 3}
        server.commands.clear()
        await desk.poll(server)
        assert "RETR 2" not in server.commands
    assert desk.raws() == [MAIL[0], MAIL[2]]
    state = (await desk.state.accounts())["sales"]
    assert state.last_error is None
    assert state.undone is not None
    assert "message 2 (UIDL u2): " in state.undone
    assert "the server sent 2 bytes in 80 seconds (limits.slowest)" in state.undone


async def test_what_came_before_a_slow_message_is_recorded_with_pipelining_too(
    desk: Desk, forward: Forward
) -> None:
    drip = dripping(forward, b"+OK\r\nSubject: x\r\n")
    async with some(3, says={"RETR 3": drip}).serving() as server:
        await desk.poll(server)
        assert server.deleted == {1, 2}
        quirks = (await desk.state.recall("sales", f"127.0.0.1:{server.port}")).quirks
        assert quirks == {}  # it has broken no promise
    assert desk.raws() == MAIL[:2]


@pytest.mark.parametrize("offers", [("UIDL", "TOP"), ("UIDL", "TOP", "PIPELINING")])
@pytest.mark.parametrize("step", ["CAPA", "UIDL", "LIST", "STAT"])
async def test_a_server_that_was_slow_once_is_not_done_without_what_it_has(
    desk: Desk, forward: Forward, step: str, offers: tuple[str, ...]
) -> None:
    once = iter([dripping(forward, b"+OK\r\n1 ")])

    class Once(dict[str, Say]):
        def get(self, key: str, default: Say | None = None) -> Say | None:  # type: ignore[override]
            return next(once, None) if key == step else default

    async with some(2, says=Once(), capabilities=offers).serving() as server:
        for _ in range(2):
            await desk.poll(server)
        assert server.deleted == {1, 2}
        quirks = (await desk.state.recall("sales", f"127.0.0.1:{server.port}")).quirks
        assert quirks == {}
    assert desk.raws() == MAIL[:2]


async def test_a_message_on_a_bad_line_comes_however_long_it_takes(
    desk: Desk, forward: Forward
) -> None:
    """8,000 bytes a second: not a tenth of what is between two looks comes at once."""
    answer = wire(LARGE)
    pieces = [answer[n : n + 8_000] for n in range(0, len(answer), 8_000)]
    says = {"RETR 1": slowly(forward, *pieces, seconds=55.0)}
    async with Pop3Server([LARGE], ["u1"], says=says).serving() as server:
        happened = await desk.poll(server)
        assert server.deleted == {1}
    assert (happened["fetched"], happened["bytes"]) == (1, len(LARGE))


@pytest.mark.parametrize(
    ("deadlines", "step", "said"),
    [
        (Deadlines(login=100.0), "PASS", "the login takes more than 100 seconds"),
        (Deadlines(session=100.0), "LIST", "the session takes more than 100 seconds"),
    ],
)
async def test_a_login_and_a_session_have_a_deadline_however_fast_the_bytes_come(
    desk: Desk, forward: Forward, deadlines: Deadlines, step: str, said: str
) -> None:
    says = {step: slowly(forward, b"+OK\r\n", *[b"1 1\r\n" * 1_000] * 100)}
    if step == "PASS":
        says = {step: slowly(forward, b"+OK ", *[b"x" * 5_000] * 10)}
    async with some(1, says=says).serving() as server:
        await desk.poll(server, keep=math.inf, deadlines=deadlines)
        await nobody_connected(server)
    error = (await desk.state.accounts())["sales"].last_error
    assert error is not None
    assert said in error


async def test_a_connection_has_a_deadline_over_all_that_it_takes(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("services.fetcher.pop3.connection.dial", never)
    async with some(1).serving() as server:
        await desk.poll(server, deadlines=Deadlines(connect=0.01))
    error = (await desk.state.accounts())["sales"].last_error
    assert error is not None
    assert "the connection takes more than 0.01 seconds (limits.connect_within)" in error


@pytest.mark.parametrize("uidls", [True, False])
async def test_a_session_that_deletes_nothing_makes_room_too_and_goes_on(
    desk: Desk, *, uidls: bool
) -> None:
    """Unless the next one could not go on where it was."""
    limits = SessionLimits(place_seconds=30.0)
    passing: list[asyncio.Task[None]] = []
    later = lambda: passing.append(asyncio.create_task(desk.clock.advance(20.0)))  # noqa: E731
    answers = {f"RETR {n}": wire(raw) for n, raw in enumerate(MAIL[:3], 1)}
    says = {verb: Say([raw[:4], raw[4:]], between=later) for verb, raw in answers.items()}
    server = some(3, capabilities=("USER",), says=says)
    if not uidls:
        server.uidls = None
    async with server.serving():
        await desk.poll(server, keep=math.inf, limits=limits)
        assert (server.commands.count("QUIT") > 1) is uidls
    assert desk.raws() == MAIL[:3]


async def test_nothing_at_all_is_silence_however_late_the_wait_for_it_began() -> None:
    """Not slowness: of what is silent at a listing, the fetcher does without the listing."""
    connection = Pop3Connection("pop.example:110", 60.0, 100, WaitMeter())
    connection.expect()
    connection._heard = connection._asked + 0.001  # so late is the wait for it
    why = connection._overdue(connection._asked + 60.0005)
    assert type(why) is Silent
    assert why.said == "nothing came for 60 seconds"
