"""The fetch story with a real ledger, broker and spool, and a POP3 server that does as told."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from services.fetcher.account import Account, backoff
from services.fetcher.fetch import ELSEWHERE, STATE_AWAY, Fetcher
from services.fetcher.ports import World
from services.fetcher.schedule import CLAIM, HOLD, Scheduler
from services.fetcher.visit import Limits
from shared import wire
from shared.broker.embedded import EmbeddedBroker
from shared.broker.embedded_steward import EmbeddedSteward
from shared.log import MailLog
from shared.message import Envelope, Fetched, Inline, Poll, Spooled
from shared.outbox import Outbox
from shared.outcome import Done, Outcome, Retry
from shared.queues import INCOMING, POLL, Tier
from shared.spool import Spool
from shared.state import State, new_owner
from tests.clock import ManualClock
from tests.servers.pop3 import Pop3Server, Say
from tests.unit.fetcher.pop3_session import MAIL, login
from tests.unit.state.opening import ELSEWHERE as DEAD
from tests.unit.state.processes import execute

TIERS = (Tier("30s", 30),)
UIDLS = [f"u{n}" for n in range(1, 201)]


@dataclass
class Desk:
    """A fetcher with all that it works with."""

    folder: Path
    broker: EmbeddedBroker
    steward: EmbeddedSteward
    state: State
    spool: Spool
    log: MailLog
    clock: ManualClock
    outcomes: list[Outcome | Exception] = field(default_factory=list)

    async def poll(
        self,
        server: Pop3Server,
        *,
        keep: float = 0.0,
        limits: Limits | None = None,
        outbox: str = INCOMING,
        jobs: int = 1,
        **changes: Any,
    ) -> Counter[str]:
        """Poll the maildrop, by so many jobs at a time; return what happened."""
        account = Account("sales", replace(login(server), **changes), 300.0, keep)
        world = World(
            self.state,
            self.state,
            Outbox(self.broker, outbox),
            self.spool,
            2_000,
            self.log,
            self.clock,
        )
        self.log.counts.clear()
        fetcher = Fetcher({"sales": account}, world, limits or Limits())
        job = Envelope("poll-sales", "sales", Poll(), 0.0)

        def answer(_: int, outcome: Outcome | Exception) -> None:
            self.outcomes.append(outcome)

        await asyncio.gather(*(fetcher.handle([job], answer) for _ in range(jobs)))
        return Counter(self.log.counts)

    def scheduler(
        self, *names: str, outbox: Outbox | None = None, blocked: str | None = None
    ) -> Scheduler:
        outbox = outbox or Outbox(self.broker, POLL)
        return Scheduler(
            names,
            self.state,
            outbox,
            self.log,
            self.clock,
            blocked=lambda: blocked,
        )

    def jobs(self) -> list[str]:
        return [wire.decode(m.body, Poll).account for m in self.steward.browse(POLL)]

    def incoming(self) -> list[Envelope[Fetched]]:
        return [wire.decode(m.body, Fetched) for m in self.steward.browse(INCOMING)]

    def raws(self) -> list[bytes]:
        return [e.payload.raw.data for e in self.incoming() if isinstance(e.payload.raw, Inline)]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened(tmp_path) as desk:
        yield desk


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Desk]:
    clock = ManualClock()
    broker = EmbeddedBroker(folder / "queue.db", tiers=TIERS, name="test")
    await broker.open()
    steward = EmbeddedSteward(folder / "queue.db", TIERS)
    url = f"sqlite:///{folder / 'state.db'}"
    state = await State.open(url, owner=new_owner(), clock=clock)
    spool = Spool(str(folder / "spool"))
    try:
        yield Desk(folder, broker, steward, state, spool, MailLog("fetcher"), clock)
    finally:
        await state.close()
        steward.close()
        await broker.close()


def some(count: int, **more: Any) -> Pop3Server:
    return Pop3Server(MAIL[:count], UIDLS[:count], **more)


def deleted(server: Pop3Server) -> list[int]:
    return sorted(int(c.split()[1]) for c in server.commands if c.startswith("DELE"))


async def test_everything_is_published_recorded_and_then_deleted(desk: Desk) -> None:
    async with some(200).serving() as server:
        happened = await desk.poll(server)
    assert desk.raws() == MAIL
    assert [e.payload.uidl for e in desk.incoming()] == UIDLS
    assert server.deleted == set(range(1, 201))
    assert (happened["fetched"], happened["removed"], happened["polled"]) == (200, 200, 1)


async def test_a_session_that_deletes_quits_after_so_many_and_the_next_goes_on(
    desk: Desk,
) -> None:
    async with some(7).serving() as server:
        happened = await desk.poll(server, keep=600.0, limits=Limits(session_messages=3))
        said = [c for c in server.commands if c.startswith(("RETR", "QUIT"))]
    assert said[:5] == ["RETR 1", "RETR 2", "RETR 3", "QUIT", "RETR 4"]
    assert server.connections == 3
    assert desk.raws() == MAIL[:7]
    assert (happened["fetched"], happened["polled"]) == (7, 1)


async def test_a_session_that_deletes_nothing_takes_all(desk: Desk) -> None:
    async with some(7).serving() as server:
        await desk.poll(server, keep=math.inf, limits=Limits(session_messages=3))
        assert server.connections == 1
    assert desk.raws() == MAIL[:7]


async def test_what_stays_on_the_server_is_fetched_once(desk: Desk) -> None:
    async with some(3).serving() as server:
        await desk.poll(server, keep=math.inf)
        server.commands.clear()
        again = await desk.poll(server, keep=math.inf)
    assert not [c for c in server.commands if c.startswith(("RETR", "DELE"))]
    assert again["fetched"] == 0
    assert desk.raws() == MAIL[:3]


async def test_what_stays_for_a_while_is_deleted_after_it(desk: Desk) -> None:
    async with some(2).serving() as server:
        await desk.poll(server, keep=600.0)
        await desk.clock.advance(599)
        await desk.poll(server, keep=600.0)
        assert deleted(server) == []
        await desk.clock.advance(1)
        await desk.poll(server, keep=600.0)
    assert deleted(server) == [1, 2]
    assert desk.raws() == MAIL[:2]


async def test_deletions_that_quit_does_not_confirm_are_made_again_without_fetching(
    desk: Desk,
) -> None:
    async with some(
        2, says={"QUIT": Say(b"-ERR some deleted messages not removed\r\n")}
    ).serving() as server:
        happened = await desk.poll(server)
        assert (happened["removed"], happened["accounts_failed"]) == (0, 1)
        server.says = {}
        server.commands.clear()
        happened = await desk.poll(server)
    assert deleted(server) == [1, 2]
    assert happened["fetched"] == 0
    assert desk.raws() == MAIL[:2]


@pytest.mark.parametrize("limits", [Limits(chunk_messages=2, chunks_underway=0), Limits()])
async def test_a_session_that_breaks_off_keeps_what_came_whole(desk: Desk, limits: Limits) -> None:
    script = {"RETR 5": Say(b"+OK\r\nhalf a mess", "drop")}
    async with some(6, says=script).serving() as server:
        happened = await desk.poll(server, limits=limits)
        assert happened["accounts_failed"] == 1
        assert deleted(server) == []
        assert desk.raws() == MAIL[:4]
        server.says = {}
        happened = await desk.poll(server, limits=limits)
    assert happened["fetched"] == 2
    assert desk.raws() == MAIL[:6]
    assert server.deleted == set(range(1, 7))


async def test_a_large_message_that_breaks_off_leaves_no_blob(desk: Desk) -> None:
    half = b"Subject: large\r\n\r\n" + b"0123456789abcdef\r\n" * 1_000
    script = {"RETR 2": Say(b"+OK\r\n" + half, "drop")}
    async with some(2, says=script).serving() as server:
        await desk.poll(server)
    assert desk.raws() == MAIL[:1]
    assert [p for p in (desk.folder / "spool").rglob("*") if p.is_file()] == []


async def test_one_message_that_the_server_refuses_keeps_none_of_the_others(desk: Desk) -> None:
    async with some(5, says={"RETR 3": Say(b"-ERR [SYS/TEMP] unreadable\r\n")}).serving() as server:
        happened = await desk.poll(server)
    assert desk.raws() == [MAIL[0], MAIL[1], MAIL[3], MAIL[4]]
    assert server.deleted == {1, 2, 4, 5}
    assert happened["accounts_failed"] == 1
    state = (await desk.state.accounts())["sales"]
    assert "message 3 is refused" in str(state.last_error)


async def test_nothing_is_deleted_that_the_broker_did_not_take(desk: Desk) -> None:
    async with some(3).serving() as server:
        happened = await desk.poll(server, outbox="no such queue")
        assert (happened["fetched"], happened["accounts_failed"]) == (0, 1)
        assert deleted(server) == []
        await desk.poll(server)
    assert desk.raws() == MAIL[:3]


async def test_a_second_copy_is_suppressed_and_counted(desk: Desk) -> None:
    twins = Pop3Server([MAIL[0], MAIL[1], MAIL[0]], ["a", "b", "c"])
    async with twins.serving() as server:
        happened = await desk.poll(server)
    assert desk.raws() == MAIL[:2]
    assert (happened["fetched"], happened["suppressed"]) == (2, 1)
    assert server.deleted == {1, 2, 3}


async def test_renumbered_uidls_bring_no_message_twice(desk: Desk) -> None:
    async with some(3).serving() as server:
        await desk.poll(server, keep=math.inf)
        server.uidls = ["x1", "x2", "x3"]
        happened = await desk.poll(server, keep=math.inf)
        assert (happened["fetched"], happened["suppressed"]) == (0, 3)
        server.commands.clear()
        await desk.poll(server, keep=math.inf)
    assert not [c for c in server.commands if c.startswith("RETR")]
    assert desk.raws() == MAIL[:3]


async def test_a_uidl_that_two_messages_share_loses_neither(desk: Desk) -> None:
    async with Pop3Server(MAIL[:2], ["same", "same"]).serving() as server:
        await desk.poll(server)
    assert desk.raws() == MAIL[:2]


async def test_a_server_without_uidl_is_told_apart_by_content(desk: Desk) -> None:
    async with Pop3Server(MAIL[:2], None, ["USER"]).serving() as server:
        await desk.poll(server, keep=math.inf)
        happened = await desk.poll(server, keep=math.inf)
    assert desk.raws() == MAIL[:2]
    assert happened["suppressed"] == 2


async def test_a_large_message_goes_to_the_spool_and_its_header_with_the_envelope(
    desk: Desk,
) -> None:
    head = b"Subject: large\r\n\r\n"
    large = head + b"0123456789abcdef\r\n" * 20_000
    async with Pop3Server([MAIL[0], large], ["a", "b"]).serving() as server:
        await desk.poll(server)
    small, spooled = desk.incoming()
    assert small.payload.raw == Inline(MAIL[0])
    assert spooled.payload.raw == Spooled(spooled.id, len(large), head)
    assert b"".join([c async for c in desk.spool.chunks(spooled.id)]) == large


async def test_a_large_message_seen_before_leaves_no_blob(desk: Desk) -> None:
    large = b"Subject: large\r\n\r\n" + b"0123456789abcdef\r\n" * 1_000
    async with Pop3Server([large], ["a"]).serving() as server:
        await desk.poll(server, keep=math.inf)
        (envelope,) = desk.incoming()
        await desk.spool.delete(envelope.id)
        server.uidls = ["b"]
        happened = await desk.poll(server, keep=math.inf)
    assert happened["suppressed"] == 1
    assert [p for p in (desk.folder / "spool").rglob("*") if p.is_file()] == []


async def test_two_jobs_for_one_account_make_one_session(desk: Desk) -> None:
    async with some(3).serving() as server:
        await desk.poll(server, jobs=3)
        assert server.connections == 1
    assert desk.raws() == MAIL[:3]


async def test_an_account_in_other_hands_is_left_alone(desk: Desk, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    other = await State.open(url, owner=new_owner(), clock=desk.clock)
    assert await other.lease("account:sales")
    async with some(1).serving() as server:
        await desk.poll(server)
        assert server.connections == 0
        await other.release("account:sales")
        await desk.poll(server)
    await other.close()
    assert desk.raws() == MAIL[:1]


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


async def test_an_account_is_not_backed_off_for_what_is_no_fault_of_its_own(desk: Desk) -> None:
    async with some(1).serving() as server:
        for failures in (1, 2, 3, 4):
            await desk.poll(server, outbox="no-such-queue")
            state = (await desk.state.accounts())["sales"]
            assert state.failures == failures
            assert "no-such-queue" in str(state.last_error)
            assert state.next_poll == desk.clock.now() + 300.0


async def test_an_account_that_gets_on_before_it_breaks_is_not_backed_off_further(
    desk: Desk,
) -> None:
    async def waits() -> float:
        await desk.poll(server)
        state = (await desk.state.accounts())["sales"]
        assert state.last_error
        return state.next_poll - desk.clock.now()

    async with some(6, says={"RETR 1": Say(b"", "drop")}).serving() as server:
        assert [await waits() for _ in range(5)] == [300.0, 300.0, 300.0, 480.0, 960.0]
        for nth in (3, 5):
            server.says = {f"RETR {nth}": Say(b"+OK\r\nhalf a mess", "drop")}
            assert await waits() == 300.0
            assert desk.raws() == MAIL[: nth - 1]
        assert (await desk.state.accounts())["sales"].failures == 1
        assert [await waits() for _ in range(3)] == [300.0, 300.0, 480.0]


def test_the_backoff_doubles_up_to_an_hour() -> None:
    waits = [backoff(30.0, n, busy=False) for n in (0, 1, 2, 5, 6, 99)]
    assert waits == [60.0, 120.0, 240.0, 1920.0, 3600.0, 3600.0]
    assert backoff(7200.0, 99, busy=False) == 7200.0


async def test_due_accounts_become_one_poll_job_each(desk: Desk) -> None:
    await desk.scheduler("a", "b", blocked="memory alarm").queue_due()
    assert desk.jobs() == []
    schedulers = [desk.scheduler("a", "b") for _ in range(2)]
    await asyncio.gather(*(scheduler.queue_due() for scheduler in schedulers))
    assert sorted(desk.jobs()) == ["a", "b"]


async def test_a_scheduler_that_dies_in_between_delays_its_accounts_by_seconds(
    desk: Desk,
) -> None:
    class Dying(Outbox):
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


async def test_poll_jobs_that_cannot_be_queued_are_due_again_at_once(desk: Desk) -> None:
    await desk.scheduler("a", outbox=Outbox(desk.broker, "no such queue")).queue_due()
    assert await desk.state.claim_due(["a"], hold=60) == ["a"]


@pytest.mark.parametrize("away", [["lease", "account"], ["message", "account"], ["account"]])
async def test_an_account_polled_while_the_database_is_away_is_due_when_it_is_back(
    desk: Desk, away: list[str]
) -> None:
    """Away at the lease, at the ledger, at the end: its poll job is kept."""
    url = f"sqlite:///{desk.folder / 'state.db'}"
    scheduler = desk.scheduler("sales")
    await scheduler.queue_due()
    async with some(2).serving() as server:
        for table in away:
            execute(url, f"ALTER TABLE {table} RENAME TO {table}_away")
        happened = await desk.poll(server)
        assert happened["accounts_failed"] == 1
        assert deleted(server) == ([1, 2] if away == ["account"] else [])
        (outcome,) = desk.outcomes
        assert isinstance(outcome, Retry)
        assert outcome.after == STATE_AWAY
        for table in away:
            execute(url, f"ALTER TABLE {table}_away RENAME TO {table}")
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


LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcdef\r\n" * 20_000


async def test_a_large_message_that_the_spool_does_not_take_keeps_none_of_the_others(
    desk: Desk,
) -> None:
    spool = desk.folder / "spool"
    spool.write_bytes(b"a file where the folder should be")
    async with Pop3Server([MAIL[0], LARGE, MAIL[1]], ["a", "b", "c"]).serving() as server:
        happened = await desk.poll(server)
        assert desk.raws() == MAIL[:2]
        assert server.deleted == {1, 3}
        assert (happened["fetched"], happened["accounts_failed"]) == (2, 1)
        state = (await desk.state.accounts())["sales"]
        assert "Not a directory" in str(state.last_error)
        assert b'spool_failures_total{stage="fetcher",what="unavailable"} 1.0' in (
            desk.log.metrics.exposition()
        )
        spool.unlink()
        await desk.poll(server)
    assert [e.payload.raw.size for e in desk.incoming()] == [*map(len, MAIL[:2]), len(LARGE)]


async def test_what_fails_on_our_side_does_not_keep_an_account_waiting(desk: Desk) -> None:
    async with some(1).serving() as server:
        for _ in range(6):
            await desk.poll(server, outbox="no such queue")
    state = (await desk.state.accounts())["sales"]
    assert (state.failures, state.next_poll) == (6, desk.clock.now() + 300.0)
