"""The state: one suite for every database, run here on SQLite, and what is SQLite's alone."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import Connection, create_engine, event, inspect, text

from shared.claims import Claim, Entry
from shared.errors import ConfigError, StateUnavailable
from shared.state import State, new_owner
from shared.state.leases import LEASE, RENEWAL
from shared.state.owner import dead, local
from shared.state.schema import METADATA
from tests.clock import ManualClock
from tests.servers.process import wait_until

ELSEWHERE = "othermachine/0123456789ab:{}:4711:00000000"
"""An owner of another machine, whose death nobody here can prove."""

HOUR = 3600.0
DAY = 24 * HOUR
FRESH = Claim(frozenset(), replay=False)

Opener = Callable[..., Awaitable[State]]


class StateSuite:
    """What holds on every database. A subclass brings a fixture ``url``: an empty database."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    async def open_state(self, url: str, clock: ManualClock) -> AsyncIterator[Opener]:
        async with contextlib.AsyncExitStack() as stack:

            async def opener(owner: str | None = None, at: ManualClock | None = None) -> State:
                state = await State.open(url, owner=owner or new_owner(), clock=at or clock)
                stack.push_async_callback(state.close)
                return state

            yield opener

    @pytest.fixture
    async def one(self, open_state: Opener) -> State:
        return await open_state()

    @pytest.fixture
    async def two(self, open_state: Opener) -> State:
        return await open_state()

    # Leases

    async def test_a_lease_has_one_owner_until_it_is_released(self, one: State, two: State) -> None:
        assert await one.lease("account:sales")
        assert await one.lease("account:sales")
        assert not await two.lease("account:sales")
        assert await two.lease("account:other")
        await two.release("account:sales")
        assert not await two.lease("account:sales")
        await one.release("account:sales")
        assert await two.lease("account:sales")

    async def test_a_lease_given_back_and_taken_in_one_transaction(
        self, one: State, two: State
    ) -> None:
        assert await one.lease("x")
        assert await one.claim("id", "default") == FRESH
        asked = (
            one.unclaim("id", "default"),
            one.claim("id", "default"),
            one.release("x"),
            one.lease("x"),
        )
        assert list(await asyncio.gather(*asked)) == [None, FRESH, None, True]
        assert not await two.lease("x")
        assert await two.claim("id", "default") is None

    async def test_a_lease_passes_on_when_its_owner_closes(self, url: str, two: State) -> None:
        one = await State.open(url, owner=new_owner())
        assert await one.lease("x")
        await one.close()
        assert await two.lease("x")

    async def test_an_expired_lease_passes_on(self, open_state: Opener, clock: ManualClock) -> None:
        one = await open_state(at=ManualClock(clock.now()))
        two = await open_state()
        assert await one.lease("x")
        await clock.advance(LEASE - 1)
        assert not await two.lease("x")
        await clock.advance(1)
        assert await two.lease("x")
        assert not await one.lease("x")

    async def test_leases_and_claims_are_renewed_while_their_owner_lives(
        self, open_state: Opener
    ) -> None:
        mine, theirs = ManualClock(), ManualClock()
        one, two = await open_state(at=mine), await open_state(at=theirs)
        assert await one.lease("x")
        assert await one.claim("id", "default") == FRESH
        for _ in range(8):
            await mine.advance(RENEWAL)
            await theirs.advance(RENEWAL)
            await one.lease("something that waits for the renewal before it")
            assert not await two.lease("x")
            assert await two.claim("id", "default") is None

    async def test_the_lease_of_a_dead_process_is_free_at_once(
        self, url: str, open_state: Opener
    ) -> None:
        with _process(_HOLD, url) as process:
            early = ManualClock(0.0)  # its leases run for decades by our clock
            here = await open_state(at=early)
            assert not await here.lease("x")
            process.send_signal(signal.SIGSTOP)
            assert not await here.lease("x")
            process.kill()
            process.wait()
            assert await here.lease("x")
            assert await here.claim("id", "default") == Claim(frozenset({"a@x"}), replay=True)

    async def test_the_lease_of_a_stopped_process_expires(
        self, url: str, open_state: Opener
    ) -> None:
        with _process(_HOLD, url) as process:
            process.send_signal(signal.SIGSTOP)
            late = await open_state(at=ManualClock(4_000_000_000.0))
            assert await late.lease("x")

    async def test_a_lease_from_another_machine_has_to_expire(self, open_state: Opener) -> None:
        clock = ManualClock()
        far = await open_state(owner=ELSEWHERE.format(99999999), at=ManualClock(clock.now()))
        here = await open_state(at=clock)
        assert await far.lease("x")
        assert not await here.lease("x")
        await clock.advance(LEASE)
        assert await here.lease("x")

    async def test_a_clock_set_back_an_hour_stalls_no_lease(self, open_state: Opener) -> None:
        clock = ManualClock()
        far = await open_state(owner=ELSEWHERE.format(1), at=ManualClock(clock.now() + HOUR))
        near = await open_state(at=ManualClock(clock.now() + HOUR))
        here = await open_state(at=clock)
        assert await far.lease("x")
        assert await near.lease("y")
        assert await here.lease("x")
        assert not await here.lease("y"), "its owner is alive, here"

    # Deliveries

    async def test_a_claim_is_exclusive_and_tells_what_is_delivered(
        self, one: State, two: State
    ) -> None:
        assert await one.claim("id", "default") == FRESH
        assert await one.claim("id", "default") is None
        assert await two.claim("id", "default") is None
        assert await two.claim("id", "archive") == FRESH
        assert await two.claim("id2", "default") == FRESH
        await one.finish("id", "default", {"a@x": "250 ok", "b@x": "250 ok"})
        assert await two.claim("id", "default") == Claim(frozenset({"a@x", "b@x"}), replay=False)
        await two.finish("id", "default", {"a@x": "250 again", "c@x": "250 ok"})
        assert await one.claim("id", "default") == Claim(
            frozenset({"a@x", "b@x", "c@x"}), replay=False
        )

    async def test_the_first_receipt_of_a_recipient_is_kept(self, url: str, one: State) -> None:
        await one.finish("id", "default", {"a@x": "250 first"})
        await one.finish("id", "default", {"a@x": "250 second"})
        assert [row.receipt for row in _rows(url, "delivered")] == ["250 first"]

    async def test_a_claim_given_back_leaves_no_trace(self, one: State, two: State) -> None:
        assert await one.claim("id", "default") == FRESH
        await one.unclaim("id", "default")
        assert await two.claim("id", "default") == FRESH

    async def test_finishing_with_no_recipient_drops_the_claim(
        self, one: State, two: State
    ) -> None:
        assert await one.claim("id", "default") == FRESH
        await one.finish("id", "default", {})
        assert await two.claim("id", "default") == FRESH

    async def test_a_claim_taken_over_is_a_replay(self, open_state: Opener) -> None:
        clock = ManualClock()
        one = await open_state(at=ManualClock(clock.now()))
        two = await open_state(at=clock)
        assert await one.claim("id", "default") == FRESH
        await clock.advance(LEASE)
        assert await two.claim("id", "default") == Claim(frozenset(), replay=True)
        await one.unclaim("id", "default")
        assert await one.claim("id", "default") is None
        await two.finish("id", "default", {"a@x": "250"})
        assert await one.claim("id", "default") == Claim(frozenset({"a@x"}), replay=False)

    async def test_a_claim_still_held_at_the_end_is_a_replay(self, url: str, two: State) -> None:
        one = await State.open(url, owner=new_owner())
        assert await one.claim("id", "default") == FRESH
        await one.close()
        assert await two.claim("id", "default") == Claim(frozenset(), replay=True)

    async def test_hundreds_of_claims_in_one_transaction(self, one: State, two: State) -> None:
        ids = [f"{n:064x}" for n in range(2500)]
        claims = await asyncio.gather(*(one.claim(id_, "default") for id_ in ids))
        assert set(claims) == {FRESH}
        assert set(await asyncio.gather(*(two.claim(i, "default") for i in ids))) == {None}
        await asyncio.gather(*(one.finish(i, "default", {f"{i}@x": "250"}) for i in ids))
        claims = await asyncio.gather(*(two.claim(id_, "default") for id_ in ids))
        assert claims == [Claim(frozenset({f"{id_}@x"}), replay=False) for id_ in ids]

    async def test_of_two_processes_that_claim_exactly_one_wins(self, url: str) -> None:
        with _process(_RACE, url) as first, _process(_RACE, url) as second:
            for process in (first, second):
                assert process.stdin is not None
                process.stdin.write(b"go\n")
                process.stdin.flush()
            won = [json.loads(_line(process)) for process in (first, second)]
        assert not set(won[0]) & set(won[1])
        assert sorted(won[0] + won[1]) == sorted(f"{n:064x}" for n in range(300))

    # UID ledger

    async def test_what_is_recorded_is_known(self, one: State, two: State) -> None:
        await one.record("sales", [Entry("u1", "a"), Entry("u2", "b"), Entry(None, "c")])
        await one.record("other", [Entry("u1", "d")])
        assert {uidl: k.id for uidl, k in (await two.known("sales")).items()} == {
            "u1": "a",
            "u2": "b",
        }
        assert await two.known("nobody") == {}
        assert await two.seen(["a", "c", "d", "z", "a"]) == {"a", "c", "d"}
        assert await two.seen([]) == frozenset()

    async def test_recording_again_keeps_when_it_was_first_seen(
        self, one: State, clock: ManualClock
    ) -> None:
        start = clock.now()
        await one.record("sales", [Entry("u1", "a"), Entry("u2", "b")])
        await clock.advance(HOUR)
        await one.record("sales", [Entry("u1", "a"), Entry("u2", "x"), Entry("u3", "b")])
        assert await one.known("sales") == {
            "u1": ("a", start),
            "u2": ("x", start + HOUR),  # the server gave an old UIDL to a new message
            "u3": ("b", start + HOUR),
        }

    async def test_the_same_uidl_twice_at_once(self, one: State) -> None:
        await asyncio.gather(
            one.record("sales", [Entry("u1", "a"), Entry("u1", "b"), Entry("u2", "b")]),
            one.record("sales", [Entry("u2", "b"), Entry("u3", "c")]),
            one.record("sales", []),
        )
        known = await one.known("sales")
        assert {uidl: k.id for uidl, k in known.items()} == {"u1": "b", "u2": "b", "u3": "c"}
        assert await one.seen(["a", "b", "c"]) == {"a", "b", "c"}

    async def test_what_is_forgotten_keeps_its_identity(self, one: State) -> None:
        await one.record("sales", [Entry("u1", "a"), Entry("u2", "b")])
        await one.record("other", [Entry("u1", "c")])
        await one.forget("sales", ["u1", "never there"])
        await one.forget("sales", [])
        assert set(await one.known("sales")) == {"u2"}
        assert set(await one.known("other")) == {"u1"}
        assert await one.seen(["a"]) == {"a"}

    async def test_hostile_text_comes_back_as_it_was(self, one: State) -> None:
        texts = ["\0", "a\0b", "\ud800", "\\", "\\x00", "ä", "\x7f\r\n", "日本", "'; --", "%s"]
        await one.record("sales", [Entry(t, str(n)) for n, t in enumerate(texts)])
        known = await one.known("sales")
        assert {uidl: k.id for uidl, k in known.items()} == {t: str(n) for n, t in enumerate(texts)}
        await one.record("sales", [Entry(None, f"id{t}") for t in texts])
        assert await one.seen([f"id{t}" for t in texts]) == {f"id{t}" for t in texts}
        await one.finish("id", "default", {t: t for t in texts})
        assert await one.claim("id", "default") == Claim(frozenset(texts), replay=False)
        await one.forget("sales", texts)
        assert await one.known("sales") == {}

    async def test_a_large_maildrop(self, one: State) -> None:
        entries = [Entry(f"uid{n:020}", f"{n:064x}") for n in range(30_000)]
        await one.record("sales", entries)
        known = await one.known("sales")
        assert {(uidl, k.id) for uidl, k in known.items()} == set(entries)
        assert len(await one.seen([entry.id for entry in entries])) == 30_000

    # Schedule

    async def test_an_account_is_due_at_first_and_then_on_time(
        self, one: State, clock: ManualClock
    ) -> None:
        assert await one.claim_due(["a", "b"], hold=HOUR) == ["a", "b"]
        assert await one.claim_due(["a", "b"], hold=HOUR) == []
        assert await one.polled("a", next_poll=clock.now() + 300, error=None) == 0
        assert await one.claim_due(["a", "b"], hold=HOUR) == []
        await clock.advance(299)
        assert await one.claim_due(["a", "b"], hold=HOUR) == []
        await clock.advance(1)
        assert await one.claim_due(["b"], hold=HOUR) == []
        assert await one.claim_due(["a", "b", "c"], hold=HOUR) == ["a", "c"]

    async def test_an_account_whose_poll_job_was_lost_is_due_after_the_hold(
        self, one: State, clock: ManualClock
    ) -> None:
        assert await one.claim_due(["a"], hold=60) == ["a"]
        await clock.advance(59)
        assert await one.claim_due(["a"], hold=60) == []
        await clock.advance(1)
        assert await one.claim_due(["a"], hold=60) == ["a"]

    async def test_accounts_given_back_are_due_at_once(self, one: State, two: State) -> None:
        assert await one.claim_due(["a", "b"], hold=60) == ["a", "b"]
        await one.give_back(["a"])
        assert await two.claim_due(["a", "b"], hold=60) == ["a"]

    async def test_schedulers_never_get_the_same_account(self, one: State, two: State) -> None:
        names = [f"account{n}" for n in range(500)]
        asked = [state.claim_due(names, hold=60) for state in (one, two, one, two)]
        got = await asyncio.gather(*asked)
        assert sorted(name for names in got for name in names) == sorted(names)

    async def test_failures_are_counted_until_a_poll_succeeds(
        self, one: State, two: State, clock: ManualClock
    ) -> None:
        start = clock.now()
        assert await one.failures("a") == 0
        assert await one.polled("a", next_poll=start + 1, error=None) == 0
        await clock.advance(10)
        assert await one.polled("a", next_poll=start + 20, error="gone\x1b[2J") == 1
        assert await two.polled("a", next_poll=start + 40, error="wrong password") == 2
        assert await one.failures("a") == 2
        state = (await one.accounts())["a"]
        assert (state.failures, state.last_ok, state.last_error) == (2, start, "wrong password")
        assert state.next_poll == start + 40
        assert await one.polled("a", next_poll=start + 60, error=None) == 0
        state = (await two.accounts())["a"]
        assert (state.failures, state.last_ok, state.last_error) == (0, start + 10, None)
        assert state.queued_until == 0

    async def test_a_clock_set_back_an_hour_stalls_no_account(self, open_state: Opener) -> None:
        clock = ManualClock()
        ahead = await open_state(at=ManualClock(clock.now() + HOUR))
        here = await open_state(at=clock)
        assert await ahead.claim_due(["polled", "queued"], hold=1800) == ["polled", "queued"]
        await ahead.polled("polled", next_poll=clock.now() + HOUR + 300, error=None)
        assert await here.claim_due(["polled", "queued"], hold=1800) == ["polled", "queued"]
        assert await here.claim_due(["polled", "queued"], hold=1800) == []

    # Housekeeping

    async def test_pruning_takes_what_is_old_and_over(
        self, one: State, open_state: Opener, clock: ManualClock
    ) -> None:
        await one.record("sales", [Entry("u1", "listed"), Entry("u2", "gone"), Entry(None, "c")])
        await one.forget("sales", ["u2"])
        old = [f"old{number}" for number in range(2103)]
        await asyncio.gather(*(one.finish(id_, "default", {"a@x": "250"}) for id_ in old))
        later = await open_state(at=ManualClock(clock.now() + 10 * DAY))
        await later.record("sales", [Entry(None, "new")])
        await later.finish("id", "default", {"a@x": "250"})
        assert await later.prune(11 * DAY) == 0
        assert await later.prune(5 * DAY) == len(old) + 2
        assert await one.seen(["listed", "gone", "c", "new"]) == {"listed", "new"}
        assert await one.claim("id", "default") == Claim(frozenset({"a@x"}), replay=False)
        assert await one.claim("old1", "default") == FRESH
        assert await later.prune(5 * DAY) == 0

    async def test_pruning_takes_claims_that_nobody_came_back_for(
        self, url: str, open_state: Opener, clock: ManualClock
    ) -> None:
        gone = await State.open(url, owner=new_owner(), clock=clock)
        assert await gone.claim("id", "default") == FRESH
        await gone.close()
        here = await open_state(at=ManualClock(clock.now() + DAY))
        await here.prune(2 * DAY)
        assert len(_rows(url, "lease")) == 1
        await here.prune(HOUR)
        assert _rows(url, "lease") == []

    # Death and trouble

    async def test_what_a_killed_process_was_told_is_durable_is_there(
        self, url: str, open_state: Opener
    ) -> None:
        told: list[str] = []
        for _ in range(3):
            with _process(_RECORD, url) as process:
                lines = [_line(process) for _ in range(40)]
                process.kill()
                lines += process.communicate()[0].splitlines(keepends=True)
            told += [line.decode().strip() for line in lines if line.endswith(b"\n")]
        here = await open_state()
        assert await here.seen(told) == set(told)
        known = {k.id for k in (await here.known("sales")).values()}
        assert known >= set(told)
        claims = await asyncio.gather(*(here.claim(id_, "default") for id_ in told))
        assert {claim and claim.delivered for claim in claims} == {frozenset({"a@x"})}
        assert len(told) >= 120

    async def test_the_tables_are_what_the_statements_expect(self, url: str, one: State) -> None:
        engine = create_engine(url)
        inspector = inspect(engine)
        found = {
            name: [column["name"] for column in inspector.get_columns(name)]
            for name in inspector.get_table_names()
        }
        engine.dispose()
        assert found == {name: table.c.keys() for name, table in METADATA.tables.items()}

    async def test_many_processes_may_open_it_first(self, url: str) -> None:
        states = await asyncio.gather(
            *(State.open(url, owner=new_owner()) for _ in range(5)), return_exceptions=True
        )
        opened = [state for state in states if isinstance(state, State)]
        for state in opened:
            await state.close()
        assert len(opened) == 5, states

    async def test_a_newer_schema_is_refused(self, url: str, one: State) -> None:
        _execute(url, "UPDATE schema_version SET version = 99")
        with pytest.raises(ConfigError, match=r"state\.url: .*schema 99"):
            await State.open(url, owner=new_owner())

    async def test_failures_leave_a_mark_where_a_delivery_went_unrecorded(
        self, url: str, open_state: Opener
    ) -> None:
        """The ledger breaks between a delivery and its record; the next claim is a replay."""
        mine, theirs = ManualClock(), ManualClock()
        one, two = await open_state(at=mine), await open_state(at=theirs)
        assert await one.claim("id", "default") == FRESH
        _execute(url, "ALTER TABLE delivered RENAME TO elsewhere")
        with pytest.raises(StateUnavailable):
            await one.finish("id", "default", {"a@x": "250"})
        await one.unclaim("id", "default")
        _execute(url, "ALTER TABLE elsewhere RENAME TO delivered")
        assert await two.claim("id", "default") is None
        await mine.advance(RENEWAL)
        assert await one.lease("something that waits for a renewal before it")
        await theirs.advance(LEASE)
        assert await two.claim("id", "default") == Claim(frozenset(), replay=True)
        await two.unclaim("id", "default")
        assert await one.claim("id", "default") == FRESH

    async def test_a_claim_that_failed_can_be_made_again(self, url: str, one: State) -> None:
        _execute(url, "ALTER TABLE delivered RENAME TO elsewhere")
        with pytest.raises(StateUnavailable):
            await one.claim("id", "default")
        _execute(url, "ALTER TABLE elsewhere RENAME TO delivered")
        assert await one.claim("id", "default") == FRESH


