"""When accounts are polled, and polled again: poll jobs, LOGIN-DELAY, and other maildrops."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pytest

from services.fetcher.account import Account, first_polls, spread
from services.fetcher.fetch import ELSEWHERE, STATE_AWAY
from services.fetcher.poll_end import HELD
from services.fetcher.pop3.login import Login
from services.fetcher.schedule import CLAIM, HOLD, MISS_EVERY, MISSED_AFTER
from services.postmaster.account import FOREVER
from shared.outcome import Done, Retry
from shared.queue_publisher import QueuePublisher
from shared.queues import POLL
from shared.state import State
from shared.timetable import Rule, Timetable
from tests.servers.pop3 import Pop3Server, Say
from tests.unit.fetcher.desk import Desk, deleted, some, turns_until
from tests.unit.fetcher.pop3_session import MAIL
from tests.unit.state.opening import ELSEWHERE as DEAD
from tests.unit.state.processes import execute


async def test_due_accounts_become_one_poll_job_each(desk: Desk) -> None:
    await desk.scheduler("a", "b", blocked="memory alarm").queue_due()
    assert desk.jobs() == []
    schedulers = [desk.scheduler("a", "b") for _ in range(2)]
    await asyncio.gather(*(scheduler.queue_due() for scheduler in schedulers))
    assert sorted(desk.jobs()) == ["a", "b"]


async def test_a_scheduler_that_dies_in_between_delays_its_accounts_by_seconds(
    desk: Desk,
) -> None:
    class Dying(QueuePublisher):
        async def put(self, *envelopes: object) -> None:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await desk.scheduler("a", outbox=Dying(desk.broker, POLL)).queue_due()
    assert await desk.state.claim_due(["a"], hold=60) == []
    await desk.clock.advance(CLAIM)
    assert await desk.state.claim_due(["a"], hold=60) == ["a"]


async def test_an_account_whose_poll_job_waits_is_not_due_again(desk: Desk) -> None:
    await desk.scheduler("a").queue_due()
    await desk.clock.advance(HOLD - 1)
    assert await desk.state.claim_due(["a"], hold=60) == []
    await desk.clock.advance(1)
    assert await desk.state.claim_due(["a"], hold=60) == ["a"]


async def test_a_running_schedule_finds_what_was_lost(desk: Desk) -> None:
    stop, schedule, started = asyncio.Event(), desk.scheduler("a"), desk.clock.now()
    await schedule.queue_due()
    found = [message.message_id for message in desk.steward.browse(POLL)]
    assert desk.steward.drop(POLL, found, lambda message: message.message_id) == found
    running = asyncio.create_task(schedule.run(stop))
    async with asyncio.timeout(60):
        while not desk.jobs():
            await desk.clock.skip()
            await asyncio.sleep(0.001)
    assert MISSED_AFTER <= desk.clock.now() - started < MISSED_AFTER + 2 * MISS_EVERY
    running.cancel()
    await asyncio.wait({running})


async def test_poll_jobs_that_cannot_be_queued_are_due_again_at_once(desk: Desk) -> None:
    await desk.scheduler("a", outbox=QueuePublisher(desk.broker, "no such queue")).queue_due()
    assert await desk.state.claim_due(["a"], hold=60) == ["a"]


RENAMED = ("ALTER TABLE {0} RENAME TO {0}_away",)
NEVER_MIND = ("ALTER TABLE {0}_away RENAME TO {0}",)

AWAY = {
    "lease": RENAMED,
    "message": RENAMED,
    # It is read when a poll begins: only what is written at its end fails.
    "account": ("CREATE TRIGGER away BEFORE INSERT ON {0} BEGIN SELECT json('no JSON'); END",),
}
BACK = {"lease": NEVER_MIND, "message": NEVER_MIND, "account": ("DROP TRIGGER away",)}


@pytest.mark.parametrize("away", [["lease", "account"], ["message", "account"], ["account"]])
async def test_an_account_polled_while_the_database_is_away_is_due_when_it_is_back(
    desk: Desk, away: list[str]
) -> None:
    """Away at the lease, at the ledger, at the end: its poll job is kept."""
    url = f"sqlite:///{desk.folder / 'state.db'}"
    scheduler = desk.scheduler("sales")
    await scheduler.queue_due()
    await desk.state.move_in("sales", "sales@127.0.0.1")
    async with some(2).serving() as server:
        execute(url, *(statement.format(table) for table in away for statement in AWAY[table]))
        happened = await desk.poll(server)
        assert happened["accounts_failed"] == 1
        assert deleted(server) == ([1, 2] if away == ["account"] else [])
        (outcome,) = desk.outcomes
        assert isinstance(outcome, Retry)
        assert outcome.after == STATE_AWAY
        execute(url, *(statement.format(table) for table in away for statement in BACK[table]))
        await desk.poll(server)
        assert desk.outcomes[1:] == [Done("sales", "polled")]
        await scheduler.queue_due()
        assert desk.jobs() == ["sales"]  # the first one, and it is not due before its time
    assert server.deleted == {1, 2}


async def test_an_account_whose_fetcher_died_elsewhere_is_due_again_soon(
    desk: Desk, tmp_path: Path
) -> None:
    """Its poll job comes to another fetcher at once, and finds the lease of the dead one."""
    other = await State.open(
        f"sqlite:///{tmp_path / 'state.db'}", owner=DEAD.format(1), clock=desk.clock
    )
    assert await other.lease("account:sales")
    await desk.scheduler("sales").queue_due()
    async with some(1).serving() as server:
        await desk.poll(server)
        assert server.connections == 0
    await desk.clock.advance(ELSEWHERE)
    await desk.scheduler("sales").queue_due()
    assert desk.jobs() == ["sales"] * 2
    await other.close()


async def test_login_delay_is_kept_from_poll_to_poll(desk: Desk) -> None:
    offers = ("UIDL", "TOP", "USER", "LOGIN-DELAY 900")
    async with some(1, capabilities=offers).serving() as server:
        await desk.poll(server)
        assert (await desk.state.accounts())["sales"].next_poll == desk.clock.now() + 900
        await desk.clock.advance(600)
        await desk.poll(server)
        assert server.connections == 1
        state = (await desk.state.accounts())["sales"]
        assert (state.next_poll, state.failures) == (desk.clock.now() + 300, 0)
        await desk.clock.advance(300)
        await desk.poll(server)
        assert server.connections == 2


async def test_an_absurd_login_delay_is_kept_for_an_hour_and_told(desk: Desk) -> None:
    offers = ("UIDL", "TOP", "USER", "LOGIN-DELAY 999999")
    async with some(1, capabilities=offers).serving() as server:
        await desk.poll(server)
        state = (await desk.state.accounts())["sales"]
        assert state.next_poll == desk.clock.now() + 3_600
        assert state.undone == (
            "the server wants 999999 seconds between two logins (LOGIN-DELAY): it is given 3600"
        )
        await desk.clock.advance(3_600)
        await desk.poll(server)
        assert server.connections == 2


async def test_an_absurd_login_delay_that_was_believed_once_is_not_waited_for(desk: Desk) -> None:
    until = desk.clock.now() + 999_999
    await desk.state.record_poll("sales", next_poll=until, error=None, login_after=until)
    async with some(1).serving() as server:
        await desk.poll(server)
        assert server.connections == 1


async def test_login_delay_is_kept_between_the_sessions_of_a_poll(desk: Desk) -> None:
    offers = ("UIDL", "TOP", "USER", "LOGIN-DELAY 30")
    broken = {"RETR 1": Say(b"", "drop")}
    async with some(3, capabilities=offers, says=broken).serving() as server:
        polling = asyncio.create_task(desk.poll(server))
        await turns_until(lambda: server.connections == 1 and not server.open)
        await desk.clock.advance(29)
        assert server.connections == 1
        await desk.clock.advance(1)
        await polling
        assert server.connections == 2
    assert desk.raws() == MAIL[1:3]


@pytest.mark.parametrize(
    ("written", "known"),
    [("localhost", "127.0.0.1"), ("POP.example.net.", "pop.example.net"), ("::1", "127.0.0.1")],
)
def test_a_maildrop_is_the_same_however_its_host_is_written(written: str, known: str) -> None:
    login = Login(written, 110, "none", "sales", str)
    assert Account("a", login, Timetable.always(60.0), 0.0).maildrop == f"sales@{known}"


async def test_a_renamed_account_is_told_of_before_its_mail_comes_again(desk: Desk) -> None:
    async with some(1).serving() as server:
        await desk.state.move_in("old name", "sales@127.0.0.1")
        await desk.poll(server, keep=600.0)
        undone = (await desk.state.accounts())["sales"].undone
        assert undone is not None
        assert undone.startswith("this maildrop was polled as account old name before")
        await desk.poll(server, keep=600.0)
        assert (await desk.state.accounts())["sales"].undone is None


async def test_an_account_that_is_another_maildrop_each_time_is_told_of_each_time(
    desk: Desk,
) -> None:
    """So it is where two configurations share a state database; a move is told of once."""
    async with some(1).serving() as server:
        for _ in range(2):
            await desk.state.move_in("sales", "sales@far.example")
            await desk.poll(server, keep=600.0)
            undone = (await desk.state.accounts())["sales"].undone
            assert undone is not None
            assert "was polled as the maildrop sales@far.example before" in undone
            assert "another configuration has an account of this name" in undone
        await desk.poll(server, keep=600.0)
        assert (await desk.state.accounts())["sales"].undone is None
        assert len(desk.raws()) == 1  # a move does not bring everything again


def accounts(count: int, every: float = 300.0) -> list[Account]:
    login = Login("127.0.0.1", 995, "none", "x", lambda: "y")
    return [Account(f"account {n}", login, Timetable.always(every), 0.0) for n in range(count)]


def test_a_handful_is_polled_at_once_and_many_are_spread_over_their_interval() -> None:
    assert first_polls(accounts(20)) == {}
    first = sorted(first_polls(accounts(3_000)).values())
    assert all(abs(at - 0.1 * n) < 15 for n, at in enumerate(first))  # evenly, over 300 s
    assert max(first_polls(accounts(100, every=7_200.0)).values()) <= 300.0


def test_accounts_that_came_together_part_again() -> None:
    many = accounts(1_000)
    times = dict.fromkeys([a.name for a in many], 1_700_000_000.0)
    for _ in range(8):
        for account in many:
            wait = spread(account, times[account.name])
            assert 0.9 * 300 <= wait <= 1.1 * 300
            times[account.name] += wait
    phases = sorted(at % 300 for at in times.values())
    assert all(abs(at - 0.3 * n) < 20 for n, at in enumerate(phases))
    for account in many:
        assert spread(account, times[account.name]) == pytest.approx(300.0)


@pytest.mark.parametrize("seconds", [600, 60 * 86_400, FOREVER])
async def test_a_job_that_was_queued_before_the_pause_does_nothing(
    desk: Desk, seconds: float
) -> None:
    async with some(1).serving() as server:
        await desk.state.pause(["sales"], until=desk.clock.now() + seconds)
        for reason in ("due", "once"):
            await desk.poll(server, reason=reason)
        assert (server.connections, await desk.due_in("sales")) == (0, min(seconds, HELD))
        await desk.state.pause(["sales"], until=None)
        await desk.poll(server)
        assert desk.raws() == MAIL[:1]


def test_those_that_waited_for_the_same_hour_come_one_after_the_other() -> None:
    office = (Rule(300.0, start=time(7), end=time(19)),)
    many = [replace(a, timetable=Timetable(office)) for a in accounts(1_000)]
    evening = 1_700_000_000.0 // 86_400 * 86_400 + 20 * 3_600
    opening = evening + 11 * 3_600
    polls = sorted(evening + spread(account, evening) for account in many)
    assert all(abs(at - opening - 0.3 * n) < 20 for n, at in enumerate(polls))


async def test_while_mail_is_coming_an_account_is_polled_sooner(desk: Desk) -> None:
    capabilities = ["USER", "UIDL", "TOP"]
    server = Pop3Server(MAIL[:1], ["a"], capabilities)
    async with server.serving():
        for mail, wait in ((MAIL[:1], 60), (MAIL[:1], 300), (MAIL[:2], 60)):
            server.messages, server.uidls = mail, ["a", "b"][: len(mail)]
            await desk.poll(server, keep=600.0, soonest=60.0)
            assert await desk.due_in("sales") == wait
            await desk.clock.advance(300)
        # Never sooner than the server wants it.
        server.messages, server.uidls = MAIL[:3], ["a", "b", "c"]
        capabilities.append("LOGIN-DELAY 900")
        await desk.poll(server, keep=600.0, soonest=60.0)
        assert await desk.due_in("sales") == pytest.approx(900, abs=1)


@pytest.mark.parametrize("fails", [True, False])
async def test_outside_its_hours_an_account_is_polled_neither_for_a_failure_nor_for_more_mail(
    desk: Desk, fails: bool
) -> None:
    started = desk.clock.now()
    hour = datetime.fromtimestamp(started, UTC)
    ends = (hour + timedelta(seconds=30)).time()
    begins = (hour - timedelta(hours=1)).time()
    office = Timetable((Rule(20.0, start=begins, end=ends),))
    says = {"PASS": Say(b"-ERR [SYS/PERM] broken\r\n")} if fails else {}
    async with some(1, says=says).serving() as server:
        happened = await desk.poll(server, keep=600.0, soonest=40.0, timetable=office)
        assert happened["accounts_failed"] == fails
        if not fails:
            assert await desk.due_in("sales") == 20.0
            await desk.clock.advance(20)
            server.messages, server.uidls = MAIL[:2], ["u1", "u2"]
            await desk.poll(server, keep=600.0, soonest=15.0, timetable=office)
    state = (await desk.state.accounts())["sales"]
    assert state.next_poll == started + 23 * 3_600


async def test_many_new_accounts_are_not_due_at_once(desk: Desk) -> None:
    await desk.scheduler("a", "b", first={"b": 120.0}).queue_due()
    assert desk.jobs() == ["a"]
    await desk.clock.advance(120)
    await desk.scheduler("a", "b", first={"b": 120.0}).queue_due()
    assert desk.jobs() == ["a", "b"]
