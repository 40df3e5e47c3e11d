"""What the parts of the state share: operations that are done for many callers in one transaction.

An operation is a function of many items: it answers for each of them, in order, with as few
statements as will do. All operations that wait at a moment become one transaction. Operations are
repeatable, since a transaction is tried again where nobody knows whether it was committed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

from sqlalchemy import Connection, Table

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

T = TypeVar("T")
R = TypeVar("R")
Upsert: TypeAlias = "sqlite.Insert | postgresql.Insert"

MAX_SKEW: Final = 60.0
"""Seconds by which the clocks of two machines may differ. What was written further in the future
than that was written by a clock that has since been set back."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """What an operation works with.

    Attributes:
        connection: in a transaction; whoever asked for it commits it.
        owner: who we are.
        now: the wall clock, in seconds since 1970.
    """

    connection: Connection
    owner: str
    now: float

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self.connection.dialect.name


@dataclass(frozen=True, slots=True, eq=False)
class Operation(Generic[T, R]):
    """Something that can be asked of the database.

    Attributes:
        run: answers for every item, in order.
        writes: whether it changes anything.
        parts: takes an item apart whose answer is None, so that of its values a bad one fails
            alone.
    """

    run: Callable[[Transaction, Sequence[T]], Sequence[R]]
    writes: bool = True
    parts: Callable[[T], Sequence[T]] = lambda item: (item,)


def for_each(
    run: Callable[[Transaction, T], R],
) -> Callable[[Transaction, Sequence[T]], Sequence[R]]:
    """Return what does for many items, one after the other, what this does for one."""
    return lambda transaction, items: [run(transaction, item) for item in items]


def once_for_all(
    run: Callable[[Transaction], R],
) -> Callable[[Transaction, Sequence[None]], Sequence[R]]:
    """Return what gives everybody who asks the same answer."""
    return lambda transaction, asked: [run(transaction)] * len(asked)


Asked: TypeAlias = tuple[Operation[Any, Any], Any]


def parts(asked: Asked) -> Sequence[Asked]:
    """Return something asked in as many parts as it can be asked in, itself where it is one."""
    operation, item = asked
    return [(operation, part) for part in operation.parts(item)]


def insert_into(dialect: str, table: Table) -> Upsert:
    """Return an INSERT of this dialect, one that can be given an ON CONFLICT clause."""
    # Of the dialects, only the one in use is loaded: all drivers of PostgreSQL would come with it.
    insert: Callable[[Table], Upsert] = import_module(f"sqlalchemy.dialects.{dialect}").insert
    return insert(table)
