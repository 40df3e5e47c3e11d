"""The housekeeping, with a real ledger on SQLite and a real spool."""

import asyncio
import contextlib
import math
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from services.fetcher.housekeeping import AGAIN, DAY, EVERY, FIRST, LEASE_NAME, Housekeeping
from shared.ledger import LedgerEntry, safe_age
from shared.spool import Spool
from shared.state import State, new_owner
from tests.clock import ManualClock
from tests.contract.messages import eventually
from tests.ledger import claim_one, finish_one

KEY = "0123456789abcdef"


class Journal:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[dict[str, object]] = []
        self.troubles: list[str] = []

    def note(self, _: str, /, **about: object) -> None:
        self.notes.append(about)

    def trouble(self, what: str, /, **_: object) -> None:
        self.troubles.append(what)


Opener = Callable[..., Awaitable[State]]


@pytest.fixture
async def open_state(tmp_path: Path) -> AsyncIterator[Opener]:
    """Open the same ledger at some day, in a process of its own as it seems."""
    start = ManualClock().now()
    async with contextlib.AsyncExitStack() as stack:

        async def opener(day: float, patience: float = 5.0) -> State:
            at = ManualClock(start + day * DAY)
            url = f"sqlite:///{tmp_path / 'state.db'}"
            state = await State.open(url, owner=new_owner(), clock=at, patience=patience)
            stack.push_async_callback(state.close)
            return state

        yield opener


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(str(tmp_path / "spool"))


def upkeep(
    state: State, spool: Spool, journal: Journal, clock: ManualClock, age: float = 90 * DAY
) -> Housekeeping:
    return Housekeeping(["sales"], state, spool, journal.note, journal.trouble, clock, age)


async def test_what_is_over_is_forgotten_and_what_a_maildrop_holds_is_not(
    open_state: Opener, spool: Spool, journal: Journal, clock: ManualClock
) -> None:
    then, today = await open_state(0), await open_state(91)
    await then.record(
        "sales", [LedgerEntry("u1", "listed"), LedgerEntry("u2", "gone"), LedgerEntry(None, "bare")]
    )
    await then.record("sales", [LedgerEntry(None, "staying")])
    await then.forget("sales", ["u2"])
    await finish_one(then, "gone", "default", {"a@x": "250"})
    # A server without UIDLs: its messages are seen again by their content, poll after poll.
    await (await open_state(30)).record("sales", [LedgerEntry(None, "staying")])
    await today.record("sales", [LedgerEntry("u3", "new")])
    await finish_one(today, "new", "default", {"a@x": "250"})

    assert await upkeep(today, spool, journal, clock).once()

    seen = set(await today.seen(["listed", "gone", "bare", "staying", "new"]))
    assert seen == {"listed", "staying", "new"}
    assert (await claim_one(today, "gone", "default")) is not None
    claim = await claim_one(today, "new", "default")
    assert claim is not None
    assert claim.delivered == {"a@x"}
    assert journal.notes == [{"rows": 3, "older_than_days": 90}]
    assert journal.troubles == []


async def test_how_accounts_stand_that_nobody_has_any_more_is_forgotten(
    open_state: Opener, spool: Spool, journal: Journal, clock: ManualClock
) -> None:
    then, today = await open_state(0), await open_state(31)
    await then.claim_due(["sales", "removed"], hold=60)
    await upkeep(await open_state(1), spool, journal, clock).once()
    assert set(await today.accounts()) == {"sales", "removed"}
    assert await upkeep(today, spool, journal, clock).once()
    assert set(await today.accounts()) == {"sales"}


async def test_the_spool_loses_what_was_never_finished_and_no_blob(
    open_state: Opener, spool: Spool, journal: Journal, clock: ManualClock, tmp_path: Path
) -> None:
    done = await spool.create()
    await done.write(b"kept")
    await done.commit(KEY)
    blob = tmp_path / "spool" / KEY[:2] / KEY[2:]
    old, fresh = await spool.create(), await spool.create()
    await old.write(b"x" * 300_000)
    (draft,) = (tmp_path / "spool/tmp").iterdir()
    await fresh.write(b"x" * 300_000)
    for path in (blob, draft):
        os.utime(path, (0, 0))

    assert await upkeep(await open_state(0), spool, journal, clock).once()

    assert blob.exists()
    assert not draft.exists()
    await fresh.commit("another")


async def test_it_is_done_an_hour_after_the_start_and_then_once_a_day(
    open_state: Opener, spool: Spool, journal: Journal, clock: ManualClock
) -> None:
    state = await open_state(0)
    running = asyncio.create_task(upkeep(state, spool, journal, clock).run(asyncio.Event()))
    for count, wait in ((1, FIRST), (2, EVERY), (3, EVERY)):
        await _asleep(clock)
        await clock.advance(wait - 1)
        assert len(journal.notes) == count - 1
        await clock.advance(1)

        async def done(count: int = count) -> bool:
            return len(journal.notes) == count

        await eventually(done, f"housekeeping number {count}")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def _asleep(clock: ManualClock) -> None:
    async def true() -> bool:
        return bool(clock._sleepers)

    await eventually(true, "the housekeeping to sleep")


async def test_of_several_fetchers_one_at_a_time_goes_through_the_ledgers(
    open_state: Opener, spool: Spool, journal: Journal, clock: ManualClock
) -> None:
    here, there = await open_state(0), await open_state(0)
    assert await there.lease(LEASE_NAME)
    assert await upkeep(here, spool, journal, clock).once()
    assert journal.notes == []
    await there.release(LEASE_NAME)
    assert await upkeep(here, spool, journal, clock).once()
    assert len(journal.notes) == 1
    assert await there.lease(LEASE_NAME)


async def test_a_database_that_is_away_is_trouble_and_asked_again_in_an_hour(
    open_state: Opener, spool: Spool, journal: Journal, clock: ManualClock, tmp_path: Path
) -> None:
    state = await open_state(0, patience=0.05)
    running = asyncio.create_task(upkeep(state, spool, journal, clock).run(asyncio.Event()))
    await _asleep(clock)
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        await clock.advance(FIRST)

        async def troubled() -> bool:
            return bool(journal.troubles)

        await eventually(troubled, "the trouble to be told")
    assert journal.troubles == ["the ledgers could not be pruned"]
    await _asleep(clock)
    await clock.advance(AGAIN)

    async def done() -> bool:
        return bool(journal.notes)

    await eventually(done, "another try")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_spool_that_is_away_is_trouble_and_keeps_nothing_else(
    open_state: Opener, journal: Journal, clock: ManualClock, tmp_path: Path
) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool/tmp").mkdir()
    litter = tmp_path / "spool/tmp/litter"
    litter.mkdir()  # unlink refuses it
    os.utime(litter, (0, 0))
    done = upkeep(await open_state(0), Spool(str(tmp_path / "spool")), journal, clock)
    assert not await done.once()
    assert journal.troubles == ["unfinished blobs could not be discarded"]
    assert len(journal.notes) == 1


@pytest.mark.parametrize(
    ("give_up_after", "days"), [(DAY, 90), (30 * DAY, 90), (31 * DAY, 93), (365 * DAY, 1095)]
)
def test_the_ledgers_go_back_further_than_a_message_is_retried(
    give_up_after: float, days: int
) -> None:
    assert math.isclose(safe_age(give_up_after), days * DAY)
