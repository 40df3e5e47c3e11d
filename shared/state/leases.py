"""Leases: the right of one process to something, for as long as it lives and renews.

One statement takes what is free, what has expired and what was ours already. Only for names that
it could not take is anyone asked who holds them, so that contention alone pays for it: a holder of
this machine that is proven dead loses its leases at once. A lease that claims to run further than
any lease can was written by a clock that has since been set back, and is void too, unless its
holder is of this machine and alive. So after a clock jump leases of other machines are waited for
``LEASE`` seconds at most; clocks of different machines must agree to well under that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from typing import Final

from sqlalchemy import Executable, bindparam, delete, literal_column, or_, select, update

from shared.state.batch import MAX_SKEW, Batch, Operation, chunks, insert_into
from shared.state.owner import dead, local
from shared.state.schema import LEASE as TABLE

LEASE: Final = 20.0
"""Seconds that a lease runs without being renewed."""

RENEWAL: Final = 5.0
"""Seconds between renewals."""


# Built once: building a statement anew costs several times what SQLite needs to run it.
_GIVE_BACK: Final = delete(TABLE).where(
    TABLE.c.name.in_(bindparam("names", expanding=True)), TABLE.c.owner == bindparam("us")
)


def take(batch: Batch, names: Collection[str]) -> dict[str, bool]:
    """Take what can be taken.

    Args:
        batch: the transaction.
        names: the leases wanted; different ones.

    Returns:
        The leases that are ours now, and of each whether it had been somebody's before (one who is
        gone, or our own from an earlier time) who never gave it back.
    """
    rows = [
        {
            "name": name,
            "owner": batch.owner,
            "renewed": batch.now,
            "expires": batch.now + LEASE,
            "taken": 0,
        }
        for name in sorted(names)  # always in one order: fewer deadlocks in PostgreSQL
    ]
    ours = {
        name: taken == 1 for name, taken in batch.connection.execute(_take(batch.dialect), rows)
    }
    refused = [name for name in names if name not in ours]
    if refused:
        ours.update(dict.fromkeys(_take_over(batch, refused), True))
    return ours


def _take_over(batch: Batch, names: Sequence[str]) -> list[str]:
    query = select(TABLE.c.name, TABLE.c.owner, TABLE.c.expires).with_for_update()
    void = [
        name
        for portion in chunks(names)
        for name, owner, expires in batch.connection.execute(query.where(TABLE.c.name.in_(portion)))
        if _void(owner, expires, batch.now)
    ]
    for portion in chunks(void):
        batch.connection.execute(
            update(TABLE)
            .where(TABLE.c.name.in_(portion))
            .values(owner=batch.owner, renewed=batch.now, expires=batch.now + LEASE, taken=1)
        )
    return void


def _void(owner: str, expires: float, now: float) -> bool:
    if local(owner):
        return dead(owner)
    return expires > now + LEASE + MAX_SKEW


@cache
def _take(dialect: str) -> Executable:
    insert = insert_into(dialect, TABLE)
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


def give_back(batch: Batch, names: Sequence[str]) -> Sequence[None]:
    """Drop leases of ours; those that are not ours (any more) stay as they are."""
    for portion in chunks(names):
        batch.connection.execute(_GIVE_BACK, {"names": portion, "us": batch.owner})
    return [None] * len(names)


def _lease(batch: Batch, names: Sequence[str]) -> Sequence[bool]:
    ours = take(batch, set(names))
    return [name in ours for name in names]


def _renew(batch: Batch, items: Sequence[Sequence[str]]) -> Sequence[frozenset[str]]:
    """Renew what is still ours; return its names for each item."""
    ours: frozenset[str] = frozenset()
    for portion in chunks([name for names in items for name in names]):
        renewed = batch.connection.scalars(
            update(TABLE)
            .where(TABLE.c.name.in_(portion), TABLE.c.owner == batch.owner)
            .values(renewed=batch.now, expires=batch.now + LEASE)
            .returning(TABLE.c.name)
        )
        ours = ours.union(renewed)
    return [ours & frozenset(names) for names in items]


def _expire(batch: Batch, items: Sequence[None]) -> Sequence[None]:
    """Let everything of ours expire now: what is still held was not finished in good order."""
    batch.connection.execute(update(TABLE).where(TABLE.c.owner == batch.owner).values(expires=0))
    return [None] * len(items)


GIVE_BACK: Final = Operation(give_back)
TAKE: Final = Operation(_lease)
RENEW: Final = Operation(_renew)
EXPIRE: Final = Operation(_expire)
