"""Housekeeping: what is long over leaves the database, a portion at a time.

A portion is one transaction, short enough for claims to go on between two of them, however much
there is to delete, or to keep.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import delete, exists, select, tuple_

from shared.state.operations import Transaction, for_each
from shared.state.schema import DELIVERED, LEASE_TABLE, MESSAGE, UIDL

PORTION: Final = 1000
"""Rows that one transaction looks at."""


class PruneCursor(NamedTuple):
    """How far identities have been gone through: the last one looked at."""

    first_seen: float
    id: str


START: Final = PruneCursor(0, "")


def _deliveries(transaction: Transaction, moment: float) -> int:
    key = (DELIVERED.c.id, DELIVERED.c.destination, DELIVERED.c.recipient)
    old = select(*key).where(DELIVERED.c.at < moment).order_by(DELIVERED.c.at).limit(PORTION)
    return transaction.connection.execute(delete(DELIVERED).where(tuple_(*key).in_(old))).rowcount


def _identities(
    transaction: Transaction, before: float, after: PruneCursor
) -> tuple[int, PruneCursor | None]:
    """Delete a portion, less what still lies in a maildrop, where it may be renumbered."""
    key = (MESSAGE.c.first_seen, MESSAGE.c.id)
    rows = transaction.connection.execute(
        select(*key)
        .where(MESSAGE.c.first_seen < before, tuple_(*key) > tuple_(*after))
        .order_by(*key)
        .limit(PORTION)
    ).all()
    if not rows:
        return 0, None
    listed = exists().where(UIDL.c.id == MESSAGE.c.id)
    gone = delete(MESSAGE).where(MESSAGE.c.id.in_([row.id for row in rows]), ~listed)
    return transaction.connection.execute(gone).rowcount, PruneCursor(*rows[-1])


def _leases(transaction: Transaction, before: float) -> None:
    """Delete leases that nobody came back for: of a message dropped, of an account removed."""
    transaction.connection.execute(
        delete(LEASE_TABLE).where(LEASE_TABLE.c.renewed < before, LEASE_TABLE.c.expires < before)
    )


PRUNE_DELIVERIES: Final = for_each(_deliveries)
"""Deletes the oldest finished deliveries before a moment; answers how many."""

PRUNE_IDENTITIES: Final = for_each(_identities)
"""Deletes a portion of the identities first seen before a moment, after this one; answers how many,
and where to go on from, None at the end."""

PRUNE_LEASES: Final = for_each(_leases)
