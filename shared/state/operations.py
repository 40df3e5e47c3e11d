"""What the parts of the state share: operations that are done for many callers in one transaction.

An operation answers for each who asks, in order, with as few statements as will do. All operations
that wait at a moment become one transaction. They are repeatable, since a transaction is tried
again where nobody knows whether it was committed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar, TypeVarTuple

from sqlalchemy import Connection, Table

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

T = TypeVar("T")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")
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
class Operation(Generic[R, *Ts]):
    """Something that can be asked of the database, with some arguments.

    Attributes:
        run: answers for everybody who asks, in order, given the arguments of each.
        writes: whether it changes anything.
        parts: takes arguments apart for which the answer is None, so that of their values a bad one
            fails alone.
    """

    run: Callable[[Transaction, Sequence[tuple[*Ts]]], Sequence[R]]
    writes: bool
    parts: Callable[..., Sequence[tuple[Any, ...]]]


def _whole(*arguments: object) -> Sequence[tuple[Any, ...]]:
    return [arguments]


def for_each(
    one: Callable[[Transaction, *Ts], R],
    *,
    writes: bool = True,
    parts: Callable[..., Sequence[tuple[Any, ...]]] = _whole,
) -> Operation[R, *Ts]:
    """Return what is done for one who asks after the other."""
    return Operation(lambda work, asked: [one(work, *each) for each in asked], writes, parts)


def for_all(
    many: Callable[[Transaction, Sequence[T]], Sequence[R]],
    *,
    writes: bool = True,
    parts: Callable[[T], Sequence[T]] = lambda item: (item,),
) -> Operation[R, T]:
    """Return what is done at once for all who ask."""
    return Operation(
        lambda work, asked: many(work, [item for (item,) in asked]),
        writes,
        lambda item: [(part,) for part in parts(item)],
    )


def once_for_all(one: Callable[[Transaction], R], *, writes: bool = True) -> Operation[R]:
    """Return what gives everybody who asks the same answer."""
    return Operation(lambda work, asked: [one(work)] * len(asked), writes, _whole)


Asked: TypeAlias = tuple[Operation[Any, *tuple[Any, ...]], tuple[Any, ...]]


def parts(asked: Asked) -> Sequence[Asked]:
    """Return something asked in as many parts as it can be asked in, itself where it is one."""
    operation, arguments = asked
    return [(operation, part) for part in operation.parts(*arguments)]


def insert_into(dialect: str, table: Table) -> Upsert:
    """Return an INSERT of this dialect, one that can be given an ON CONFLICT clause."""
    # Of the dialects, only the one in use is loaded: all drivers of PostgreSQL would come with it.
    insert: Callable[[Table], Upsert] = import_module(f"sqlalchemy.dialects.{dialect}").insert
    return insert(table)
