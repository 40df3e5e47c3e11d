"""Messages that were taken over and that nobody has: found, and forgotten, so that they come again.

For a queue file that lost messages: what is neither in a queue nor was delivered to anybody is
nowhere. Forgotten with its identity, it is fetched once more if it still lies at its server. What
was delivered to some of its recipients only has a delivery, and is not found; nor is what is older
than the ledger of deliveries goes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import BindParameter, ColumnElement, bindparam, delete, func, select

from shared.state.json_params import among
from shared.state.operations import Transaction, for_each
from shared.state.schema import DELIVERED, MESSAGE, UIDL, Escaped
from shared.state.statement import SqlStatement, Statement

_ACCOUNT: Final = bindparam("account", type_=Escaped())


class Undelivered(NamedTuple):
    """A message that was taken over, and delivered to nobody.

    Attributes:
        listed: whether it still lay at its server when that was polled last, as far as is known.
    """

    account: str
    id: str
    listed: bool


def to_nobody(moment: float | BindParameter[float]) -> tuple[ColumnElement[bool], ...]:
    """Return conditions for a message: taken over after this moment, and delivered to nobody."""
    since = func.coalesce(MESSAGE.c.since, MESSAGE.c.first_seen)
    delivered = select(DELIVERED.c.id).where(DELIVERED.c.id == MESSAGE.c.id).exists()
    return since > moment, ~delivered


def _undelivered(transaction: Transaction, moment: float) -> list[Undelivered]:
    listed = (
        select(UIDL.c.id)
        .where(UIDL.c.account == MESSAGE.c.account, UIDL.c.id == MESSAGE.c.id)
        .exists()
    )
    found = transaction.connection.execute(
        select(MESSAGE.c.account, MESSAGE.c.id, listed)
        .where(*to_nobody(moment))
        .order_by(MESSAGE.c.account, MESSAGE.c.id)
    )
    return [Undelivered(account, id_, bool(lies)) for account, id_, lies in found]


def _forget(transaction: Transaction, lost: Sequence[Undelivered]) -> None:
    by_account: dict[str, list[str]] = {}
    for each in lost:
        by_account.setdefault(each.account, []).append(each.id)
    for account, ids in by_account.items():
        for statement in (_delete_uidls, _delete_identities):
            statement.run(transaction, {"account": account, "ids": ids})


@Statement
def _delete_uidls(dialect: str) -> SqlStatement:
    return delete(UIDL).where(UIDL.c.account == _ACCOUNT, among(dialect, UIDL.c.id, "ids"))


@Statement
def _delete_identities(dialect: str) -> SqlStatement:
    return delete(MESSAGE).where(MESSAGE.c.account == _ACCOUNT, among(dialect, MESSAGE.c.id, "ids"))


DELIVERED_TO_NOBODY: Final = for_each(_undelivered, writes=False)
"""Answers with what was taken over after a moment (since 1970), and was delivered to nobody."""

FORGET_LOST: Final = for_each(_forget)
"""Forgets messages, and their identities."""
