"""Housekeeping, migration, death and trouble."""

import asyncio

import pytest
from sqlalchemy import create_engine, inspect

from shared.errors import ConfigError, StateUnavailable
from shared.ledger import Claim, LedgerEntry
from shared.state import State, new_owner
from shared.state.leases import LEASE_SECONDS, RENEWAL
from shared.state.schema import METADATA
from tests.clock import ManualClock
from tests.ledger import claim_one, finish_one, unclaim_one
from tests.unit.state.opening import DAY, FRESH, HOUR, Opener, Opening
from tests.unit.state.processes import RECORD, execute, line, rows, started


class Trouble(Opening):
    """What holds on every database when things end or break."""

    async def test_pruning_takes_what_is_old_and_over(
        self, one: State, open_state: Opener, clock: ManualClock
    ) -> None:
        await one.record(
            "sales",
            [LedgerEntry("u1", "listed"), LedgerEntry("u2", "gone"), LedgerEntry(None, "c")],
        )
        await one.forget("sales", ["u2"])
        old = [f"old{number}" for number in range(2103)]
        await asyncio.gather(*(finish_one(one, id_, "default", {"a@x": "250"}) for id_ in old))
        later = await open_state(at=ManualClock(clock.now() + 10 * DAY))
        await later.record("sales", [LedgerEntry(None, "new")])
        await finish_one(later, "id", "default", {"a@x": "250"})
        assert await later.prune(11 * DAY) == 0
        assert await later.prune(5 * DAY) == len(old) + 2
        assert set(await one.seen(["listed", "gone", "c", "new"])) == {"listed", "new"}
        assert await claim_one(one, "id", "default") == Claim(frozenset({"a@x"}), replay=False)
        assert await claim_one(one, "old1", "default") == FRESH
        assert await later.prune(5 * DAY) == 0

    async def test_pruning_takes_claims_that_nobody_came_back_for(
        self, url: str, open_state: Opener, clock: ManualClock
    ) -> None:
        gone = await State.open(url, owner=new_owner(), clock=clock)
        assert await claim_one(gone, "id", "default") == FRESH
        await gone.close()
        here = await open_state(at=ManualClock(clock.now() + DAY))
        await here.prune(2 * DAY)
        assert len(rows(url, "lease")) == 1
        await here.prune(HOUR)
        assert rows(url, "lease") == []

    async def test_what_a_killed_process_was_told_is_durable_is_there(
        self, url: str, open_state: Opener
    ) -> None:
        told: list[str] = []
        for _ in range(3):
            with started(RECORD, url) as process:
                lines = [line(process) for _ in range(40)]
                process.kill()
                # Not communicate(): it passes over what readline() has read ahead.
                while said := line(process):
                    lines.append(said)
            told += [line.decode().strip() for line in lines if line.endswith(b"\n")]
        here = await open_state()
        assert set(await here.seen(told)) == set(told)
        known = {k.id for k in (await here.known("sales")).values()}
        assert known >= set(told)
        claims = await asyncio.gather(*(claim_one(here, id_, "default") for id_ in told))
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
        execute(url, "UPDATE schema_version SET version = 99")
        with pytest.raises(ConfigError, match=r"state\.url: .*schema 99"):
            await State.open(url, owner=new_owner())

    async def test_failures_leave_a_mark_where_a_delivery_went_unrecorded(
        self, url: str, open_state: Opener
    ) -> None:
        """The ledger breaks between a delivery and its record; the next claim is a replay."""
        mine, theirs = ManualClock(), ManualClock()
        one, two = await open_state(at=mine), await open_state(at=theirs)
        assert await claim_one(one, "id", "default") == FRESH
        execute(url, "ALTER TABLE delivered RENAME TO elsewhere")
        with pytest.raises(StateUnavailable):
            await finish_one(one, "id", "default", {"a@x": "250"})
        await unclaim_one(one, "id", "default")
        execute(url, "ALTER TABLE elsewhere RENAME TO delivered")
        assert await claim_one(two, "id", "default") is None
        await mine.advance(RENEWAL)
        assert await one.lease("something that waits for a renewal before it")
        await theirs.advance(LEASE_SECONDS)
        assert await claim_one(two, "id", "default") == Claim(frozenset(), replay=True)
        await unclaim_one(two, "id", "default")
        assert await claim_one(one, "id", "default") == FRESH

    async def test_a_claim_that_failed_can_be_made_again(self, url: str, one: State) -> None:
        execute(url, "ALTER TABLE delivered RENAME TO elsewhere")
        with pytest.raises(StateUnavailable):
            await claim_one(one, "id", "default")
        execute(url, "ALTER TABLE elsewhere RENAME TO delivered")
        assert await claim_one(one, "id", "default") == FRESH
