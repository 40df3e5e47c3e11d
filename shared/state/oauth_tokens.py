"""Access tokens and refresh tokens, as they are stored: encrypted by who stores them.

A renewal replaces only what belongs to the grant that it renewed: where a person has authorized us
anew meanwhile, what they got stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import CursorResult, delete, select, update

from shared.oauth.record import TokenRecord
from shared.state.operations import (
    Transaction,
    for_each,
    insert_into,
    once_for_all,
)
from shared.state.schema import OAUTH_TOKEN as TABLE


def _read(transaction: Transaction, name: str) -> TokenRecord | None:
    row = transaction.connection.execute(select(TABLE).where(TABLE.c.name == name)).first()
    return None if row is None else TokenRecord(*row)


def _read_all(transaction: Transaction) -> Sequence[TokenRecord]:
    rows = transaction.connection.execute(select(TABLE).order_by(TABLE.c.name))
    return [TokenRecord(*row) for row in rows]


def _note_renewal(transaction: Transaction, name: str, grant: str, begins: bool) -> None:
    transaction.connection.execute(
        update(TABLE)
        .where(TABLE.c.name == name, TABLE.c.grant_id == grant)
        .values(asked=transaction.now if begins else None)
    )


def _keep(transaction: Transaction, record: TokenRecord, instead_of: str | None) -> bool:
    new = {column.name: value for column, value in zip(TABLE.c, record, strict=True)}
    if instead_of is not None:
        of_grant = (TABLE.c.name == record.name, TABLE.c.grant_id == instead_of)
        return _changes(transaction.connection.execute(update(TABLE).where(*of_grant).values(new)))
    insert = insert_into(transaction.dialect, TABLE).values(new)
    transaction.connection.execute(
        insert.on_conflict_do_update(index_elements=[TABLE.c.name], set_=new)
    )
    return True


def _reseal(transaction: Transaction, name: str, old: str, new: str) -> bool:
    """Replace what is sealed, unless it was renewed meanwhile; done twice, it was done."""
    these = (TABLE.c.name == name, TABLE.c.sealed.in_((old, new)))
    change = update(TABLE).where(*these).values(sealed=new)
    return _changes(transaction.connection.execute(change))


def _forget(transaction: Transaction, name: str) -> bool:
    return _changes(transaction.connection.execute(delete(TABLE).where(TABLE.c.name == name)))


def _changes(result: object) -> bool:
    return isinstance(result, CursorResult) and result.rowcount > 0


READ: Final = for_each(_read, writes=False)
READ_ALL: Final = once_for_all(_read_all, writes=False)
NOTE_RENEWAL: Final = for_each(_note_renewal)
KEEP: Final = for_each(_keep)
RESEAL: Final = for_each(_reseal)
FORGET: Final = for_each(_forget)
