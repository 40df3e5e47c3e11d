"""What the operator chooses for accounts, and what the database says of itself."""

from shared.ledger import ADOPT, ADOPTED, FETCH_AGAIN, SKIP, SKIPPED, UNDELIVERED, LedgerEntry
from shared.state import State
from shared.state.installation import InstallationRecord, Question
from tests.clock import ManualClock
from tests.ledger import claim_one, finish_one
from tests.unit.state.opening import DAY, HOUR, Opening


class Choices(Opening):
    """What holds of choices on every database."""

    async def test_a_database_gets_on_and_keeps_its_name(self, one: State, two: State) -> None:
        nothing = InstallationRecord(None, used=False, asked=None, marked=None, chosen=False)
        assert await one.installation() == nothing
        first = await one.advance()
        second = await two.advance()
        assert (second.state, first.number, second.number) == (first.state, 1, 2)
        assert (await one.advance(beyond=70)).number == 71
        assert (await one.advance(beyond=5)).number == 72
        last = await one.advance()
        assert (await two.installation()).own == last

    async def test_whose_queues_these_are_is_answered_by_a_choice(
        self, one: State, two: State
    ) -> None:
        assert await one.question() == Question(None, None, chosen=False)
        await two.choose(["a"], ADOPT)
        assert await one.question() == Question(None, None, chosen=True)
        await one.hold(["a", "b"], "it is new\0")
        await one.record_asked("these marks")
        found = await two.question()
        assert found is not None
        assert (found.asked, found.chosen) == ("these marks", True), "it was chosen before"
        own = (await one.advance()).state
        assert await two.question() == Question(own, None, chosen=True)

    async def test_while_all_are_held_nothing_is_chosen(self, one: State, two: State) -> None:
        await one.hold(["a", "b"], "it is new\0")
        await one.enrol(["c"])
        asked = await two.question()
        assert asked is not None and not asked.chosen
        await two.choose(["b"], ADOPT)
        asked = await one.question()
        assert asked is not None and asked.chosen

    async def test_a_choice_for_all_where_there_is_no_account(self, one: State) -> None:
        await one.hold([], "it is new")
        asked = await one.question()
        assert asked is not None and not asked.chosen
        await one.choose([], ADOPT, ends=True)
        asked = await one.question()
        assert asked is not None and asked.chosen

    async def test_what_was_asked_stands_until_it_gets_on(self, one: State, two: State) -> None:
        await one.record_asked("these marks")
        found = await two.installation()
        assert (found.asked, found.own and found.own.number) == ("these marks", 0)
        await one.advance()
        await one.record_marked("queues")
        found = await two.installation()
        assert (found.asked, found.marked, found.own and found.own.number) == (None, "queues", 1)

    async def test_a_database_that_knows_of_mail_is_used(self, one: State) -> None:
        assert not (await one.installation()).used
        await one.record("a", [LedgerEntry(None, "i1")])
        assert (await one.installation()).used

    async def test_a_database_that_has_polled_is_used(self, one: State) -> None:
        await one.record_poll("a", next_poll=1.0, error="no")
        assert not (await one.installation()).used
        await one.record_poll("a", next_poll=1.0, error=None)
        assert (await one.installation()).used

    async def test_a_held_account_is_not_due_before_there_is_a_choice(
        self, one: State, two: State, clock: ManualClock
    ) -> None:
        await one.claim_due(["a", "b"], hold=1)
        await clock.advance(2)
        await one.hold(["a", "new"], "it is new\0")
        assert await one.count_held(["a", "b", "new"]) == 3
        assert not (await one.installation()).chosen
        assert await two.claim_due(["a", "b", "new"], hold=1) == []
        standing = await two.recall("a", "s")
        assert (standing.held, standing.choice) == ("it is new\0", None)
        await two.choose(["a"], ADOPT)
        await one.hold(["a"], "it is new, still")
        assert (await one.installation()).chosen
        assert await one.count_held(["a", "b", "new"]) == 2
        assert await two.claim_due(["a", "new"], hold=1) == ["a"]
        assert (await one.recall("a", "s")).choice == ADOPT
        assert (await one.accounts())["a"].choice == ADOPT

    async def test_once_doubted_accounts_that_are_not_known_are_held(
        self, one: State, two: State
    ) -> None:
        await one.claim_due(["old"], hold=1)
        await one.hold(["a"], "it is new\0")
        await two.enrol(["a", "b"])
        assert await two.count_held(["old", "a", "b", "c"]) == 3
        assert await two.claim_due(["b", "c"], hold=1) == []
        await one.choose(["a"], ADOPT)
        for name in ("old", "b", "c", "d"):
            assert (await two.recall(name, "s")).held == "it is new\0"
        await one.choose(["a", "b"], ADOPT, ends=True)
        assert (await two.recall("d", "s")).held is None
        assert await one.count_held(["old", "a", "b", "c", "d"]) == 2  # they were there before

    async def test_a_choice_for_an_account_never_seen(self, one: State, two: State) -> None:
        await one.choose(["never seen"], UNDELIVERED)
        assert (await two.recall("never seen", "s")).choice == UNDELIVERED
        assert await two.claim_due(["never seen"], hold=1) == ["never seen"]

    async def test_what_is_adopted_is_known_and_has_no_identity(
        self, one: State, two: State
    ) -> None:
        await one.record("a", [LedgerEntry("u1", "i1", 5)])
        await one.hold(["a"], "why")
        await one.choose(["a"], ADOPT)
        await one.adopt("a", {"u1": 5, "u2": 7, "\0": None}, choice=None)
        known = await two.known("a")
        assert {uidl: (k.id, k.size) for uidl, k in known.items()} == {
            "u1": ("i1", 5),
            "u2": (ADOPTED, 7),
            "\0": (ADOPTED, None),
        }
        assert (await two.recall("a", "s")).choice == ADOPT
        await one.adopt("a", {}, choice=ADOPT)
        standing = await two.recall("a", "s")
        assert (standing.held, standing.choice) == (None, None)
        await one.record("a", [LedgerEntry("u2", "i2", 7)])
        assert (await two.known("a"))["u2"].id == "i2"

    async def test_what_is_skipped_is_known_and_takes_the_place_of_what_was(
        self, one: State, two: State
    ) -> None:
        await one.record("a", [LedgerEntry("u1", "i1", 5, "head")])
        await one.choose(["a"], SKIP)
        await one.skip("a", {"u1": 6, "u2": 7, "\0": None}, choice=None)
        known = await two.known("a")
        assert {uidl: (k.id, k.size) for uidl, k in known.items()} == {
            "u1": (SKIPPED, 6),
            "u2": (SKIPPED, 7),
            "\0": (SKIPPED, None),
        }
        assert await two.heads("a", ["u1"]) == {}
        assert (await two.recall("a", "s")).choice == SKIP
        await one.skip("a", {}, choice=SKIP)
        assert (await two.recall("a", "s")).choice is None

    async def test_what_is_there_is_skipped_where_nothing_is_recorded(
        self, one: State, two: State
    ) -> None:
        await one.record("a", [LedgerEntry("u1", "i1")])
        await one.record("b", [LedgerEntry(None, "i2")])
        assert [await one.skip_if_new(name) for name in "abc"] == [False, False, True]
        standing = [await two.recall(name, "s") for name in "abc"]
        assert [(s.choice, s.polled) for s in standing] == [
            (None, False),
            (None, False),
            (SKIP, False),
        ]
        await two.record_poll("c", next_poll=0.0, error=None)
        assert (await one.recall("c", "s")).polled

    async def test_a_choice_that_has_been_changed_meanwhile_stands(self, one: State) -> None:
        await one.choose(["a"], FETCH_AGAIN)
        await one.adopt("a", {}, choice=ADOPT)
        assert (await one.recall("a", "s")).choice == FETCH_AGAIN

    async def test_all_of_an_account_is_forgotten(self, one: State, two: State) -> None:
        for account in ("a", "b"):
            await one.record(
                account, [LedgerEntry("u1", f"{account}1"), LedgerEntry(None, f"{account}2")]
            )
            for n in (1, 2):
                await claim_one(one, f"{account}{n}", "default")
                await finish_one(one, f"{account}{n}", "default", {"x@y": "250"})
        await one.choose(["a"], FETCH_AGAIN)
        assert await one.fetch_again("a", FETCH_AGAIN, since=None) == 1
        assert await two.known("a") == {}
        assert list(await two.seen(["a1", "a2", "b1", "b2"])) == ["b1", "b2"]
        claim = await claim_one(two, "a1", "default")
        assert claim is not None
        assert claim.delivered == frozenset()
        claim = await claim_one(two, "b1", "default")
        assert claim is not None
        assert claim.delivered == {"x@y"}
        assert (await one.recall("a", "s")).choice is None

    async def test_what_was_never_delivered_is_forgotten(
        self, one: State, two: State, clock: ManualClock
    ) -> None:
        """But for what is older than the ledger of deliveries goes back, and what is adopted."""
        await one.record("a", [LedgerEntry("u0", "old")])
        clock.set(90 * DAY)  # in which nothing wakes: renewals would be three million
        now = clock.now()
        await one.record("a", [LedgerEntry(f"u{n}", f"i{n}") for n in (1, 2, 3)])
        await one.record("a", [LedgerEntry(None, "unnamed")])
        await one.record("b", [LedgerEntry("u1", "other")])
        await claim_one(one, "i1", "default")
        await finish_one(one, "i1", "default", {"x@y": "250"})
        await one.count_as_delivered(["i3", "i3"])
        await one.choose(["a"], UNDELIVERED)
        assert await one.fetch_again("a", UNDELIVERED, since=now - HOUR) == 2
        assert list(await two.known("a")) == ["u0", "u1", "u3"]
        assert set(await two.seen(["old", "i1", "i2", "i3", "unnamed", "other"])) == {
            "old",
            "i1",
            "i3",
            "other",
        }
        assert (await one.recall("a", "s")).choice is None
