"""Accounts that fail are backed off and say why; what is no fault of theirs costs them no wait."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from services.fetcher.account import HANDFUL, backoff
from services.fetcher.fetch import CROWDED, ONCE
from services.fetcher.server_slots import CONNECTIONS, LONGEST
from tests.servers.pop3 import Pop3Server, Say
from tests.unit.fetcher.desk import Desk, some, turns_until
from tests.unit.fetcher.pop3_session import MAIL


@pytest.mark.parametrize(
    ("script", "wait"),
    [
        ({"PASS": Say(b"-ERR [AUTH] wrong\r\n")}, 300.0),
        ({"PASS": Say(b"-ERR [IN-USE] locked\r\n")}, 60.0),
    ],
)
async def test_an_account_that_fails_is_backed_off_and_says_why(
    desk: Desk, script: Mapping[str, Say], wait: float
) -> None:
    async with some(1, says=script).serving() as server:
        await desk.poll(server)
    state = (await desk.state.accounts())["sales"]
    assert state.failures == 1
    assert state.last_error
    assert state.next_poll == desk.clock.now() + wait


async def test_no_failure_brings_an_account_back_sooner_than_its_provider_wants(desk: Desk) -> None:
    async with some(1, says={"PASS": Say(b"-ERR [IN-USE] locked\r\n")}).serving() as server:
        await desk.poll(server, floor=720.0)
    assert await desk.due_in("sales") == 720


async def test_an_account_that_meets_a_defect_of_ours_is_backed_off_and_says_so(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def defect(*_: object, **__: object) -> None:
        raise KeyError("no such thing")

    async with some(1).serving() as server:
        with monkeypatch.context() as patch:
            patch.setattr(desk.state, "known", defect)
            for failures in range(1, 6):
                happened = await desk.poll(server)
                assert (happened["accounts_failed"], happened["crashed"]) == (1, 1)
                state = (await desk.state.accounts())["sales"]
                assert state.last_error == "unexpected error: KeyError: 'no such thing'"
                wait = backoff(300.0, failures - 1, busy=False)
                assert (state.failures, state.next_poll) == (failures, desk.clock.now() + wait)
        assert wait > 300.0
        await desk.poll(server)
    assert desk.raws() == MAIL[:1]


async def test_an_account_is_not_backed_off_for_what_is_no_fault_of_its_own(desk: Desk) -> None:
    async with some(1).serving() as server:
        for failures in (1, 2, 3, 4):
            await desk.poll(server, outbox="no-such-queue")
            state = (await desk.state.accounts())["sales"]
            assert state.failures == failures
            assert "no-such-queue" in str(state.last_error)
            assert state.next_poll == desk.clock.now() + 300.0


async def test_what_fails_on_our_side_does_not_keep_an_account_waiting(desk: Desk) -> None:
    async with some(1).serving() as server:
        for _ in range(6):
            await desk.poll(server, outbox="no such queue")
    state = (await desk.state.accounts())["sales"]
    assert (state.failures, state.next_poll) == (6, desk.clock.now() + 300.0)


async def test_an_account_that_gets_on_before_it_breaks_is_not_backed_off_further(
    desk: Desk,
) -> None:
    async def waits() -> float:
        await desk.poll(server)
        return (await desk.state.accounts())["sales"].next_poll - desk.clock.now()

    broken = Say(b"+OK\r\nhalf a mess", "drop")
    async with some(40, says={"PASS": Say(b"", "drop")}).serving() as server:
        assert [await waits() for _ in range(5)] == [300.0, 300.0, 300.0, 480.0, 960.0]
        assert (await desk.state.accounts())["sales"].last_error
        server.says = {f"RETR {n}": broken for n in range(21, 29)}
        assert await waits() == 300.0
        assert sorted(desk.raws()) == sorted(MAIL[:20] + MAIL[28:40])
        assert (await desk.state.accounts())["sales"].failures == 0
        server.says = {"PASS": Say(b"", "drop")}
        assert [await waits() for _ in range(4)] == [300.0, 300.0, 300.0, 480.0]


def test_the_backoff_doubles_up_to_an_hour() -> None:
    waits = [backoff(30.0, n, busy=False) for n in (0, 1, 2, 5, 6, 99)]
    assert waits == [60.0, 120.0, 240.0, 1920.0, 3600.0, 3600.0]
    assert backoff(7200.0, 99, busy=False) == 7200.0


REFUSING = {"PASS": Say(b"-ERR [AUTH] wrong\r\n")}


async def test_a_changed_password_counts_with_the_next_interval(desk: Desk) -> None:
    """Refused again and again, it is tried ever more seldom; another one is tried at once."""

    def logins() -> int:
        tried = sum(c.startswith("PASS") for c in server.commands)
        server.commands.clear()
        return tried

    async with some(1, says=REFUSING).serving() as server:
        waits = []
        for _ in range(5):
            await desk.poll(server)
            state = (await desk.state.accounts())["sales"]
            waits.append(state.next_poll - desk.clock.now())
            retry_at = (await desk.state.recall("sales", "")).retry_at
            await desk.clock.advance(retry_at - desk.clock.now())
        assert waits == [300.0] * 5  # looked at, at each interval
        assert logins() == 5
        await desk.poll(server)
        logins()
        await desk.clock.advance(300)
        await desk.poll(server)
        state = (await desk.state.accounts())["sales"]
        assert (logins(), state.failures) == (0, 6)
        assert state.next_poll == desk.clock.now() + 300
        await desk.clock.advance(300)
        await desk.poll(server, password=lambda: "another")
        assert (logins(), (await desk.state.accounts())["sales"].failures) == (1, 7)
        server.says = {}
        await desk.clock.advance(300)
        await desk.poll(server, password=lambda: "the right one")
    assert desk.raws() == MAIL[:1]
    assert b"the right one" not in (desk.folder / "state.db").read_bytes()


async def test_a_server_with_too_many_of_our_connections_is_no_failure(desk: Desk) -> None:
    full = {"greeting": Say(b"-ERR too many connections\r\n", "drop")}
    async with some(1, says=full).serving() as server:
        accounts = [f"a{n}" for n in range(8)]
        await desk.poll_all(server, accounts)
        # To each but perhaps the last one it was our own crowd.
        states = await desk.state.accounts()
        failed = [name for name in accounts if states[name].failures]
        assert len(failed) <= 1
        # They come again soon, and have been due since they were.
        waiting = [states[name] for name in accounts if name not in failed]
        assert {state.queued_until for state in waiting} == {desk.clock.now() + CROWDED}
        assert {state.next_poll for state in waiting} == {0.0}
        quirk = (await desk.state.recall("x", f"127.0.0.1:{server.port}")).quirks[CONNECTIONS]
        assert quirk.value == 1
        # What was learnt holds in another process.
        server.says = {}
        most = await desk.poll_all(server, accounts)
    assert most == 1


@dataclass
class Crowded(Pop3Server):
    """Closes a connection without a greeting while so many others are open."""

    most: int = 2

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.open <= self.most:
            await super()._converse(reader, writer)


async def test_a_connection_that_is_not_greeted_while_others_live_is_one_too_many(
    desk: Desk,
) -> None:
    async with Crowded(MAIL[:1], ["u1"]).serving() as server:
        accounts = [f"a{n}" for n in range(6)]
        for _ in range(4):
            await desk.poll_all(server, accounts, reason=ONCE)
        states = await desk.state.accounts()
        assert all(states[name].last_ok for name in accounts)


async def test_no_more_sessions_than_its_provider_takes(desk: Desk) -> None:
    async with some(1).serving() as server:
        accounts = [f"a{n}" for n in range(6)]
        assert await desk.poll_all(server, accounts, fewer=2) == 2


async def test_a_server_that_greets_nobody_has_failed(desk: Desk) -> None:
    async with some(1, says={"greeting": Say(b"", "drop")}).serving() as server:
        accounts = [f"a{n}" for n in range(3)]
        await desk.poll_all(server, accounts)
        states = await desk.state.accounts()
        assert [states[name].failures for name in accounts] == [1, 1, 1]


@pytest.mark.parametrize("reason", ["due", ONCE])
async def test_no_more_sessions_than_places_and_the_others_wait_in_line(
    desk: Desk, reason: str
) -> None:
    async with some(1).serving() as server:
        accounts = [f"a{n}" for n in range(6)]
        assert await desk.poll_all(server, accounts, connections=2, reason=reason) == 2
        assert server.connections == 6
        states = await desk.state.accounts()
        assert all(states[name].last_ok for name in accounts)


async def test_who_is_paused_while_it_stands_in_line_is_not_polled(desk: Desk) -> None:
    async with some(1).serving() as server:
        polling = asyncio.create_task(desk.poll_all(server, ["a", "b"], connections=1))
        await turns_until(lambda: server.open == 1)
        await desk.state.pause(["a", "b"], until=desk.clock.now() + 600)
        await polling
        assert server.connections == 1


async def test_who_is_sent_away_comes_again_and_has_been_due_since_then(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.fetcher.server_slots.PATIENCE", 0.0)  # a line of one, then
    async with some(1).serving() as server:
        accounts = [f"a{n}" for n in range(4)]
        await desk.poll_all(server, accounts, connections=1)
        assert server.connections == 1
        assert await desk.state.claim_due(accounts, hold=60) == []
        await desk.clock.advance(LONGEST)
        again = await desk.state.claim_due(accounts, hold=60)
        assert len(again) == 3
        for name in again:
            assert (await desk.state.recall(name, "")).due == 0.0


async def test_many_accounts_that_fail_at_once_are_not_due_again_at_once(desk: Desk) -> None:
    async with some(1, says={"PASS": Say(b"-ERR [SYS/PERM] no\r\n")}).serving() as server:
        accounts = [f"a{n}" for n in range(HANDFUL + 1)]
        await desk.poll_all(server, accounts, connections=64)
    waits = [await desk.due_in(name) for name in accounts]
    assert all(270 <= wait <= 330 for wait in waits)
    assert len({round(wait) for wait in waits}) > 5
