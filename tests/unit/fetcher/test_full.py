"""A disk of ours fills up during a poll: what is asked for is kept, the rest is left in peace."""

from collections.abc import Callable
from pathlib import Path

from tests.servers.pop3 import Pop3Server
from tests.unit.fetcher.desk import UIDLS, Desk, some
from tests.unit.fetcher.pop3_session import MAIL

WHY = "3 MiB are free"


def after(server: Pop3Server, retrieved: int) -> Callable[[int], str | None]:
    """Return what says that room is short once so many messages were asked for."""
    return lambda _: WHY if asked(server) >= retrieved else None


def asked(server: Pop3Server) -> int:
    return sum(command.startswith("RETR") for command in server.commands)


async def test_a_poll_ends_where_room_does_and_the_next_one_goes_on(desk: Desk) -> None:
    async with some(200, capabilities=["UIDL"]).serving() as server:
        happened = await desk.poll(server, lacking=after(server, 20))
        fetched = asked(server)
        assert 20 <= fetched < 30
        assert desk.raws() == MAIL[:fetched]
        assert server.deleted == set(range(1, fetched + 1))  # what is safe is safe
        assert happened["polled"] == 0
        assert (await desk.state.accounts())["sales"].undone == WHY
        await desk.poll(server)
    assert desk.raws() == MAIL


async def test_of_a_large_message_no_more_is_read_than_there_is_room_for(desk: Desk) -> None:
    large = MAIL[0] + b"x" * 70 + b"\r\n"
    server = Pop3Server([large + b"y" * 3_000_000 + b"\r\n", MAIL[1]], UIDLS[:2])
    async with server.serving():
        await desk.poll(server, lacking=after(server, 1))
    assert desk.raws() == []
    assert not [path for path in Path(desk.folder / "spool").rglob("*") if path.is_file()]
    assert server.deleted == set()


async def test_nobody_is_bothered_while_room_is_short(desk: Desk) -> None:
    async with some(2).serving() as server:
        await desk.poll(server, lacking=lambda _: WHY)
        assert server.connections == 0
        await desk.poll(server, lacking=lambda _: WHY, reason="once")  # asked for by a person
        assert asked(server) == 0
    assert (await desk.state.accounts())["sales"].undone == WHY


async def test_one_that_is_too_large_for_the_room_there_is_keeps_none_of_the_others(
    desk: Desk,
) -> None:
    large = MAIL[0] + b"y" * 300_000 + b"\r\n"
    server = Pop3Server([large, *MAIL[1:4]], UIDLS[:4])
    async with server.serving():
        await desk.poll(server, lacking=lambda more: WHY if more > 100_000 else None)
        assert desk.raws() == MAIL[1:4]
        assert "RETR 1" not in server.commands
        assert (await desk.state.accounts())["sales"].undone == WHY
        await desk.poll(server)
    assert len(desk.incoming()) == 4
