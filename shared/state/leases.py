"""Leases: the right of one process to something, for as long as it lives and renews.

One statement takes what is free, what has expired and what was ours already. Only for names that
it could not take is anyone asked who holds them, so that contention alone pays for it: a holder of
this machine that is proven dead loses its leases at once. A lease that claims to run further than
any lease can was written by a clock that has since been set back, and is void too, unless its
holder is of this machine and alive. So after a clock jump leases of other machines are waited for
``LEASE_TABLE`` seconds at most; clocks of different machines must agree to well under that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from sqlalchemy import (
    BindParameter,
    Double,
    Integer,
    bindparam,
    delete,
    literal,
    literal_column,
    or_,
    select,
    true,
    update,
)

from shared.clock import Clock
from shared.state.json_params import among, each
from shared.state.lease_owner import dead, local
from shared.state.operations import (
    MAX_SKEW,
    Transaction,
    for_all,
    insert_into,
    once_for_all,
)
from shared.state.schema import LEASE_TABLE as TABLE
from shared.state.schema import Escaped
from shared.state.statement import SqlStatement, Statement

LEASE_SECONDS: Final = 20.0
"""Seconds that a lease runs without being renewed."""

RENEWAL: Final = 5.0
"""Seconds between renewals."""


class Since(NamedTuple):
    """When a lease was taken or renewed, at the earliest.

    Attributes:
        boot: by the clock that goes on while the machine is suspended.
        wall: by the wall clock, by which others judge whether it has expired.
    """

    boot: float
    wall: float

    @staticmethod
    def now(clock: Clock) -> Since:
        """Return this moment."""
        return Since(clock.boottime(), clock.now())

    def runs(self, clock: Clock) -> bool:
        """Return whether no clock says that the lease may have expired.

        Either can stand still: the one of a virtual machine that its host has stopped, and the wall
        clock until somebody sets it. Where both have, nobody can know, until the next renewal.
        """
        return (
            clock.boottime() - self.boot < LEASE_SECONDS and clock.now() - self.wall < LEASE_SECONDS
        )


def take(transaction: Transaction, names: Collection[str]) -> dict[str, bool]:
    """Take what can be taken.

    Args:
        transaction: the transaction.
        names: the leases wanted; different ones.

    Returns:
        The leases that are ours now, and of each whether it had been somebody's before (one who is
        gone, or our own from an earlier time) who never gave it back.
    """
    wanted = sorted(names)  # always in one order: fewer deadlocks in PostgreSQL
    values = {"names": wanted, **_ours(transaction)}
    _take.run(transaction, values)
    ours = dict.fromkeys(wanted, False)
    held: list[tuple[str, str, float]] = []
    for name, owner, expires in _notable.run(transaction, values):
        if owner == transaction.owner:
            ours[name] = True
        else:
            del ours[name]
            held.append((name, owner, expires))
    if held:
        ours.update(dict.fromkeys(_take_over(transaction, held), True))
    return ours


def _take_over(transaction: Transaction, held: Sequence[tuple[str, str, float]]) -> list[str]:
    void = [name for name, owner, expires in held if _void(owner, expires, transaction.now)]
    if void:
        _inherit.run(transaction, {"names": void, **_ours(transaction)})
    return void


def _ours(transaction: Transaction) -> Mapping[str, object]:
    return {
        "us": transaction.owner,
        "now": transaction.now,
        "then": transaction.now + LEASE_SECONDS,
    }


def _void(owner: str, expires: float, now: float) -> bool:
    if local(owner):
        return dead(owner)
    return expires > now + LEASE_SECONDS + MAX_SKEW


# Built once each: building a statement anew costs several times what SQLite needs to run it.
_US: Final = bindparam("us", type_=Escaped())
_NOW: Final[BindParameter[float]] = bindparam("now", type_=Double())
_THEN: Final[BindParameter[float]] = bindparam("then", type_=Double())


@Statement
def _take(dialect: str) -> SqlStatement:
    # SQLite needs the WHERE to tell this ON from one of a join (sqlite.org/lang_upsert.html).
    free = literal(0, Integer())
    rows = select(each(dialect, "names"), _US, _NOW, _THEN, free).where(true())
    insert = insert_into(dialect, TABLE).from_select(list(TABLE.c), rows)
    new = insert.excluded
    return insert.on_conflict_do_update(
        index_elements=[TABLE.c.name],
        set_={
            "owner": new.owner,
            "renewed": new.renewed,
            "expires": new.expires,
            "taken": literal_column("1"),
        },
        where=or_(TABLE.c.owner == new.owner, TABLE.c.expires <= new.renewed),
    )


@Statement
def _notable(dialect: str) -> SqlStatement:
    """Find what could not be taken, or had been somebody's: mostly nothing.

    PostgreSQL has locked what the upsert could not take as well, so nobody changes it meanwhile.
    The upsert, which could tell as well, would answer with a row for each name; and for each row
    SQLite's driver lets go of Python's lock, and waits for it.
    """
    wanted = among(dialect, TABLE.c.name, "names")
    which = or_(TABLE.c.owner != _US, TABLE.c.taken == literal_column("1"))
    return select(TABLE.c.name, TABLE.c.owner, TABLE.c.expires).where(wanted, which)


@Statement
def _inherit(dialect: str) -> SqlStatement:
    changes = {"owner": _US, "renewed": _NOW, "expires": _THEN, "taken": 1}
    return update(TABLE).where(among(dialect, TABLE.c.name, "names")).values(changes)


@Statement
def _give_back(dialect: str) -> SqlStatement:
    return delete(TABLE).where(among(dialect, TABLE.c.name, "names"), TABLE.c.owner == _US)


@Statement
def _keep(dialect: str) -> SqlStatement:
    still_ours = (among(dialect, TABLE.c.name, "names"), TABLE.c.owner == _US)
    changes = {"renewed": _NOW, "expires": _THEN}
    return update(TABLE).where(*still_ours).values(changes).returning(TABLE.c.name)


def give_back(transaction: Transaction, names: Sequence[str]) -> Sequence[None]:
    """Drop leases of ours; those that are not ours (any more) stay as they are."""
    _give_back.run(transaction, {"names": names, "us": transaction.owner})
    return [None] * len(names)


def _lease(transaction: Transaction, names: Sequence[str]) -> Sequence[bool]:
    ours = take(transaction, set(names))
    return [name in ours for name in names]


def _renew(transaction: Transaction, items: Sequence[Sequence[str]]) -> Sequence[frozenset[str]]:
    """Renew what is still ours; return its names for each item."""
    wanted = [name for names in items for name in names]
    renewed = _keep.run(transaction, {"names": wanted, **_ours(transaction)})
    ours = frozenset(name for (name,) in renewed)
    return [ours & frozenset(names) for names in items]


def _expire(transaction: Transaction) -> None:
    """Let everything of ours expire now: what is still held was not finished in good order."""
    transaction.connection.execute(
        update(TABLE).where(TABLE.c.owner == transaction.owner).values(expires=0)
    )


GIVE_BACK: Final = for_all(give_back)
TAKE: Final = for_all(_lease)
RENEW: Final = for_all(_renew)
EXPIRE: Final = once_for_all(_expire)