class TestSqlite(StateSuite):
    """The suite on SQLite."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/data/state.db"


class TestSqliteFile:
    """What concerns the file."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / "data" / "state.db"

    @pytest.fixture
    def url(self, file: Path) -> str:
        return f"sqlite:///{file}"

    async def test_nobody_else_can_read_it(self, file: Path, url: str) -> None:
        state = await State.open(url, owner=new_owner())
        await state.lease("x")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()}
        assert modes == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        await state.close()

    async def test_it_is_synced_at_each_commit(self, url: str) -> None:
        state = await State.open(url, owner=new_owner())
        try:
            asked = state._database.transaction(
                lambda c: [c.scalar(text(f"PRAGMA {p}")) for p in ("journal_mode", "synchronous")],
                writes=False,
            )
        finally:
            await state.close()
        assert asked == ["wal", 2]

    async def test_a_locked_file_is_temporary(self, file: Path, url: str) -> None:
        state = await State.open(url, owner=new_owner(), patience=0.1)
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StateUnavailable, match="locked"):
                await state.record("sales", [Entry("u1", "a")])
            assert await state.known("sales") == {}, "readers do not wait for writers"
            other.execute("ROLLBACK")
        await state.record("sales", [Entry("u1", "a")])
        assert set(await state.known("sales")) == {"u1"}
        await state.close()

    async def test_a_lock_is_waited_for(self, file: Path, url: str) -> None:
        state = await State.open(url, owner=new_owner(), patience=30)
        begun = threading.Event()
        with contextlib.closing(state._database._engine.raw_connection()) as pooled:
            raw = cast(sqlite3.Connection, pooled.driver_connection)
            raw.set_trace_callback(lambda statement: begun.set())
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            recording = asyncio.create_task(state.record("sales", [Entry("u1", "a")]))
            await asyncio.to_thread(begun.wait)
            other.execute("COMMIT")
            await recording
        assert set(await state.known("sales")) == {"u1"}
        await state.close()

    async def test_who_reads_before_writing_keeps_others_from_writing_between(
        self, file: Path, url: str
    ) -> None:
        state = await State.open(url, owner=new_owner())

        def read_and_write(connection: Connection) -> None:
            connection.execute(text("SELECT * FROM lease")).all()
            with (
                contextlib.closing(sqlite3.connect(file, timeout=0)) as other,
                pytest.raises(sqlite3.OperationalError, match="locked"),
            ):
                other.execute("DELETE FROM lease")
            connection.execute(text("DELETE FROM lease"))

        state._database.transaction(read_and_write, writes=True)
        await state.close()

    async def test_a_full_disk_is_temporary(self, url: str) -> None:
        state = await State.open(url, owner=new_owner(), patience=0.1)
        await state.record("sales", [Entry("u1", "a")])
        _limit_pages(state, 10)
        with pytest.raises(StateUnavailable, match="full"):
            await state.record("sales", [Entry(f"u{n}", f"{n:064}") for n in range(10_000)])
        assert set(await state.known("sales")) == {"u1"}
        _limit_pages(state, 100_000)
        await state.record("sales", [Entry("u2", "b")])
        assert set(await state.known("sales")) == {"u1", "u2"}
        await state.close()

    @pytest.mark.parametrize(
        ("file_mode", "folder_mode", "said"),
        [(0o400, 0o700, "Permission denied"), (0o600, 0o500, "readonly|unable to open")],
    )
    async def test_a_file_that_cannot_be_written_is_for_the_user_to_mend(
        self, file_mode: int, folder_mode: int, said: str
    ) -> None:
        with _folder_of_nobody() as folder:
            url = f"sqlite:///{folder}/state.db"
            state = await State.open(url, owner=new_owner())
            await state.close()
            with (
                _as_nobody(folder, file_mode, folder_mode),
                pytest.raises(ConfigError, match=rf"state\.url: .*({said})"),
            ):
                await State.open(url, owner=new_owner(), patience=0.1)

    async def test_a_file_that_is_no_database_is_for_the_user_to_mend(
        self, file: Path, url: str
    ) -> None:
        file.parent.mkdir()
        file.write_text("no database at all" * 100)
        with pytest.raises(ConfigError, match="not a database"):
            await State.open(url, owner=new_owner())
        assert file.read_text() == "no database at all" * 100

    async def test_nothing_that_grows_is_ever_scanned(self, url: str) -> None:
        plans = await _plans(url)
        scans = {step for plan in plans.values() for step in plan if step.startswith("SCAN")}
        assert scans <= {"SCAN lease", "SCAN account"}, "what is held, and what is configured"
        (due,) = [plan for statement, plan in plans.items() if "account.set_at >" in statement]
        assert any("account_next_poll" in step for step in due)


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("secret", "not a database URL"),
            ("postgresql+psycopg://u:secret@h:port/d", "not a database URL"),
            ("mysql://u:secret@h/d", "mysql is not supported"),
            ("postgresql+asyncpg://u:secret@h/d", "asyncpg is not supported"),
            ("sqlite://", "names no file"),
            ("sqlite:///:memory:", "names no file"),
            ("sqlite:////proc/nowhere/state.db", "/proc/nowhere/state.db: No such file"),
        ],
    )
    async def test_a_wrong_url_is_for_the_user_to_mend(self, url: str, said: str) -> None:
        with pytest.raises(ConfigError, match=said) as caught:
            await State.open(url, owner=new_owner())
        chain = [caught.value, caught.value.__cause__]
        assert "secret" not in " ".join(map(str, chain))
        assert caught.value.where == "state.url"


