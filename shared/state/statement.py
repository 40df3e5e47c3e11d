"""Statements that run with every message: written by SQLAlchemy once, run by the driver itself.

Run by SQLAlchemy, a statement costs several times the CPU that SQLite needs for an upsert of one
row. What the driver raises passes through: ``Database`` knows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sqlalchemy import Connection, Delete, Insert, Select, Update
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from shared.state.operations import Transaction

SqlStatement: TypeAlias = Select[Any] | Insert | Update | Delete
_Convert: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Text:
    """A statement as one dialect has it.

    Attributes:
        sql: with named parameters.
        given: the parameters that have their values already.
        to_stored: how to write the values of the others.
        from_stored: how to read the columns of a row; None where there is nothing to do.
    """

    sql: str
    given: Mapping[str, object]
    to_stored: Mapping[str, _Convert]
    from_stored: Sequence[_Convert | None]


@dataclass(slots=True)
class Statement:
    """A statement with named parameters; decorates what makes it.

    Args:
        make: makes it for a dialect, ``sqlite`` or ``postgresql``.
    """

    make: Callable[[str], SqlStatement]
    _texts: dict[str, _Text] = field(default_factory=dict)

    def run(self, transaction: Transaction, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Run it, and return the rows that it answers with."""
        connection = transaction.connection
        text = self._texts.get(connection.dialect.name) or self._text(connection)
        stored = {**text.given, **values}
        for name, convert in text.to_stored.items():
            stored[name] = convert(stored[name])
        cursor = connection.connection.cursor()
        try:
            cursor.execute(text.sql, stored)
            rows = cursor.fetchall() if text.from_stored else []
        finally:
            cursor.close()
        return [self._read(text, row) for row in rows]

    def _read(self, text: _Text, row: Sequence[Any]) -> tuple[Any, ...]:
        pairs = zip(row, text.from_stored, strict=True)
        return tuple([value if convert is None else convert(value) for value, convert in pairs])

    def _text(self, connection: Connection) -> _Text:
        dialect = connection.dialect
        made = self.make(dialect.name)
        compiled = made.compile(dialect=dialect)
        # All but types of our own go as they are: texts, numbers.
        own = {n: b.type for n, b in compiled.binds.items() if isinstance(b.type, TypeDecorator)}
        to_stored = {name: kind.bind_processor(dialect) for name, kind in own.items()}
        text = self._texts[dialect.name] = _Text(
            str(compiled),
            {name: value for name, value in compiled.params.items() if value is not None},
            {name: convert for name, convert in to_stored.items() if convert is not None},
            [_reading(column.type, dialect) for column in made.exported_columns],
        )
        return text


def _reading(kind: TypeEngine[Any], dialect: Dialect) -> _Convert | None:
    return kind.result_processor(dialect, None) if isinstance(kind, TypeDecorator) else None
