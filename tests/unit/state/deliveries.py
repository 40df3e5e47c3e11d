"""Claims and the ledger of deliveries: never twice where that can be avoided."""

import asyncio
import json

from shared.ledger import Claim
from shared.state import State, new_owner
from shared.state.leases import LEASE_SECONDS
from tests.clock import ManualClock
from tests.ledger import claim_one, finish_one, unclaim_one
from tests.unit.state.opening import FRESH, Opener, Opening
from tests.unit.state.processes import RACE, line, rows, started


class Deliveries(Opening):
    """What holds of claims on every database."""

    async def test_a_claim_is_exclusive_and_tells_what_is_delivered(
        self, one: State, two: State
    ) -> None:
        assert await claim_one(one, "id", "default") == FRESH
        assert await claim_one(one, "id", "default") is None
        assert await claim_one(two, "id", "default") is None
        assert await claim_one(two, "id", "archive") == FRESH
        assert await claim_one(two, "id2", "default") == FRESH
        await finish_one(one, "id", "default", {"a@x": "250 ok", "b@x": "250 ok"})
        assert await claim_one(two, "id", "default") == Claim(
            frozenset({"a@x", "b@x"}), replay=False
        )
        await finish_one(two, "id", "default", {"a@x": "250 again", "c@x": "250 ok"})
        assert await claim_one(one, "id", "default") == Claim(
            frozenset({"a@x", "b@x", "c@x"}), replay=False
        )

    async def test_the_first_receipt_of_a_recipient_is_kept(self, url: str, one: State) -> None:
        await finish_one(one, "id", "default", {"a@x": "250 first"})
        await finish_one(one, "id", "default", {"a@x": "250 second"})
        assert [row.receipt for row in rows(url, "delivered")] == ["250 first"]

    async def test_a_claim_given_back_leaves_no_trace(self, one: State, two: State) -> None:
        assert await claim_one(one, "id", "default") == FRESH
        await unclaim_one(one, "id", "default")
        assert await claim_one(two, "id", "default") == FRESH

    async def test_finishing_with_no_recipient_drops_the_claim(
        self, one: State, two: State
    ) -> None:
        assert await claim_one(one, "id", "default") == FRESH
        await finish_one(one, "id", "default", {})
        assert await claim_one(two, "id", "default") == FRESH

    async def test_a_claim_taken_over_is_a_replay(self, open_state: Opener) -> None:
        clock = ManualClock()
        one = await open_state(at=ManualClock(clock.now()))
        two = await open_state(at=clock)
        assert await claim_one(one, "id", "default") == FRESH
        await clock.advance(LEASE_SECONDS)
        assert await claim_one(two, "id", "default") == Claim(frozenset(), replay=True)
        await unclaim_one(one, "id", "default")
        assert await claim_one(one, "id", "default") is None
        await finish_one(two, "id", "default", {"a@x": "250"})
        assert await claim_one(one, "id", "default") == Claim(frozenset({"a@x"}), replay=False)

    async def test_a_claim_still_held_at_the_end_is_a_replay(self, url: str, two: State) -> None:
        one = await State.open(url, owner=new_owner())
        assert await claim_one(one, "id", "default") == FRESH
        await one.close()
        assert await claim_one(two, "id", "default") == Claim(frozenset(), replay=True)

    async def test_hundreds_of_claims_in_one_transaction(self, one: State, two: State) -> None:
        ids = [f"{n:064x}" for n in range(2500)]
        claims = await asyncio.gather(*(claim_one(one, id_, "default") for id_ in ids))
        assert set(claims) == {FRESH}
        assert set(await asyncio.gather(*(claim_one(two, i, "default") for i in ids))) == {None}
        await asyncio.gather(*(finish_one(one, i, "default", {f"{i}@x": "250"}) for i in ids))
        claims = await asyncio.gather(*(claim_one(two, id_, "default") for id_ in ids))
        assert claims == [Claim(frozenset({f"{id_}@x"}), replay=False) for id_ in ids]

    async def test_of_two_processes_that_claim_exactly_one_wins(self, url: str) -> None:
        with started(RACE, url) as first, started(RACE, url) as second:
            for process in (first, second):
                assert process.stdin is not None
                process.stdin.write(b"go\n")
                process.stdin.flush()
            won = [json.loads(line(process)) for process in (first, second)]
        assert not set(won[0]) & set(won[1])
        assert sorted(won[0] + won[1]) == sorted(f"{n:064x}" for n in range(300))