class TestOwners:
    def test_each_is_another_and_alive(self) -> None:
        first, second = new_owner(), new_owner()
        assert first != second
        assert local(first)
        assert not dead(first)

    def test_one_of_this_machine_without_a_process_is_dead(self) -> None:
        host, pid, start, token = new_owner().rsplit(":", 3)
        assert dead(f"{host}:99999999:{start}:{token}")
        assert dead(f"{host}:{pid}:{int(start) - 1}:{token}"), "the PID was given out again"

    def test_a_zombie_is_dead(self) -> None:
        child = subprocess.Popen([sys.executable, "-c", _OWNER], stdout=subprocess.PIPE)
        owner = _line(child).decode().strip()
        assert local(owner)
        wait_until(lambda: _state_of(child.pid) == "Z", "the child to end")
        assert dead(owner)
        child.communicate()
        assert dead(owner)

    @pytest.mark.parametrize("owner", ["", "x", "a/b:c:d:e", ELSEWHERE.format(99999999), "::::/"])
    def test_of_others_nothing_is_known(self, owner: str) -> None:
        assert not local(owner)
        assert not dead(owner)

    def test_somebody_elses_process_is_alive(self) -> None:
        host = new_owner().rsplit(":", 3)[0]
        assert not dead(f"{host}:1:{_start_of(1)}:00000000")


