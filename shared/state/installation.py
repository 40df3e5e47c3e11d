"""Which state database this is, and how far it has got: what marks elsewhere are compared with.

``shared.mark`` says what follows from it. Whoever asks and answers holds the lease ``LEASE``, so
that of several fetchers one at a time does.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Double,
    Executable,
    bindparam,
    case,
    literal,
    select,
    update,
)

from shared.mark import Mark
from shared.state.batch import Batch, Operation, insert_into
from shared.state.schema import ACCOUNT, INSTALLATION, MESSAGE, UIDL

LEASE: Final = "installation"

_ONE: Final = 1
"""The key of the only row."""


class Standing(NamedTuple):
    """What the database says of itself.

    Attributes:
        own: how far it has got, None where it never wrote that down.
        used: whether it knows of any mail, or of a poll that came to its end.
        asked: the marks that the operator was asked about, as a text; None where there were none.
        marked: places that took its last mark, as a text.
    """

    own: Mark | None
    used: bool
    asked: str | None
    marked: str | None


class Noted(NamedTuple):
    """How far it is to have got.

    Attributes:
        least: a number that it goes beyond.
    """

    least: int


def _standing(batch: Batch, asked: Sequence[None]) -> Sequence[Standing]:
    row = batch.connection.execute(select(INSTALLATION)).first()
    known = select(literal(_ONE)).limit(1)
    fetched = any(
        batch.connection.scalar(known.select_from(table)) is not None for table in (MESSAGE, UIDL)
    )
    polled = known.where(ACCOUNT.c.last_ok.is_not(None))
    used = fetched or batch.connection.scalar(polled) is not None
    found = Standing(None, used, None, None)
    if row is not None:
        found = Standing(Mark(row.id, row.number, row.at), used, row.asked, row.marked)
    return [found] * len(asked)


def _note(batch: Batch, asked: Sequence[Noted]) -> Sequence[Mark]:
    """Get on by one, beyond what is asked, and ask the operator nothing any more."""
    values = {"id": secrets.token_hex(16), "least": max(least for (least,) in asked)}
    rows = batch.connection.execute(_get_on(batch.dialect), {**values, "now": batch.now})
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


def _ask(batch: Batch, texts: Sequence[str]) -> Sequence[None]:
    """Write down which marks the operator is asked about; make the row, if need be."""
    insert = insert_into(batch.dialect, INSTALLATION).values(
        one=_ONE, id=secrets.token_hex(16), number=0, at=batch.now, asked=texts[-1]
    )
    asking = insert.on_conflict_do_update(
        index_elements=[INSTALLATION.c.one], set_={"asked": insert.excluded.asked}
    )
    batch.connection.execute(asking)
    return [None] * len(texts)


def _mark(batch: Batch, texts: Sequence[str]) -> Sequence[None]:
    batch.connection.execute(update(INSTALLATION).values(marked=texts[-1]))
    return [None] * len(texts)


def _count(batch: Batch, asked: Sequence[Sequence[str]]) -> Sequence[int]:
    open_ = (ACCOUNT.c.held.is_not(None), ACCOUNT.c.choice.is_(None))
    held = set(batch.connection.scalars(select(ACCOUNT.c.name).where(*open_)))
    return [len(held.intersection(names)) for names in asked]


STANDING: Final = Operation(_standing, writes=False)
NOTE: Final = Operation(_note)
ASK: Final = Operation(_ask)
MARKED: Final = Operation(_mark)
COUNT_HELD: Final = Operation(_count, writes=False)
