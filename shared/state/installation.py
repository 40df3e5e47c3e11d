"""Which state database this is, and how far it has got: what marks elsewhere are compared with.

``shared.mark`` says what follows from it. Whoever asks and answers holds the lease
``installation``, so that of several fetchers one at a time does.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    case,
    literal,
    or_,
    select,
    text,
    update,
)

from shared.mark import Mark
from shared.state.operations import (
    Transaction,
    for_all,
    for_each,
    insert_into,
    once_for_all,
)
from shared.state.schema import ACCOUNT, INSTALLATION, MESSAGE, UIDL

_ONE: Final = 1
"""The key of the only row."""


class InstallationRecord(NamedTuple):
    """What the database says of itself.

    Attributes:
        own: how far it has got, None where it never wrote that down.
        used: whether it knows of any mail, or of a poll that came to its end.
        asked: the marks that the operator was asked about, as a text; None where there were none.
        marked: places that took its last mark, as a text.
        chosen: whether the operator has chosen for some account since then, or for all.
    """

    own: Mark | None
    used: bool
    asked: str | None
    marked: str | None
    chosen: bool


class Question(NamedTuple):
    """What whoever takes work from the queues needs to know.

    Attributes:
        own: the id of the database, None where it never wrote that down.
        asked: the marks that the operator was asked about, as a text; None where there were none.
        chosen: whether the operator has chosen for some account since then, or for all; before
            anything was written down, whether a choice waits to be done.
    """

    own: str | None
    asked: str | None
    chosen: bool


def _standing(transaction: Transaction) -> InstallationRecord:
    row = transaction.connection.execute(select(INSTALLATION)).first()
    known = select(literal(_ONE)).limit(1)
    fetched = any(
        transaction.connection.scalar(known.select_from(table)) is not None
        for table in (MESSAGE, UIDL)
    )
    polled = known.where(ACCOUNT.c.last_ok.is_not(None))
    used = fetched or transaction.connection.scalar(polled) is not None
    if row is None:
        return InstallationRecord(None, used, None, None, False)
    chosen = row.doubted is None or _some_is_chosen(transaction)
    own = Mark(row.id, row.number, row.at)
    return InstallationRecord(own, used, row.asked, row.marked, chosen)


def _question(transaction: Transaction) -> Question | None:
    """Answer what is asked; None where this role may not look, as by grants of an older version."""
    if transaction.dialect == "postgresql" and not transaction.connection.scalar(_MAY_LOOK):
        return None
    columns = (INSTALLATION.c.id, INSTALLATION.c.asked, INSTALLATION.c.doubted)
    row = transaction.connection.execute(select(*columns)).first()
    if row is None:
        waits = _some(transaction, ACCOUNT.c.choice.is_not(None))
        return Question(None, None, waits)
    chosen = row.doubted is None or _some_is_chosen(transaction)
    return Question(row.id, row.asked, chosen)


_MAY_LOOK: Final = text(
    "SELECT has_column_privilege('installation', 'doubted', 'SELECT')"
    " AND has_column_privilege('account', 'choice', 'SELECT')"
)


def _some_is_chosen(transaction: Transaction) -> bool:
    """Return whether some account is held no longer, or is to be: all were, to begin with."""
    return _some(transaction, or_(ACCOUNT.c.held.is_(None), ACCOUNT.c.choice.is_not(None)))


def _some(transaction: Transaction, which: ColumnElement[bool]) -> bool:
    found = select(literal(_ONE)).select_from(ACCOUNT).where(which).limit(1)
    return transaction.connection.scalar(found) is not None


def _get_on(transaction: Transaction, numbers: Sequence[int]) -> Sequence[Mark]:
    """Get on by one, beyond these numbers, and ask the operator nothing any more."""
    least = max(numbers)
    insert = insert_into(transaction.dialect, INSTALLATION).values(
        one=_ONE, id=secrets.token_hex(16), number=least + 1, at=transaction.now
    )
    old = INSTALLATION.c.number
    beyond = case((old > least, old), else_=least) + 1
    set_ = {"number": beyond, "at": insert.excluded.at, "asked": None}
    getting_on = insert.on_conflict_do_update(index_elements=[INSTALLATION.c.one], set_=set_)
    columns = (INSTALLATION.c.id, INSTALLATION.c.number, INSTALLATION.c.at)
    row = transaction.connection.execute(getting_on.returning(*columns)).one()
    return [Mark(*row)] * len(numbers)


def record(transaction: Transaction, column: str, text: str) -> None:
    """Write a text into a column of the only row; make that, if need be."""
    insert = insert_into(transaction.dialect, INSTALLATION).values(
        {"one": _ONE, "id": secrets.token_hex(16), "number": 0, "at": transaction.now, column: text}
    )
    set_ = {column: insert.excluded[column]}
    transaction.connection.execute(
        insert.on_conflict_do_update(index_elements=[INSTALLATION.c.one], set_=set_)
    )


def _ask(transaction: Transaction, marks: str) -> None:
    record(transaction, "asked", marks)


def _mark(transaction: Transaction, places: str) -> None:
    transaction.connection.execute(update(INSTALLATION).values(marked=places))


def _count(transaction: Transaction, names: Sequence[str]) -> int:
    open_ = (ACCOUNT.c.held.is_not(None), ACCOUNT.c.choice.is_(None))
    held = set(transaction.connection.scalars(select(ACCOUNT.c.name).where(*open_)))
    return len(held.intersection(names))


STANDING: Final = once_for_all(_standing, writes=False)
QUESTION: Final = once_for_all(_question, writes=False)
ADVANCE: Final = for_all(_get_on)
ASK: Final = for_each(_ask)
MARKED: Final = for_each(_mark)
COUNT_HELD: Final = for_each(_count, writes=False)