_PREAMBLE = """
    import asyncio, json, sys
    from shared.claims import Entry
    from shared.state import State, new_owner
"""

_OWNER = "from shared.state.owner import new_owner; print(new_owner(), flush=True)"

_HOLD = """
    async def main(url):
        state = await State.open(url, owner=new_owner())
        await state.finish("id", "default", {"a@x": "250"})
        assert await state.lease("x")
        assert await state.claim("id", "default")
        print("ready", flush=True)
        await asyncio.Event().wait()
"""

_RACE = """
    async def main(url):
        state = await State.open(url, owner=new_owner())
        print("ready", flush=True)
        sys.stdin.readline()
        ids = [f"{n:064x}" for n in range(300)]
        claims = []
        for start in range(0, 300, 20):
            some = ids[start:start + 20]
            claims += await asyncio.gather(*(state.claim(id_, "default") for id_ in some))
        print(json.dumps([id_ for id_, claim in zip(ids, claims) if claim]), flush=True)
        sys.stdin.read()
"""

_RECORD = """
    async def main(url):
        state = await State.open(url, owner=new_owner())
        print("ready", flush=True)
        async def one(id_):
            await state.record("sales", [Entry(f"u{id_}", id_)])
            await state.claim(id_, "default")
            await state.finish(id_, "default", {"a@x": "250"})
            print(id_, flush=True)
        async def many(n):
            for i in range(1000):
                await one(f"{state._owner}-{n}-{i}")
        await asyncio.gather(*(many(n) for n in range(4)))
"""


