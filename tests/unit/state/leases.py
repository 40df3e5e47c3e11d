"""Leases: one owner at a time, and none for longer than it lives."""

import asyncio
import signal
import threading

import pytest

from shared.ledger import Claim, DeliveryKey
from shared.state import State, new_owner
from shared.state.leases import LEASE_SECONDS, RENEWAL
from tests.clock import ManualClock
from tests.ledger import claim_one, unclaim_one
from tests.unit.state.opening import ELSEWHERE, FRESH, HOUR, Opener, Opening
from tests.unit.state.processes import HOLD, execute, started


class Leases(Opening):
    """What holds of leases on every database."""

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
        assert await claim_one(one, "id", "default") == FRESH
        asked = (
            unclaim_one(one, "id", "default"),
            claim_one(one, "id", "default"),
            one.release("x"),
            one.lease("x"),
        )
        assert list(await asyncio.gather(*asked)) == [None, FRESH, None, True]
        assert not await two.lease("x")
        assert await claim_one(two, "id", "default") is None

    async def test_a_lease_passes_on_when_its_owner_closes(self, url: str, two: State) -> None:
        one = await State.open(url, owner=new_owner())
        assert await one.lease("x")
        await one.close()
        assert await two.lease("x")

    async def test_an_expired_lease_passes_on(self, open_state: Opener, clock: ManualClock) -> None:
        one = await open_state(at=ManualClock(clock.now()))
        two = await open_state()
        assert await one.lease("x")
        await clock.advance(LEASE_SECONDS - 1)
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
        assert await claim_one(one, "id", "default") == FRESH
        for _ in range(8):
            await mine.advance(RENEWAL)
            await theirs.advance(RENEWAL)
            await one.lease("something that waits for the renewal before it")
            assert not await two.lease("x")
            assert await claim_one(two, "id", "default") is None

    async def test_a_defect_in_one_renewal_ends_no_other(
        self, open_state: Opener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mine, theirs = ManualClock(), ManualClock()
        one, two = await open_state(at=mine), await open_state(at=theirs)
        assert await one.lease("x")
        said: list[str] = []

        def report(what: str, /, **_: object) -> None:
            said.append(what)

        with monkeypatch.context() as broken:
            broken.setattr(one._leases, "_report", report)
            broken.setattr(one._leases, "_renew_once", None)  # raises TypeError
            await mine.advance(RENEWAL)
            await theirs.advance(RENEWAL)
        assert said == ["leases were not renewed; retrying"]
        for _ in range(8):
            await mine.advance(RENEWAL)
            await theirs.advance(RENEWAL)
            await one.lease("something that waits for the renewal before it")
            assert not await two.lease("x")

    async def test_a_claim_is_held_though_a_renewal_came_while_it_was_taken(
        self, open_state: Opener, clock: ManualClock
    ) -> None:
        one = await open_state()
        assert await claim_one(one, "before", "default") == FRESH
        gate = threading.Event()
        one._worker.submit(gate.wait, 30)  # what is asked for now is done together
        busy = asyncio.create_task(one.seen([]))
        await asyncio.sleep(0)
        claiming = asyncio.create_task(claim_one(one, "id", "default"))
        await clock.advance(RENEWAL)
        gate.set()
        assert await claiming == FRESH
        await busy
        await one.lease("something that waits for the renewal before it")
        assert one.holds(DeliveryKey("id", "default"))
        assert one.holds(DeliveryKey("before", "default"))

    async def test_whose_claim_has_run_out_knows_it(self, open_state: Opener) -> None:
        mine, theirs = ManualClock(), ManualClock()
        one, two = await open_state(at=mine), await open_state(at=theirs)
        assert not one.holds(DeliveryKey("id", "default"))
        assert await claim_one(one, "id", "default") == FRESH
        for _ in range(8):
            await mine.advance(RENEWAL)
            await theirs.advance(RENEWAL)
            await one.lease("something that waits for the renewal before it")
            assert one.holds(DeliveryKey("id", "default"))
        await theirs.advance(LEASE_SECONDS)  # and one stands still meanwhile
        assert await claim_one(two, "id", "default") == Claim(frozenset(), replay=True)
        await mine.advance(RENEWAL)
        await one.lease("something that waits for the renewal before it")
        assert two.holds(DeliveryKey("id", "default"))
        assert not one.holds(DeliveryKey("id", "default"))

    async def test_in_a_machine_that_is_suspended_claims_run_out_all_the_same(
        self, open_state: Opener
    ) -> None:
        mine, theirs = ManualClock(), ManualClock()
        one, two = await open_state(at=mine), await open_state(at=theirs)
        delivery = DeliveryKey("id", "default")
        assert await claim_one(one, *delivery) == FRESH
        mine.suspend(LEASE_SECONDS - 1)
        assert one.holds(delivery)
        mine.suspend(1)
        assert mine.monotonic() == 0.0
        assert not one.holds(delivery)
        await mine.advance(RENEWAL)  # nobody was quicker
        await one.lease("something that waits for the renewal before it")
        assert one.holds(delivery)
        mine.suspend(LEASE_SECONDS)
        await theirs.advance(2 * LEASE_SECONDS + RENEWAL)
        assert await claim_one(two, *delivery) == Claim(frozenset(), replay=True)
        await mine.advance(RENEWAL)
        await one.lease("something that waits for the renewal before it")
        assert not one.holds(delivery)

    async def test_in_a_suspended_machine_whose_wall_clock_stood_still_too(
        self, open_state: Opener, clock: ManualClock
    ) -> None:
        one = await open_state()
        delivery = DeliveryKey("id", "default")
        assert await claim_one(one, *delivery) == FRESH
        before = clock.now(), clock.monotonic()
        clock.suspend(LEASE_SECONDS, told=False)
        assert (clock.now(), clock.monotonic()) == before
        assert not one.holds(delivery)

    async def test_a_clock_set_forward_ends_a_claim_for_others_and_so_for_us(
        self, open_state: Opener, clock: ManualClock
    ) -> None:
        one, two = await open_state(), await open_state()
        delivery = DeliveryKey("id", "default")
        assert await claim_one(one, *delivery) == FRESH
        clock.set(HOUR)
        assert not one.holds(delivery)
        assert await claim_one(two, *delivery) == Claim(frozenset(), replay=True)

    async def test_a_clock_set_back_ends_no_claim(
        self, open_state: Opener, clock: ManualClock
    ) -> None:
        one = await open_state()
        delivery = DeliveryKey("id", "default")
        assert await claim_one(one, *delivery) == FRESH
        clock.set(-HOUR)
        assert one.holds(delivery)

    async def test_a_claim_that_is_not_renewed_is_held_until_it_may_have_run_out(
        self, url: str, open_state: Opener
    ) -> None:
        clock = ManualClock()
        one = await open_state(at=clock)
        assert await claim_one(one, "id", "default") == FRESH
        execute(url, "ALTER TABLE lease RENAME TO elsewhere")
        await clock.advance(LEASE_SECONDS - 1)
        assert one.holds(DeliveryKey("id", "default"))
        await clock.advance(1)
        assert not one.holds(DeliveryKey("id", "default"))
        execute(url, "ALTER TABLE elsewhere RENAME TO lease")

    async def test_the_lease_of_a_dead_process_is_free_at_once(
        self, url: str, open_state: Opener
    ) -> None:
        with started(HOLD, url) as process:
            early = ManualClock(0.0)  # its leases run for decades by our clock
            here = await open_state(at=early)
            assert not await here.lease("x")
            process.send_signal(signal.SIGSTOP)
            assert not await here.lease("x")
            process.kill()
            process.wait()
            assert await here.lease("x")
            assert await claim_one(here, "id", "default") == Claim(frozenset({"a@x"}), replay=True)

    async def test_the_lease_of_a_stopped_process_expires(
        self, url: str, open_state: Opener
    ) -> None:
        with started(HOLD, url) as process:
            process.send_signal(signal.SIGSTOP)
            late = await open_state(at=ManualClock(4_000_000_000.0))
            assert await late.lease("x")

    async def test_a_lease_from_another_machine_has_to_expire(self, open_state: Opener) -> None:
        clock = ManualClock()
        far = await open_state(owner=ELSEWHERE.format(99999999), at=ManualClock(clock.now()))
        here = await open_state(at=clock)
        assert await far.lease("x")
        assert not await here.lease("x")
        await clock.advance(LEASE_SECONDS)
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
