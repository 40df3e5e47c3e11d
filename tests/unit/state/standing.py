"""How an account and its server stand: troubles, quirks, maildrops."""

from shared.ledger import AccountStanding as Known
from shared.ledger import LedgerEntry, MessageTrouble, Quirk
from shared.state import State
from shared.state.standing import LARGE
from tests.clock import ManualClock
from tests.unit.state.opening import DAY, HOUR, Opening


class Standing(Opening):
    """What holds of troubles, quirks and maildrops on every database."""

    async def test_nothing_is_known_of_an_account_never_seen(self, one: State) -> None:
        assert await one.recall("a", "s:995") == Known()

    async def test_troubles_are_kept_until_they_are_settled(self, one: State, two: State) -> None:
        first = MessageTrouble("u1", 3, 1, 0.0, "cut")
        again = MessageTrouble("u1", 4, 2, 99.0, "\0 \x1b[2J", "id-1")
        other = MessageTrouble("\\ 7", 7, 1, 0.0, "refused", deletes=True)
        await one.record_troubles("a", [first, other])
        await one.record_troubles("a", [again])
        await one.record_troubles("b", [first])
        assert (await two.recall("a", "s")).troubles == {"u1": again, "\\ 7": other}
        await two.forget_troubles("a", ["u1", "never there"])
        assert (await one.recall("a", "s")).troubles == {"\\ 7": other}
        assert (await one.recall("b", "s")).troubles == {"u1": first}

    async def test_a_quirk_is_known_for_all_accounts_of_a_server_while_it_holds(
        self, one: State, two: State, clock: ManualClock
    ) -> None:
        until = clock.now() + HOUR
        await one.learn("s:995", Quirk("connections", 9, until))
        await two.learn("s:995", Quirk("connections", 4, until))
        await one.learn("t:995", Quirk("no_pipelining", 1, until))
        for account in ("a", "b"):
            known = await two.recall(account, "s:995")
            assert known.quirks == {"connections": Quirk("connections", 4, until)}
        await clock.advance(HOUR)
        assert (await one.recall("a", "s:995")).quirks == {}

    async def test_a_quirk_of_a_maildrop_is_known_for_its_account_there_alone(
        self, one: State, two: State, clock: ManualClock
    ) -> None:
        quirk = Quirk("no_uidl", 1, clock.now() + HOUR)
        await one.learn("s:995", quirk, "a")
        known = await two.recall("a", "s:995")
        assert (known.quirks, known.own) == ({}, {"no_uidl": quirk})
        assert await two.recall("b", "s:995") == Known()
        assert (await two.recall("a", "t:995")).own == {}

    async def test_whether_much_is_recorded_is_known(self, one: State) -> None:
        await one.record("a", [LedgerEntry(f"u{n}", "id") for n in range(LARGE)])
        assert not (await one.recall("a", "s")).large
        await one.record("a", [LedgerEntry("one more", "id")])
        assert (await one.recall("a", "s")).large
        assert not (await one.recall("b", "s")).large

    async def test_who_else_has_had_the_maildrop_is_told(self, one: State) -> None:
        assert await one.move_in("old", "x@s") == []
        assert await one.move_in("other", "y@s") == []
        assert await one.move_in("new", "x@s") == ["old"]
        assert (await one.recall("new", "s")).maildrop == "x@s"
        await one.record_poll("old", next_poll=0, error=None)
        assert (await one.recall("old", "s")).maildrop == "x@s"

    async def test_a_refused_password_and_a_wait_are_known_to_the_next_poll(
        self, one: State
    ) -> None:
        await one.record_poll("a", next_poll=0, error="wrong", refused="hash", retry_at=7.0)
        known = await one.recall("a", "s")
        assert (known.failures, known.refused, known.retry_at) == (1, "hash", 7.0)
        await one.record_poll("a", next_poll=0, error=None, login_after=9.0)
        known = await one.recall("a", "s")
        assert (known.refused, known.retry_at, known.login_after) == (None, 0.0, 9.0)

    async def test_what_does_not_hold_any_more_is_pruned(
        self, one: State, clock: ManualClock
    ) -> None:
        now = clock.now()
        await one.learn("s", Quirk("no_pipelining", 1, now + DAY))
        await one.learn("t", Quirk("written by a clock far ahead", 1, now + 1000 * DAY))
        await one.record_troubles("a", [MessageTrouble("u1", 1, 3, now + DAY, "cut")])
        await one.prune(90 * DAY)
        assert set((await one.recall("a", "s")).quirks) == {"no_pipelining"}
        assert (await one.recall("a", "t")).quirks == {}
        clock.set(92 * DAY)
        await one.prune(90 * DAY)
        assert (await one.recall("a", "s")).troubles == {}
