"""Where settings are written: a TOML file, and environment variables laid over it.

Gives one nested document, and can say of every key where it came from (``connector.toml:12``, or
the name of the variable), so that an error points at what the user has to change. Nothing here
knows which keys exist.

Environment variables are named ``POP3_CONNECTOR__BROKER__URL``: the path of the key, its parts
joined by two underscores, in capitals. An account is named by its number or its name, with an
underscore for every character other than a letter or digit (``..__ACCOUNT__0__PORT``,
``..__ACCOUNT__SALES__PORT``); one that does not exist yet is made. With ``_FILE`` at its end the
variable names a file that holds the value, as container secrets do. Empty variables do not count.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeAlias

import tomli

from shared.errors import ConfigError
from shared.settings.secret import read_secret, sources
from shared.settings.values import KeyPath, dotted, expanded

PREFIX: Final = "POP3_CONNECTOR__"
NAMED_LISTS: Final = ("account",)
"""Lists of tables that an environment variable may address by the ``name`` in them."""

_INSTEAD: Final = (
    *map(sources, ("password", "client_secret", "refresh_token")),
    ("url", "urls"),
)
"""Keys that are ways to say the same."""

_HEADER: Final = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]")
_KEY: Final = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*[^\s.=]+)*)\s*=""")
_PART: Final = re.compile(r"""\s*("[^"]*"|'[^']*'|[^.\s]+)\s*\.?""")
_AT_LINE: Final = re.compile(r"\s*\(at line (\d+), column (\d+)\)$")

Document: TypeAlias = dict[str, Any]


class SettingsSource:
    """The document, and where each key of it was found.

    Args:
        path: the TOML file, None if there is only the environment.
        environ: the environment.
        plain: keys that end in ``_file`` by their own name, and are not read from a file here.

    Raises:
        ConfigError: the file cannot be read or is not TOML, or a variable does not fit.
    """

    def __init__(
        self, path: Path | None, environ: Mapping[str, str], plain: Collection[str]
    ) -> None:
        self._path = path
        self._variables: dict[KeyPath, str] = {}
        self._plain = frozenset(plain)
        self._hash = hashlib.sha256()
        self.document: Document = {}
        if path is not None:
            text = _read(path)
            self._hash.update(text.encode())
            self.document = _parse(path, text)
        for name in sorted(environ):
            if name.startswith(PREFIX) and environ[name]:
                self._overlay(name, environ[name])

    @property
    def digest(self) -> str:
        """What no other configuration has: a hash of the file, and of what is laid over it."""
        return self._hash.hexdigest()

    @cached_property
    def _lines(self) -> Mapping[KeyPath, int]:
        """The line of each key: looked for where there is an error, as it takes its time.

        Should the file be another one by now, a line may be off.
        """
        if self._path is None:
            return {}
        try:
            return dict(_key_lines(_read(self._path)))
        except ConfigError:
            return {}

    def where(self, path: KeyPath) -> str:
        """Return where a key stands, for an error: file and line or variable, then the key.

        Of a key that stands nowhere (it is missing), the place of the table it belongs to.
        """
        for length in range(len(path), 0, -1):
            known = path[:length]
            if known in self._variables:
                return _join(self._variables[known], dotted(path))
            if known in self._lines:
                return _join(f"{self._path}:{self._lines[known]}", dotted(path))
        return _join("environment" if self._path is None else str(self._path), dotted(path))

    def has(self, path: KeyPath) -> bool:
        """Return whether a key is written somewhere."""
        return path in self._variables or path in self._lines

    def _overlay(self, name: str, value: str) -> None:
        """Put the value of one environment variable into the document."""
        *tables, key = name[len(PREFIX) :].split("__")
        key = key.lower()
        if key.endswith("_file") and key not in self._plain:
            key, value = key.removesuffix("_file"), read_secret(expanded(value), name)
        self._hash.update(f"\0{name}\0{value}".encode(errors="surrogateescape"))
        place, path = self._descend(name, tables)
        for group in _INSTEAD:
            # What is given here replaces what the file gives, whichever way it does.
            for other in group if key in group else ():
                if (*path, other) not in self._variables:
                    place.pop(other, None)
        place[key] = value
        self._variables[(*path, key)] = name

    def _descend(self, name: str, tables: list[str]) -> tuple[Document, KeyPath]:
        """Return the table that these parts of a variable's name lead to, made where missing."""
        place: Any = self.document
        path: KeyPath = ()
        for part in tables:
            if isinstance(place, list):
                step: str | int = self._element(name, place, part, path)
                self._variables.setdefault((*path, step), name)
            else:
                step = _existing(place, part)
                place.setdefault(step, [] if step in NAMED_LISTS and not path else {})
            place, path = place[step], (*path, step)
            if not isinstance(place, dict | list):
                raise ConfigError(name, f"{dotted(path)} is a value, not a table")
        if not isinstance(place, dict):
            raise ConfigError(name, f"{dotted(path)} needs a number or name, and a key, after it")
        return place, path

    def _element(self, name: str, places: list[Any], part: str, path: KeyPath) -> int:
        """Return the index of a list's table by its number or name, appending a new one."""
        if part.isdecimal():
            if int(part) > len(places):
                raise ConfigError(
                    name, f"there are only {len(places)} before it; numbers start at 0"
                )
            if int(part) == len(places):
                places.append({})
            return int(part)
        for index, table in enumerate(places):
            if isinstance(table, dict) and _shout(str(table.get("name", ""))) == part:
                return index
        places.append({"name": part.lower()})
        return len(places) - 1


def _join(place: str, key: str) -> str:
    return f"{place}: {key}" if key else place


def _shout(text: str) -> str:
    """Return a name as it is written in the name of an environment variable."""
    return re.sub(r"[^A-Z0-9]", "_", text.upper())


def _existing(table: Document, part: str) -> str:
    """Return the key of a table that this part of a variable's name means."""
    return next((key for key in table if _shout(key) == part), part.lower())


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")  # less the byte order mark of Windows
    except OSError as error:
        raise ConfigError(str(path), f"cannot read it: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), f"it is not UTF-8 text (byte {error.start})") from error


def _parse(path: Path, text: str) -> Document:
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        said = str(error)
        at = _AT_LINE.search(said)
        where = f"{path}:{at[1]}:{at[2]}" if at else str(path)
        # The original error is cut off: from Python 3.14 on it carries the document, secrets too.
        raise ConfigError(where, f"this is not TOML: {_AT_LINE.sub('', said)}") from None


def _key_lines(text: str) -> Iterator[tuple[KeyPath, int]]:
    """Yield the path of each key and table header with its line.

    It reads line by line, and so takes a line inside a multi-line string for what it looks like;
    the document itself comes from tomli, only the line in an error message might be off.
    """
    table: KeyPath = ()
    counts: dict[KeyPath, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _numbered(_parts(header[2]), counts)
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                yield table, number
                table = (*table, counts[table])
            yield table, number
        elif key := _KEY.match(line):
            path = (*table, *_parts(key[1]))
            yield path, number


def _numbered(table: KeyPath, counts: Mapping[KeyPath, int]) -> KeyPath:
    """Return where a table is that lies in the last one of a list, such as ``[account.oauth]``."""
    for length in range(1, len(table)):
        if (begin := table[:length]) in counts:
            return (*begin, counts[begin], *table[length:])
    return table


def _parts(text: str) -> KeyPath:
    return tuple(part.strip("\"'") for part in _PART.findall(text))
