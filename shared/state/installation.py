"""Which state database this is, and how far it has got: what marks elsewhere are compared with.

``shared.mark`` says what follows from it. Whoever asks and answers holds the lease ``LEASE_NAME``,
so that of several fetchers one at a time does.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Double,
    Executable,
    bindparam,
    case,
    literal,
    or_,
    select,
    text,
    update,
)

from shared.mark import Mark
from shared.state.operations import Operation, Transaction, insert_into
from shared.state.schema import ACCOUNT, INSTALLATION, MESSAGE, UIDL

LEASE_NAME: Final = "installation"

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


class MarkRequest(NamedTuple):
    """How far it is to have got.

    Attributes:
        least: a number that it goes beyond.
    """

    least: int


def _standing(transaction: Transaction, asked: Sequence[None]) -> Sequence[InstallationRecord]:
    row = transaction.connection.execute(select(INSTALLATION)).first()
    known = select(literal(_ONE)).limit(1)
    fetched = any(
        transaction.connection.scalar(known.select_from(table)) is not None
        for table in (MESSAGE, UIDL)
    )
    polled = known.where(ACCOUNT.c.last_ok.is_not(None))
    used = fetched or transaction.connection.scalar(polled) is not None
    found = InstallationRecord(None, used, None, None, False)
    if row is not None:
        own = Mark(row.id, row.number, row.at)
        chosen = row.doubted is None or _some_is_chosen(transaction)
        found = InstallationRecord(own, used, row.asked, row.marked, chosen)
    return [found] * len(asked)


def _question(transaction: Transaction, asked: Sequence[None]) -> Sequence[Question | None]:
    """Answer what is asked; None where this role may not look, as by grants of an older version."""
    if transaction.dialect == "postgresql" and not transaction.connection.scalar(_MAY_LOOK):
        return [None] * len(asked)
    columns = (INSTALLATION.c.id, INSTALLATION.c.asked, INSTALLATION.c.doubted)
    row = transaction.connection.execute(select(*columns)).first()
    if row is None:
        waits = _some(transaction, ACCOUNT.c.choice.is_not(None))
        return [Question(None, None, waits)] * len(asked)
    chosen = row.doubted is None or _some_is_chosen(transaction)
    return [Question(row.id, row.asked, chosen)] * len(asked)


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


def _note(transaction: Transaction, asked: Sequence[MarkRequest]) -> Sequence[Mark]:
    """Get on by one, beyond what is asked, and ask the operator nothing any more."""
    values = {"id": secrets.token_hex(16), "least": max(least for (least,) in asked)}
    rows = transaction.connection.execute(
        _get_on(transaction.dialect), {**values, "now": transaction.now}
    )
    return [Mark(*rows.one())] * len(asked)


@cache
def _get_on(dialect: str) -> Executable:
    least: BindParameter[int] = bindparam("least", type_=BigInteger())
    now: BindParameter[float] = bindparam("now", type_=Double())
    insert = insert_into(dialect, INSTALLATION).values(
        one=_ONE, id=bindparam("id"), number=least + 1, at=now
    )
    old = INSTALLATION.c.number
    beyond = case((old > least, old), else_=least) + 1
    return insert.on_conflict_do_update(
        index_elements=[INSTALLATION.c.one],
        set_={"number": beyond, "at": insert.excluded.at, "asked": None},
    ).returning(INSTALLATION.c.id, INSTALLATION.c.number, INSTALLATION.c.at)


def _ask(transaction: Transaction, texts: Sequence[str]) -> Sequence[None]:
    """Write down which marks the operator is asked about; make the row, if need be."""
    insert = insert_into(transaction.dialect, INSTALLATION).values(
        one=_ONE, id=secrets.token_hex(16), number=0, at=transaction.now, asked=texts[-1]
    )
    asking = insert.on_conflict_do_update(
        index_elements=[INSTALLATION.c.one], set_={"asked": insert.excluded.asked}
    )
    transaction.connection.execute(asking)
    return [None] * len(texts)


def _mark(transaction: Transaction, texts: Sequence[str]) -> Sequence[None]:
    transaction.connection.execute(update(INSTALLATION).values(marked=texts[-1]))
    return [None] * len(texts)


def _count(transaction: Transaction, asked: Sequence[Sequence[str]]) -> Sequence[int]:
    open_ = (ACCOUNT.c.held.is_not(None), ACCOUNT.c.choice.is_(None))
    held = set(transaction.connection.scalars(select(ACCOUNT.c.name).where(*open_)))
    return [len(held.intersection(names)) for names in asked]


STANDING: Final = Operation(_standing, writes=False)
QUESTION: Final = Operation(_question, writes=False)
NOTE: Final = Operation(_note)
ASK: Final = Operation(_ask)
MARKED: Final = Operation(_mark)
COUNT_HELD: Final = Operation(_count, writes=False)
