"""Many texts as one parameter of a statement, and as rows in it.

A statement with a parameter for each text is made anew for each number of them, and binding a row
costs SQLAlchemy more than SQLite needs to insert it. A JSON array is one parameter; both databases
make rows of it. It trusts them to read what ``json`` writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from sqlalchemy import JSON, ColumnElement, Text, bindparam, cast, func, literal_column, select
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from shared.state.schema import escaped

Texts: TypeAlias = Sequence[str] | Mapping[str, str]
Rows: TypeAlias = Sequence[Sequence[str | None]]

_json: Final = json.JSONEncoder(ensure_ascii=False).encode
"""Made once. As it is: a PostgreSQL database in SQL_ASCII can read no ``\\uXXXX``."""


class _JsonTexts(TypeDecorator[Texts]):
    """Texts, or pairs of them, as JSON; each stored as ``Escaped`` stores it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Texts | None, dialect: Dialect) -> str:
        """Return them as JSON."""
        if isinstance(value, Mapping):
            return _json({escaped(name): escaped(text) for name, text in value.items()})
        return _json([escaped(text) for text in value or ()])


class _JsonRows(TypeDecorator[Rows]):
    """Rows of texts as JSON; each text stored as ``Escaped`` stores it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Rows | None, dialect: Dialect) -> str:
        """Return them as JSON."""
        return _json(
            [[text if text is None else escaped(text) for text in row] for row in value or ()]
        )


def among(dialect: str, column: ColumnElement[str], name: str) -> ColumnElement[bool]:
    """Return a condition: the column is one of the texts in the parameter ``name``."""
    return column.in_(select(each(dialect, name)))


def each(dialect: str, name: str) -> ColumnElement[str]:
    """Return a column with a row for each of the texts in the parameter ``name``."""
    if dialect == "sqlite":
        rows = func.json_each(bindparam(name, type_=_JsonTexts()))
    else:
        rows = func.json_array_elements_text(cast(bindparam(name, type_=_JsonTexts()), JSON))
    return rows.table_valued("value").c.value


def pairs(dialect: str, name: str) -> tuple[ColumnElement[str], ColumnElement[str]]:
    """Return two columns with a row for each pair of the mapping in the parameter ``name``."""
    if dialect == "sqlite":
        rows = func.json_each(bindparam(name, type_=_JsonTexts()))
    else:
        rows = func.json_each_text(cast(bindparam(name, type_=_JsonTexts()), JSON))
    columns = rows.table_valued("key", "value").c
    return columns.key, columns.value


def rows(dialect: str, name: str, width: int) -> list[ColumnElement[str]]:
    """Return columns with a row for each of the rows in the parameter ``name``, of this width."""
    if dialect == "sqlite":
        value = func.json_each(bindparam(name, type_=_JsonRows())).table_valued("value").c.value
        return [func.json_extract(value, literal_column(f"'$[{i}]'")) for i in range(width)]
    many = func.json_array_elements(cast(bindparam(name, type_=_JsonRows()), JSON))
    value = many.table_valued("value").c.value
    return [value.op("->>")(literal_column(str(i))) for i in range(width)]
