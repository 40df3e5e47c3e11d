"""The schedule: every account in time, and to one scheduler only."""

import asyncio

from shared.ledger import ADOPT, LedgerEntry
from shared.state import ENROL_EVERY, State
from tests.clock import ManualClock
from tests.unit.state.opening import DAY, HOUR, Opener, Opening
from tests.unit.state.processes import execute


class Schedule(Opening):
    """What holds of the schedule on every database."""

    async def test_an_account_is_due_at_first_and_then_on_time(
        self, one: State, clock: ManualClock
    ) -> None:
        assert await one.claim_due(["a", "b"], hold=HOUR) == ["a", "b"]
        assert await one.claim_due(["a", "b"], hold=HOUR) == []
        assert await one.record_poll("a", next_poll=clock.now() + 300, error=None) == 0
        assert await one.claim_due(["a", "b"], hold=HOUR) == []
        await clock.advance(299)
        assert await one.claim_due(["a", "b"], hold=HOUR) == []
        await clock.advance(1)
        assert await one.claim_due(["b"], hold=HOUR) == []
        assert await one.claim_due(["a", "b", "c"], hold=HOUR) == ["a", "c"]

    async def test_an_account_never_seen_before_may_have_to_wait_for_its_first_poll(
        self, one: State, two: State, clock: ManualClock
    ) -> None:
        assert await one.claim_due(["a", "b"], hold=HOUR, first={"b": 60.0}) == ["a"]
        await clock.advance(59)
        assert await two.claim_due(["a", "b"], hold=HOUR, first={"b": 900.0}) == []
        await clock.advance(1)
        assert await two.claim_due(["a", "b"], hold=HOUR) == ["b"]

    async def test_an_account_put_off_is_due_then_and_stands_as_it_did(
        self, one: State, clock: ManualClock
    ) -> None:
        await one.record_poll("a", next_poll=0, error="gone")
        assert await one.claim_due(["a"], hold=HOUR) == ["a"]
        before = (await one.accounts())["a"]
        await one.put_off("a", until=clock.now() + 60)
        after = (await one.accounts())["a"]
        assert (after.failures, after.last_error) == (before.failures, before.last_error)
        await clock.advance(59)
        assert await one.claim_due(["a"], hold=HOUR) == []
        await clock.advance(1)
        assert await one.claim_due(["a"], hold=HOUR) == ["a"]

    async def test_what_a_poll_left_undone_is_known_until_the_next_one_that_ends_well(
        self, one: State
    ) -> None:
        await one.record_poll("a", next_poll=0, error=None, undone="one message")
        await one.record_poll("a", next_poll=0, error="gone")
        assert (await one.accounts())["a"].undone == "one message"
        await one.record_poll("a", next_poll=0, error=None)
        assert (await one.accounts())["a"].undone is None

    async def test_an_account_whose_poll_job_was_lost_is_due_after_the_hold(
        self, one: State, clock: ManualClock
    ) -> None:
        assert await one.claim_due(["a"], hold=60) == ["a"]
        await clock.advance(59)
        assert await one.claim_due(["a"], hold=60) == []
        await clock.advance(1)
        assert await one.claim_due(["a"], hold=60) == ["a"]

    async def test_an_account_whose_poll_job_is_queued_is_held_for_longer(
        self, one: State, two: State, clock: ManualClock
    ) -> None:
        assert await one.claim_due(["a", "b"], hold=10) == ["a", "b"]
        await one.hold_queued(["a"], hold=HOUR)
        await clock.advance(10)
        assert await two.claim_due(["a", "b"], hold=HOUR) == ["b"]
        await clock.advance(HOUR - 10)
        assert await two.claim_due(["a"], hold=HOUR) == ["a"]

    async def test_an_account_that_was_polled_at_once_is_not_held(
        self, one: State, two: State, clock: ManualClock
    ) -> None:
        assert await one.claim_due(["a"], hold=10) == ["a"]
        await two.record_poll("a", next_poll=clock.now() + 1, error=None)
        await one.hold_queued(["a"], hold=HOUR)
        await clock.advance(1)
        assert await one.claim_due(["a"], hold=10) == ["a"]

    async def test_accounts_given_back_are_due_at_once(self, one: State, two: State) -> None:
        assert await one.claim_due(["a", "b"], hold=60) == ["a", "b"]
        await one.give_back(["a"])
        assert await two.claim_due(["a", "b"], hold=60) == ["a"]

    async def test_schedulers_never_get_the_same_account(self, one: State, two: State) -> None:
        names = [f"account{n}" for n in range(500)]
        asked = [state.claim_due(names, hold=60) for state in (one, two, one, two)]
        got = await asyncio.gather(*asked)
        assert sorted(name for names in got for name in names) == sorted(names)

    async def test_others_are_not_asked_about_however_many_are_due(
        self, one: State, two: State, clock: ManualClock
    ) -> None:
        """More strangers than ours are due: from then on it is asked by name."""
        others = [f"other{n}" for n in range(20)]
        assert set(await two.claim_due(others, hold=1)) == set(others)
        await clock.advance(2)
        assert await one.claim_due(["a", "b"], hold=HOUR) == ["a", "b"]
        await one.record_poll("a", next_poll=clock.now() + 10, error=None)
        assert await one.claim_due(["a", "b"], hold=HOUR) == []
        await clock.advance(10)
        assert await one.claim_due(["a", "b", "new"], hold=HOUR) == ["a", "new"]
        assert set(await two.claim_due(others, hold=1)) == set(others)
        await clock.advance(HOUR)
        assert await one.claim_due(["a", "b", "new"], hold=HOUR) == ["a", "b", "new"]

    async def test_an_account_whose_row_is_lost_is_due_within_the_hour(
        self, url: str, one: State, clock: ManualClock
    ) -> None:
        assert await one.claim_due(["a"], hold=60) == ["a"]
        execute(url, "DELETE FROM account")
        await clock.advance(ENROL_EVERY)
        assert await one.claim_due(["a"], hold=60) == ["a"]

    async def test_an_account_is_released_that_is_ours_and_that_nobody_polls(
        self, one: State, two: State, clock: ManualClock
    ) -> None:
        names = ["a", "late", "later", "polled"]
        assert await two.claim_due([*names, "theirs"], hold=HOUR) == [*names, "theirs"]
        await two.record_poll("later", next_poll=clock.now() + HOUR, error=None)
        assert await two.lease("account:polled")
        assert await one.release_lost(names, age=100) == []
        await clock.advance(101)
        await two.hold_queued(["late"], hold=HOUR)
        assert await two.lease("account:polled")
        assert await one.release_lost(names, age=100) == ["a"]
        assert await one.release_lost(names, age=100) == []
        assert await one.claim_due([*names, "theirs"], hold=HOUR) == ["a"]
        await two.release("account:polled")
        await clock.advance(101)
        assert await one.release_lost(names, age=100) == ["a", "late", "polled"]

    async def test_how_an_account_stands_is_forgotten_when_nobody_has_it_any_more(
        self, one: State, open_state: Opener, clock: ManualClock
    ) -> None:
        """What was fetched of it is not: it may come back, and its mail is here."""
        start = clock.now()
        await one.claim_due(["ours", "theirs", "gone", "waits"], hold=60)
        for name in ("ours", "theirs", "gone"):
            await one.record_poll(name, next_poll=start + 300, error="no")
        await one.record_poll("waits", next_poll=start + 31 * DAY, error="no")
        await one.record("gone", [LedgerEntry("u1", "id")])
        soon = await open_state(at=ManualClock(start + 29 * DAY))
        assert await soon.prune_accounts(["ours"], age=30 * DAY) == 0
        await soon.record_poll("theirs", next_poll=start + 30 * DAY, error=None)
        later = await open_state(at=ManualClock(start + 30 * DAY + 301))
        assert await later.prune_accounts(["ours"], age=30 * DAY) == 1
        assert set(await one.accounts()) == {"ours", "theirs", "waits"}
        await later.prune(90 * DAY)
        assert set(await one.known("gone")) == {"u1"}
        assert set(await one.seen(["id"])) == {"id"}
        assert await later.claim_due(["gone"], hold=60) == ["gone"]

    async def test_that_an_account_is_held_and_what_was_chosen_for_it_is_never_forgotten(
        self, one: State, open_state: Opener, clock: ManualClock
    ) -> None:
        """It may be disabled for long: its mail would come twice, or not at all."""
        await one.hold(["held", "chosen"], "why")
        await one.choose(["chosen"], ADOPT)
        await one.choose(["everybody else"], ADOPT, ends=True)
        later = await open_state(at=ManualClock(clock.now() + 400 * DAY))
        assert await later.prune_accounts([], age=30 * DAY) == 0
        assert (await later.recall("held", "s")).held == "why"
        assert (await later.recall("chosen", "s")).choice == ADOPT

    async def test_a_paused_account_is_due_for_nobody_until_its_time(
        self, one: State, two: State, clock: ManualClock
    ) -> None:
        await one.pause(["a"], until=clock.now() + 600)
        assert await two.claim_due(["a", "b"], hold=1) == ["b"]
        standing = await two.recall("a", "pop:995")
        assert standing.paused_until == clock.now() + 600
        await clock.advance(601)
        assert await two.claim_due(["a"], hold=1) == ["a"]

    async def test_a_resumed_account_is_due_at_once(
        self, one: State, two: State, clock: ManualClock
    ) -> None:
        await one.record_poll("a", next_poll=clock.now() + 3_600, error=None)
        await one.pause(["a"], until=1e11)
        assert await two.claim_due(["a"], hold=1) == []
        await one.pause(["a"], until=None)
        assert await two.claim_due(["a"], hold=1) == ["a"]

    async def test_fetch_now_forgets_what_an_account_waits_for(
        self, one: State, two: State, clock: ManualClock
    ) -> None:
        later = clock.now() + 3_600
        await one.record_poll("a", next_poll=later, error="no", refused="hash", retry_at=later)
        await two.fetch_now(["a", "new"])
        assert await one.claim_due(["a", "new"], hold=1) == ["a", "new"]
        standing = await one.recall("a", "pop:995")
        assert (standing.refused, standing.retry_at, standing.failures) == (None, 0.0, 1)

    async def test_a_shorter_pause_takes_the_place_of_a_longer_one(
        self, one: State, two: State, clock: ManualClock
    ) -> None:
        await one.pause(["a"], until=1e11)
        await one.put_off("a", until=clock.now() + 86_400)  # by a job that was queued before
        await two.pause(["a"], until=clock.now() + 600)
        await clock.advance(601)
        assert await two.claim_due(["a"], hold=1) == ["a"]

    async def test_who_is_not_known_yet_stays_held_whatever_is_asked_of_its_schedule(
        self, one: State, two: State, clock: ManualClock
    ) -> None:
        """As after a backup was put back: what it does not know of may have been delivered."""
        await one.hold(["a"], "it is older than the queues")
        await two.fetch_now(["now"])
        await two.pause(["resumed"], until=None)
        await two.pause(["paused"], until=clock.now())
        await clock.advance(1)
        names = ["a", "now", "paused", "resumed"]
        assert await one.claim_due(names, hold=1) == []
        assert {(await one.accounts())[name].held for name in names} == {
            "it is older than the queues"
        }

    async def test_failures_are_counted_until_a_poll_succeeds(
        self, one: State, two: State, clock: ManualClock
    ) -> None:
        start = clock.now()
        assert (await one.recall("a", "s")).failures == 0
        assert await one.record_poll("a", next_poll=start + 1, error=None) == 0
        await clock.advance(10)
        assert await one.record_poll("a", next_poll=start + 20, error="gone\x1b[2J") == 1
        assert await two.record_poll("a", next_poll=start + 40, error="wrong password") == 2
        assert (await one.recall("a", "s")).failures == 2
        state = (await one.accounts())["a"]
        assert (state.failures, state.last_ok, state.last_error) == (2, start, "wrong password")
        assert state.next_poll == start + 40
        assert await one.record_poll("a", next_poll=start + 60, error=None) == 0
        state = (await two.accounts())["a"]
        assert (state.failures, state.last_ok, state.last_error) == (0, start + 10, None)
        assert state.queued_until == 0

    async def test_failures_are_counted_from_the_beginning_where_a_poll_gets_on(
        self, one: State, clock: ManualClock
    ) -> None:
        at = clock.now() + 1
        for failures in (1, 2, 3):
            assert await one.record_poll("a", next_poll=at, error="broke") == failures
            await one.record_poll("b", next_poll=at, error="broke")
        assert await one.record_poll("a", next_poll=at, error="broke", progress=True) == 1
        assert await one.record_poll("new", next_poll=at, error="broke", progress=True) == 1
        assert await one.record_poll("a", next_poll=at, error="broke") == 2
        assert (await one.recall("b", "s")).failures == 3

    async def test_a_clock_set_back_an_hour_stalls_no_account(self, open_state: Opener) -> None:
        clock = ManualClock()
        ahead = await open_state(at=ManualClock(clock.now() + HOUR))
        here = await open_state(at=clock)
        assert await ahead.claim_due(["polled", "queued"], hold=1800) == ["polled", "queued"]
        await ahead.record_poll("polled", next_poll=clock.now() + HOUR + 300, error=None)
        assert await here.claim_due(["polled", "queued"], hold=1800) == ["polled", "queued"]
        assert await here.claim_due(["polled", "queued"], hold=1800) == []
