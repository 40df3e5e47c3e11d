"""The ledger of finished deliveries: what each recipient at each destination has already.

A claim is a lease on one message for one destination. What a claim finds in the ledger is complete:
the ledger is read after the lease was taken, and whoever held it before wrote to the ledger and
gave the lease back in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import BindParameter, Double, bindparam, select, true

from shared.ledger import Claim, DeliveryKey, Finished
from shared.state import json_params
from shared.state.json_params import among
from shared.state.leases import give_back, take
from shared.state.operations import Transaction, for_all, insert_into
from shared.state.schema import DELIVERED
from shared.state.statement import SqlStatement, Statement

PREFIX: Final = "delivery:"


def lease_of(delivery: DeliveryKey) -> str:
    """Return the name of the lease on a delivery."""
    return f"{PREFIX}{delivery.destination}:{delivery.id}"


def _claim(transaction: Transaction, deliveries: Sequence[DeliveryKey]) -> Sequence[Claim | None]:
    leases = [lease_of(delivery) for delivery in deliveries]
    ours = take(transaction, set(leases))
    delivered = _delivered(
        transaction,
        sorted({d.id for d, lease in zip(deliveries, leases, strict=True) if lease in ours}),
    )
    return [
        Claim(frozenset(delivered.get(delivery, ())), ours[lease]) if lease in ours else None
        for delivery, lease in zip(deliveries, leases, strict=True)
    ]


def _delivered(
    transaction: Transaction, ids: Sequence[str]
) -> Mapping[tuple[str, str], Sequence[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for id_, destination, recipient in _select_recipients.run(transaction, {"ids": ids}):
        found.setdefault((id_, destination), []).append(recipient)
    return found


@Statement
def _select_recipients(dialect: str) -> SqlStatement:
    columns = (DELIVERED.c.id, DELIVERED.c.destination, DELIVERED.c.recipient)
    return select(*columns).where(among(dialect, DELIVERED.c.id, "ids"))


def _finish(transaction: Transaction, finished: Sequence[Finished]) -> Sequence[None]:
    rows = [
        (*delivery, recipient, receipt)
        for delivery, receipts in finished
        for recipient, receipt in receipts.items()
    ]
    if rows:
        _insert_receipts.run(transaction, {"rows": rows, "now": transaction.now})
    return give_back(transaction, [lease_of(delivery) for delivery, _ in finished])


@Statement
def _insert_receipts(dialect: str) -> SqlStatement:
    # SQLite needs a WHERE to tell this ON from one of a join (sqlite.org/lang_upsert.html).
    id_, destination, recipient, receipt = json_params.rows(dialect, "rows", 4)
    now: BindParameter[float] = bindparam("now", type_=Double())
    found = select(id_, destination, recipient, now, receipt).where(true())
    return (
        insert_into(dialect, DELIVERED)
        .from_select(list(DELIVERED.c), found)
        .on_conflict_do_nothing()
    )


def _unclaim(transaction: Transaction, deliveries: Sequence[DeliveryKey]) -> Sequence[None]:
    return give_back(transaction, [lease_of(delivery) for delivery in deliveries])


def _recipients(finished: Finished) -> Sequence[Finished]:
    delivery, receipts = finished
    return [Finished(delivery, {name: receipt}) for name, receipt in receipts.items()]


CLAIM: Final = for_all(_claim)
FINISH: Final = for_all(_finish, parts=_recipients)
UNCLAIM: Final = for_all(_unclaim)
