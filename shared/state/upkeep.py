"""Housekeeping: what is long over leaves the database, a portion at a time.

A portion is one transaction, short enough for claims to go on between two of them, however much
there is to delete, or to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import delete, exists, select, tuple_

from shared.state.batch import Batch, Operation
from shared.state.schema import DELIVERED, LEASE, MESSAGE, UIDL

PORTION: Final = 1000
"""Rows that one transaction looks at."""


class Place(NamedTuple):
    """How far identities have been gone through: the last one looked at."""

    first_seen: float
    id: str


START: Final = Place(0, "")


class Page(NamedTuple):
    """A portion of identities: those first seen before a moment, after this place."""

    before: float
    after: Place


def _deliveries(batch: Batch, moments: Sequence[float]) -> Sequence[int]:
    return [_deliveries_before(batch, moment) for moment in moments]


def _deliveries_before(batch: Batch, moment: float) -> int:
    key = (DELIVERED.c.id, DELIVERED.c.destination, DELIVERED.c.recipient)
    old = select(*key).where(DELIVERED.c.at < moment).order_by(DELIVERED.c.at).limit(PORTION)
    return batch.connection.execute(delete(DELIVERED).where(tuple_(*key).in_(old))).rowcount


def _identities(batch: Batch, pages: Sequence[Page]) -> Sequence[tuple[int, Place | None]]:
    return [_identities_in(batch, page) for page in pages]


def _identities_in(batch: Batch, page: Page) -> tuple[int, Place | None]:
    """Delete a portion, less what still lies in a maildrop, where it may be renumbered."""
    key = (MESSAGE.c.first_seen, MESSAGE.c.id)
    rows = batch.connection.execute(
        select(*key)
        .where(MESSAGE.c.first_seen < page.before, tuple_(*key) > tuple_(*page.after))
        .order_by(*key)
        .limit(PORTION)
    ).all()
    if not rows:
        return 0, None
    listed = exists().where(UIDL.c.id == MESSAGE.c.id)
    gone = delete(MESSAGE).where(MESSAGE.c.id.in_([row.id for row in rows]), ~listed)
    return batch.connection.execute(gone).rowcount, Place(*rows[-1])


def _leases(batch: Batch, moments: Sequence[float]) -> Sequence[None]:
    """Delete leases that nobody came back for: of a message dropped, of an account removed."""
    before = min(moments)
    batch.connection.execute(
        delete(LEASE).where(LEASE.c.renewed < before, LEASE.c.expires < before)
    )
    return [None] * len(moments)


PRUNE_DELIVERIES: Final = Operation(_deliveries)
"""Deletes the oldest finished deliveries before a moment; answers how many."""

PRUNE_IDENTITIES: Final = Operation(_identities)
"""Deletes identities of a page; answers how many, and the place to go on from, None at the end."""

PRUNE_LEASES: Final = Operation(_leases)