@contextlib.contextmanager
def _process(body: str, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a script on the database in a process of its own; it has said that it is ready."""
    script = textwrap.dedent(_PREAMBLE) + textwrap.dedent(body) + "\nasyncio.run(main(sys.argv[1]))"
    process = subprocess.Popen(
        [sys.executable, "-c", script, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert _line(process) == b"ready\n"
        yield process
    finally:
        process.kill()
        with contextlib.suppress(ValueError):  # the test has read and closed its pipes
            process.communicate()


def _line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def _execute(url: str, statement: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def _rows(url: str, table: str) -> list[Any]:
    engine = create_engine(url)
    with engine.connect() as connection:
        rows = list(connection.execute(text(f"SELECT * FROM {table}")))
    engine.dispose()
    return rows


def _limit_pages(state: State, pages: int) -> None:
    """Let the file grow to so many pages only, as if the disk were full then."""
    state._database.transaction(
        lambda c: c.exec_driver_sql(f"PRAGMA max_page_count={pages}").all(), writes=False
    )


@contextlib.contextmanager
def _folder_of_nobody() -> Iterator[Path]:
    """Make a folder that an ordinary user reaches; the test's own is root's where root tests."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "data"
        folder.mkdir()
        yield folder


@contextlib.contextmanager
def _as_nobody(folder: Path, file_mode: int, folder_mode: int) -> Iterator[None]:
    """Give folder and files these modes, and be a user whom they bind: root writes anything."""
    user = os.geteuid()
    for path in (*folder.iterdir(), folder):
        path.chmod(folder_mode if path == folder else file_mode)
        if user == 0:
            os.chown(path, 65534, -1)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o700)


