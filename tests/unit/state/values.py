"""Values of every kind in every column: any text is kept, and what is refused fails alone."""

import asyncio
import random
import string
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from shared.errors import Unstorable
from shared.ledger import ADOPT, Claim, LedgerEntry, MessageTrouble, Quirk
from shared.state import UNKNOWN, State, new_owner
from shared.state.held_leases import UNRECORDABLE
from shared.state.leases import LEASE_SECONDS
from tests.clock import ManualClock
from tests.ledger import claim_one, finish_one
from tests.unit.state.opening import HOUR, Opening
from tests.unit.state.processes import execute, rows

ODD = "\0nul \ud800 surrogate \x1b[2J küche рубль 🦉 \\x41 \\ud800 '\"%s ${x}\r\n"
"""What a stranger may send, in one text."""

LATER = 4e9

NUMBER = 666
"""Among numbers, the one that is refused."""

Call = Callable[[State, Any], Awaitable[object]]


def _polled(**values: Any) -> Callable[[State], Awaitable[object]]:
    given: dict[str, Any] = {"account": "a", "next_poll": 0.0, "error": None, **values}
    account = given.pop("account")
    return lambda state: state.record_poll(account, **given)


async def _held(state: State, why: Any) -> None:
    """Hold an account for which something was chosen: a later reason is that of the others."""
    await state.choose([f"of {why}"], ADOPT)
    await state.hold([f"of {why}"], why)


def _trouble(**values: Any) -> MessageTrouble:
    return MessageTrouble("key", 1, 1, 0.0, "reason")._replace(**values)


CALLS: Mapping[str, Call] = {
    "lease.name": lambda s, v: s.lease(v),
    "uidl.account": lambda s, v: s.record(v, [LedgerEntry("u", "id")]),
    "uidl.uidl": lambda s, v: s.record("a", [LedgerEntry(v, f"id of {v}")]),
    "uidl.id": lambda s, v: s.record("a", [LedgerEntry(f"of {v}", v)]),
    "uidl.size": lambda s, v: s.record("a", [LedgerEntry(f"of {v}", f"id of {v}", v)]),
    "uidl.head": lambda s, v: s.record("a", [LedgerEntry(f"of {v}", f"id of {v}", 1, v)]),
    "message.id": lambda s, v: s.record("a", [LedgerEntry(None, v)]),
    "message.account": lambda s, v: s.record(v, [LedgerEntry(None, f"id of {v}")]),
    "account.name": lambda s, v: _polled(account=v)(s),
    "account.next_poll": lambda s, v: _polled(account=f"of {v}", next_poll=v)(s),
    "account.maildrop": lambda s, v: s.move_in(f"of {v}", v),
    "account.last_error": lambda s, v: _polled(account=f"of {v}", error=v)(s),
    "account.undone": lambda s, v: _polled(account=f"of {v}", undone=v)(s),
    "account.login_after": lambda s, v: _polled(account=f"of {v}", login_after=v)(s),
    "account.refused": lambda s, v: _polled(account=f"of {v}", error="no", refused=v)(s),
    "account.retry_at": lambda s, v: _polled(account=f"of {v}", retry_at=v)(s),
    "account.held": _held,
    "account.choice": lambda s, v: s.choose([f"of {v}"], v),
    "trouble.account": lambda s, v: s.record_troubles(v, [_trouble()]),
    "trouble.key": lambda s, v: s.record_troubles("a", [_trouble(key=v)]),
    "trouble.number": lambda s, v: s.record_troubles(f"of {v}", [_trouble(number=v)]),
    "trouble.tries": lambda s, v: s.record_troubles(f"of {v}", [_trouble(tries=v)]),
    "trouble.until": lambda s, v: s.record_troubles(f"of {v}", [_trouble(until=v)]),
    "trouble.reason": lambda s, v: s.record_troubles(f"of {v}", [_trouble(reason=v)]),
    "trouble.id": lambda s, v: s.record_troubles(f"of {v}", [_trouble(id=v)]),
    "quirk.server": lambda s, v: s.learn(v, Quirk("q", 1, LATER)),
    "quirk.name": lambda s, v: s.learn("s", Quirk(v, 1, LATER)),
    "quirk.value": lambda s, v: s.learn(f"of {v}", Quirk("q", v, LATER)),
    "quirk.until": lambda s, v: s.learn(f"of {v}", Quirk("q", 1, v)),
    "delivered.id": lambda s, v: finish_one(s, v, "d", {"r": "250"}),
    "delivered.destination": lambda s, v: finish_one(s, "id", v, {"r": "250"}),
    "delivered.recipient": lambda s, v: finish_one(s, "id", "d", {v: "250"}),
    "delivered.receipt": lambda s, v: finish_one(s, f"of {v}", "d", {"r": v}),
}
"""How a value comes into each column that takes what strangers say, or what is made of it."""

