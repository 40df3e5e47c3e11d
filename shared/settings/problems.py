"""What is wrong with a configuration, said so that a person can mend it.

Turns the findings of pydantic into sentences: where (file and line, or variable), which key, what
is expected. Values are never repeated; they might be secrets in the wrong place.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from shared.errors import ConfigError
from shared.settings.values import KeyPath

_SENTENCES: Final[Mapping[str, str]] = {
    "missing": "this key is missing",
    "literal_error": "expected {expected}",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "greater_than_equal": "expected {ge} or more",
    "less_than_equal": "expected {le} or less",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "string_type": "expected a text in quotation marks",
    "model_type": "expected a table of keys",
    "model_attributes_type": "expected a table of keys",
    "mapping_type": "expected a table of keys",
    "dict_type": "expected a table of keys",
    "tuple_type": "expected a list of tables, each begun by [[account]] in double brackets",
    "value_error": "{error}",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: the place, as a person finds it, and a sentence."""

    where: str
    what: str


class WrongSettings(ConfigError):
    """Everything that is wrong with a configuration, one problem a line.

    Args:
        problems: at least one.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(problems[0].where, problems[0].what)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(f"{problem.where}: {problem.what}" for problem in self.problems)


def findings(
    error: ValidationError,
    tables: Mapping[tuple[str, ...], type[BaseModel]],
    within: KeyPath = (),
) -> list[tuple[KeyPath, str]]:
    """Return what pydantic found, as pairs of a key and a sentence.

    Args:
        error: its error.
        tables: the model of each table, by path; ``*`` stands for any name or number.
        within: where what was judged is in these tables.
    """
    return [
        ((*within, *detail["loc"]), _sentence(detail, tables, within))
        for detail in error.errors(include_url=False, include_input=False)
    ]


def hint(word: str, known: Collection[str]) -> str:
    """Return a question for a word that nobody knows, or a list of those that are known."""
    if close := difflib.get_close_matches(word, known, 1, 0.6):
        return f"did you mean {close[0]!r}?"
    return f"known here: {', '.join(sorted(known))}" if known else "there are none"


def _sentence(
    detail: ErrorDetails, tables: Mapping[tuple[str, ...], type[BaseModel]], within: KeyPath
) -> str:
    loc = (*within, *detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"unknown key; {hint(str(loc[-1]), _keys(tables, loc[:-1]))}"
    context: Mapping[str, Any] = detail.get("ctx", {})
    if detail["type"] == "missing":
        what_to_write = _model(tables, loc[:-1]).model_fields[str(loc[-1])].description
        return f"{_SENTENCES['missing']}{f': {what_to_write}' if what_to_write else ''}"
    template = _SENTENCES.get(detail["type"])
    return template.format_map(context) if template else detail["msg"]


def _keys(tables: Mapping[tuple[str, ...], type[BaseModel]], loc: KeyPath) -> list[str]:
    """Return the keys of the table at this place."""
    return [field.alias or name for name, field in _model(tables, loc).model_fields.items()]


def _model(tables: Mapping[tuple[str, ...], type[BaseModel]], loc: KeyPath) -> type[BaseModel]:
    anyone = tuple(str(part) if n == 0 else "*" for n, part in enumerate(loc))
    named = (*anyone[:-1], *map(str, loc[-1:]))
    return tables[named if named in tables else anyone]
