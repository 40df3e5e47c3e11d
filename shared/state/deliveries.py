"""The ledger of finished deliveries: what each recipient at each destination has already.

A claim is a lease on one message for one destination. What a claim finds in the ledger is complete:
the ledger is read after the lease was taken, and whoever held it before wrote to the ledger and
gave the lease back in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

from sqlalchemy import Executable, select

from shared.claims import Claim, Delivery, Finished
from shared.state.batch import Batch, Operation, insert_into
from shared.state.leases import give_back, take
from shared.state.schema import DELIVERED
from shared.state.several import among

PREFIX: Final = "delivery:"


def lease_of(delivery: Delivery) -> str:
    """Return the name of the lease on a delivery."""
    return f"{PREFIX}{delivery.destination}:{delivery.id}"


def _claim(batch: Batch, deliveries: Sequence[Delivery]) -> Sequence[Claim | None]:
    leases = [lease_of(delivery) for delivery in deliveries]
    ours = take(batch, set(leases))
    delivered = _delivered(
        batch, sorted({d.id for d, lease in zip(deliveries, leases, strict=True) if lease in ours})
    )
    return [
        Claim(frozenset(delivered.get(delivery, ())), ours[lease]) if lease in ours else None
        for delivery, lease in zip(deliveries, leases, strict=True)
    ]


def _delivered(batch: Batch, ids: Sequence[str]) -> Mapping[tuple[str, str], Sequence[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    rows = batch.connection.execute(_recorded(batch.dialect), {"ids": ids})
    for id_, destination, recipient in rows:
        found.setdefault((id_, destination), []).append(recipient)
    return found


@cache
def _recorded(dialect: str) -> Executable:
    columns = (DELIVERED.c.id, DELIVERED.c.destination, DELIVERED.c.recipient)
    return select(*columns).where(among(dialect, DELIVERED.c.id, "ids"))


def _finish(batch: Batch, finished: Sequence[Finished]) -> Sequence[None]:
    rows = [
        {
            "id": delivery.id,
            "destination": delivery.destination,
            "recipient": recipient,
            "at": batch.now,
            "receipt": receipt,
        }
        for delivery, receipts in finished
        for recipient, receipt in receipts.items()
    ]
    if rows:
        batch.connection.execute(_record(batch.dialect), rows)
    return give_back(batch, [lease_of(delivery) for delivery, _ in finished])


@cache
def _record(dialect: str) -> Executable:
    insert = insert_into(dialect, DELIVERED).on_conflict_do_nothing()
    # RETURNING makes SQLAlchemy send many rows as one statement; PostgreSQL is twice as fast so.
    return insert.returning(DELIVERED.c.id)


def _unclaim(batch: Batch, deliveries: Sequence[Delivery]) -> Sequence[None]:
    return give_back(batch, [lease_of(delivery) for delivery in deliveries])


CLAIM: Final = Operation(_claim)
FINISH: Final = Operation(_finish)
UNCLAIM: Final = Operation(_unclaim)
