"""Leases: the right of one process to something, for as long as it lives and renews.

One statement takes what is free, what has expired and what was ours already. Only for names that
it could not take is anyone asked who holds them, so that contention alone pays for it: a holder of
this machine that is proven dead loses its leases at once. A lease that claims to run further than
any lease can was written by a clock that has since been set back, and is void too, unless its
holder is of this machine and alive. So after a clock jump leases of other machines are waited for
``LEASE`` seconds at most; clocks of different machines must agree to well under that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Final

from sqlalchemy import (
    BindParameter,
    Double,
    Executable,
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

from shared.state.batch import MAX_SKEW, Batch, Operation, insert_into
from shared.state.owner import dead, local
from shared.state.schema import LEASE as TABLE
from shared.state.schema import Escaped
from shared.state.several import among, each

LEASE: Final = 20.0
"""Seconds that a lease runs without being renewed."""

RENEWAL: Final = 5.0
"""Seconds between renewals."""


def take(batch: Batch, names: Collection[str]) -> dict[str, bool]:
    """Take what can be taken.

    Args:
        batch: the transaction.
        names: the leases wanted; different ones.

    Returns:
        The leases that are ours now, and of each whether it had been somebody's before (one who is
        gone, or our own from an earlier time) who never gave it back.
    """
    wanted = sorted(names)  # always in one order: fewer deadlocks in PostgreSQL
    rows = batch.connection.execute(_take(batch.dialect), {"names": wanted, **_ours(batch)})
    ours = {name: taken == 1 for name, taken in rows.all()}
    refused = [name for name in names if name not in ours]
    if refused:
        ours.update(dict.fromkeys(_take_over(batch, refused), True))
    return ours


def _take_over(batch: Batch, names: Sequence[str]) -> list[str]:
    holders = batch.connection.execute(_holders(batch.dialect), {"names": names})
    void = [name for name, owner, expires in holders if _void(owner, expires, batch.now)]
    if void:
        batch.connection.execute(_inherit(batch.dialect), {"names": void, **_ours(batch)})
    return void


def _ours(batch: Batch) -> Mapping[str, object]:
    return {"us": batch.owner, "now": batch.now, "then": batch.now + LEASE}


def _void(owner: str, expires: float, now: float) -> bool:
    if local(owner):
        return dead(owner)
    return expires > now + LEASE + MAX_SKEW


# Built once each: building a statement anew costs several times what SQLite needs to run it.
_US: Final = bindparam("us", type_=Escaped())
_NOW: Final[BindParameter[float]] = bindparam("now", type_=Double())
_THEN: Final[BindParameter[float]] = bindparam("then", type_=Double())


@cache
def _take(dialect: str) -> Executable:
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
    ).returning(TABLE.c.name, TABLE.c.taken)


@cache
def _holders(dialect: str) -> Executable:
    held = among(dialect, TABLE.c.name, "names")
    return select(TABLE.c.name, TABLE.c.owner, TABLE.c.expires).where(held).with_for_update()


@cache
def _inherit(dialect: str) -> Executable:
    changes = {"owner": _US, "renewed": _NOW, "expires": _THEN, "taken": 1}
    return update(TABLE).where(among(dialect, TABLE.c.name, "names")).values(changes)


@cache
def _give_back(dialect: str) -> Executable:
    return delete(TABLE).where(among(dialect, TABLE.c.name, "names"), TABLE.c.owner == _US)


@cache
def _keep(dialect: str) -> Executable:
    still_ours = (among(dialect, TABLE.c.name, "names"), TABLE.c.owner == _US)
    changes = {"renewed": _NOW, "expires": _THEN}
    return update(TABLE).where(*still_ours).values(changes).returning(TABLE.c.name)


def give_back(batch: Batch, names: Sequence[str]) -> Sequence[None]:
    """Drop leases of ours; those that are not ours (any more) stay as they are."""
    batch.connection.execute(_give_back(batch.dialect), {"names": names, "us": batch.owner})
    return [None] * len(names)


def _lease(batch: Batch, names: Sequence[str]) -> Sequence[bool]:
    ours = take(batch, set(names))
    return [name in ours for name in names]


def _renew(batch: Batch, items: Sequence[Sequence[str]]) -> Sequence[frozenset[str]]:
    """Renew what is still ours; return its names for each item."""
    wanted = [name for names in items for name in names]
    renewed = batch.connection.scalars(_keep(batch.dialect), {"names": wanted, **_ours(batch)})
    ours = frozenset(renewed)
    return [ours & frozenset(names) for names in items]


def _expire(batch: Batch, items: Sequence[None]) -> Sequence[None]:
    """Let everything of ours expire now: what is still held was not finished in good order."""
    batch.connection.execute(update(TABLE).where(TABLE.c.owner == batch.owner).values(expires=0))
    return [None] * len(items)


GIVE_BACK: Final = Operation(give_back)
TAKE: Final = Operation(_lease)
RENEW: Final = Operation(_renew)
EXPIRE: Final = Operation(_expire)