async def _plans(url: str) -> dict[str, list[str]]:
    """Return every statement that the state makes, with the steps of its query plan."""
    state = await State.open(url, owner=new_owner())
    engine = state._database._engine
    statements: dict[str, Any] = {}

    @event.listens_for(engine, "before_cursor_execute")
    def note(_c: Any, _u: Any, statement: str, parameters: Any, _x: Any, many: bool) -> None:
        statements[statement] = parameters[0] if many else parameters

    await _use_everything(state)
    await state.close()
    event.remove(engine, "before_cursor_execute", note)
    with engine.connect() as connection:
        plans = {
            statement: [
                str(row[3])
                for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
            ]
            for statement, values in statements.items()
            if not statement.startswith("BEGIN")
        }
    engine.dispose()
    return plans


async def _use_everything(state: State) -> None:
    other = await State.open(str(state._database._engine.url), owner=new_owner())
    await other.lease("x")
    await state.lease("x")
    await state.release("x")
    await state.record("sales", [Entry("u1", "a")])
    await state.known("sales")
    await state.seen(["a"])
    await state.forget("sales", ["u1"])
    await state.claim_due(["sales"], hold=60)
    await state.give_back(["sales"])
    await state.polled("sales", next_poll=0, error=None)
    await state.failures("sales")
    await state.accounts()
    await state.claim("a", "default")
    await state.finish("a", "default", {"a@x": "250"})
    await state.claim("b", "default")
    await state.unclaim("b", "default")
    await state.prune(-DAY)
    await other.close()


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _state_of(pid: int) -> str:
    return _stat(pid)[0]


def _start_of(pid: int) -> str:
    return _stat(pid)[19]