OWN = (
    "lease.owner",
    "lease.renewed",
    "lease.expires",
    "uidl.first_seen",
    "message.first_seen",
    "account.set_at",
    "delivered.at",
)
"""Columns of which we say ourselves what is in them."""

NUMBERS = ("size", "next_poll", "login_after", "retry_at", "number", "tries", "until", "value")
GOES_ON = ("last_error", "undone", "login_after", "refused", "retry_at")
"""Of the end of a poll: without these it is recorded all the same."""


def forbid(url: str, table: str, column: str, value: object) -> None:
    """Have the database refuse a value in a column."""
    rule = f"{column} <> {value!r}"
    if url.startswith("postgresql"):
        execute(url, f"ALTER TABLE {table} ADD CHECK ({rule})")
        return
    for when in ("INSERT", "UPDATE"):
        refuse = f"BEGIN SELECT RAISE(ABORT, 'no {column} of this kind'); END"
        unless = f"WHEN NOT NEW.{rule}"
        execute(url, f"CREATE TRIGGER no_{table}_{when} BEFORE {when} ON {table} {unless} {refuse}")


def long(length: int) -> str:
    """Return a text that no database makes much shorter."""
    return "".join(random.Random(length).choices(string.ascii_letters, k=length))


class Values(Opening):
    """What holds of values on every database."""

    @pytest.mark.parametrize("place", CALLS)
    async def test_what_is_refused_fails_alone(self, url: str, place: str) -> None:
        told: list[str] = []

        def report(what: str, /, **_: object) -> None:
            told.append(what)

        state = await State.open(url, owner=new_owner(), report=report, patience=1)
        table, _, column = place.partition(".")
        number = column in NUMBERS
        bad: Any = NUMBER if number else "poison"
        forbid(url, table, column, bad)
        good: list[Any] = [n if number else f"good{n}" for n in range(1, 7)]
        call = CALLS[place]
        values = [*good[:3], bad, *good[3:]]
        answers = await asyncio.gather(*(call(state, v) for v in values), return_exceptions=True)
        assert set(good) <= {getattr(row, column) for row in rows(url, table)}
        assert [a for a in answers[:3] + answers[4:] if isinstance(a, Exception)] == []
        if table == "delivered":
            assert (answers[3], told) == (None, [UNRECORDABLE])
        elif table in ("uidl", "message"):
            entries = answers[3]
            assert (isinstance(entries, list) and len(entries), told) == (1, [UNKNOWN])
        elif column in GOES_ON:
            assert f"of {bad}" in {row.name for row in rows(url, "account")}
        else:
            assert isinstance(answers[3], Unstorable), answers[3]
        await call(state, good[0])
        await state.close()

    @pytest.mark.parametrize("place", OWN)
    async def test_what_we_write_of_ourselves_and_is_refused_keeps_no_other_table(
        self, url: str, place: str, clock: ManualClock
    ) -> None:
        """Each row has it, so all of that table fail, for as long as it is refused."""
        owner, told = new_owner(), list[str]()

        def report(what: str, /, **_: object) -> None:
            told.append(what)

        state = await State.open(url, owner=owner, clock=clock, report=report, patience=1)
        table, _, column = place.partition(".")
        own: Any = {"owner": owner, "expires": clock.now() + LEASE_SECONDS}.get(column, clock.now())
        forbid(url, table, column, own)
        calls: Mapping[str, Callable[[], Awaitable[object]]] = {
            "lease": lambda: state.lease("x"),
            "uidl": lambda: state.record("a", [LedgerEntry("u", "id")]),
            "message": lambda: state.record("b", [LedgerEntry(None, "bare")]),
            "account": lambda: state.record_poll("c", next_poll=0, error=None),
            "trouble": lambda: state.record_troubles("d", [_trouble()]),
            "quirk": lambda: state.learn("s", Quirk("q", 1, LATER)),
            "delivered": lambda: finish_one(state, "id", "d", {"r": "250"}),
        }
        names = [name for name in calls for _ in range(3)]
        found = await asyncio.gather(*(calls[n]() for n in names), return_exceptions=True)
        failed = {n for n, a in zip(names, found, strict=True) if isinstance(a, Exception)}
        concerned = {"uidl", "message"} if table == "message" else {table}
        assert {name for name in calls if not rows(url, name)} == concerned
        assert failed == ({table} if table in ("lease", "account") else set()), found
        assert bool(told) == (table in ("uidl", "message", "delivered"))
        if column != "owner":
            clock.set(HOUR)
            await calls[table]()
            assert rows(url, table)
        await state.close()

    async def test_of_a_call_with_many_values_the_bad_one_fails_alone(
        self, url: str, one: State
    ) -> None:
        forbid(url, "uidl", "uidl", "poison")
        forbid(url, "delivered", "recipient", "poison")
        forbid(url, "trouble", "key", "poison")
        names = [*(f"good{n}" for n in range(50)), "poison", *(f"more{n}" for n in range(50))]
        entries = [LedgerEntry(name, f"id of {name}") for name in names]
        assert await one.record("a", entries) == [LedgerEntry("poison", "id of poison")]
        with pytest.raises(Unstorable):
            await one.record_troubles("a", [_trouble(key=name) for name in names])
        assert await claim_one(one, "id", "d") is not None
        await finish_one(one, "id", "d", dict.fromkeys(names, "250"))
        kept = set(names) - {"poison"}
        assert set(await one.known("a")) == set((await one.recall("a", "s")).troubles) == kept
        assert await claim_one(one, "id", "d") == Claim(frozenset(kept), replay=False)

    async def test_any_text_is_kept_in_every_column(self, one: State, two: State) -> None:
        call = dict(CALLS)
        texts = [place for place in call if place.partition(".")[2] not in NUMBERS]
        await asyncio.gather(*(call[place](one, ODD) for place in texts))
        assert ODD in await two.known("a")
        assert (await two.known(ODD))["u"].id == "id"
        assert await two.heads("a", [f"of {ODD}"]) == {f"of {ODD}": ODD}
        assert set(await two.seen([ODD, f"id of {ODD}"])) == {ODD, f"id of {ODD}"}
        assert not await two.lease(ODD)
        stands = (await two.accounts())[f"of {ODD}"]
        assert ODD in (stands.last_error, stands.undone) or stands.failures
        assert ODD in (await two.recall("a", "s")).troubles
        assert ODD in (await two.recall("a", "s")).quirks
        assert set((await two.recall("b", ODD)).quirks) == {"q"}
        assert await claim_one(two, "id", "d") == Claim(frozenset({ODD}), replay=False)
        assert await claim_one(two, "id", ODD) == Claim(frozenset({"r"}), replay=False)
        assert await claim_one(two, ODD, "d") == Claim(frozenset({"r"}), replay=False)
        await one.record_poll("b", next_poll=0, error=ODD, undone=None)
        await one.record_poll("c", next_poll=0, error=None, undone=ODD)
        found = await two.accounts()
        assert (found["b"].last_error, found["c"].undone) == (ODD, ODD)
        assert (await one.move_in("d", ODD), await one.move_in("e", ODD)) == (
            [f"of {ODD}"],
            sorted(["d", f"of {ODD}"]),
        )

    @pytest.mark.parametrize("place", CALLS)
    async def test_what_is_over_long_or_beyond_all_numbers_fails_alone_if_at_all(
        self, url: str, one: State, place: str
    ) -> None:
        table, _, column = place.partition(".")
        number = column in NUMBERS
        good: list[Any] = [n if number else f"good{n}" for n in range(1, 5)]
        bad: Any = 10**400 if number else long(100_000)
        call = CALLS[place]
        values = [*good[:2], bad, *good[2:]]
        answers = await asyncio.gather(*(call(one, v) for v in values), return_exceptions=True)
        assert set(good) <= {getattr(row, column) for row in rows(url, table)}
        assert [a for a in answers[:2] + answers[3:] if isinstance(a, Exception)] == []
        assert answers[2] is None or isinstance(answers[2], bool | int | list | Unstorable)
