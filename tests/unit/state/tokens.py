"""Tokens as they are stored: of the grant that they belong to, and in no other's place."""

from shared.oauth.record import TokenRecord
from shared.state import State
from tests.clock import ManualClock
from tests.unit.state.opening import Opening

FIRST = TokenRecord("account:sales", "first", "sealed", 1.0, 1.0, None, 5.0)


class Tokens(Opening):
    """What holds of tokens on every database."""

    async def test_tokens_are_read_as_they_were_stored(self, one: State, two: State) -> None:
        other = TokenRecord("account:\x00\udc80\\", "g", "s" * 50_000, 0.5, 0.25)
        for record in (FIRST, other):
            assert await one.tokens.keep(record, instead_of=None)
        assert await two.tokens.read(FIRST.name) == FIRST
        assert await two.tokens.read(other.name) == other
        assert {record.name for record in await two.tokens.read_all()} == {FIRST.name, other.name}
        assert await two.tokens.read("account:nobody") is None

    async def test_a_renewal_replaces_what_belongs_to_its_own_grant(self, one: State) -> None:
        renewed = FIRST._replace(sealed="renewed", changed=2.0, ends=None)
        assert not await one.tokens.keep(renewed, instead_of="first")
        await one.tokens.keep(FIRST, instead_of=None)
        assert await one.tokens.keep(renewed, instead_of="first")
        assert await one.tokens.read(FIRST.name) == renewed
        anew = FIRST._replace(grant="second", sealed="anew")
        await one.tokens.keep(anew, instead_of=None)
        assert not await one.tokens.keep(renewed, instead_of="first")
        assert await one.tokens.read(FIRST.name) == anew

    async def test_a_renewal_that_has_begun_is_noted_until_it_ends(
        self, one: State, clock: ManualClock
    ) -> None:
        await one.tokens.keep(FIRST, instead_of=None)
        await one.tokens.note_renewal(FIRST.name, "another", begins=True)
        assert await one.tokens.read(FIRST.name) == FIRST
        await one.tokens.note_renewal(FIRST.name, "first", begins=True)
        assert await one.tokens.read(FIRST.name) == FIRST._replace(asked=clock.now())
        await one.tokens.note_renewal(FIRST.name, "first", begins=False)
        assert await one.tokens.read(FIRST.name) == FIRST

    async def test_another_key_does_not_undo_a_renewal(self, one: State) -> None:
        await one.tokens.keep(FIRST, instead_of=None)
        assert not await one.tokens.reseal(FIRST.name, "what it was before", "resealed")
        assert await one.tokens.reseal(FIRST.name, "sealed", "resealed")
        assert await one.tokens.read(FIRST.name) == FIRST._replace(sealed="resealed")

    async def test_tokens_are_forgotten(self, one: State) -> None:
        await one.tokens.keep(FIRST, instead_of=None)
        assert await one.tokens.forget(FIRST.name)
        assert not await one.tokens.forget(FIRST.name)
        assert await one.tokens.read(FIRST.name) is None
