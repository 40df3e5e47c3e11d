"""SQLite files that are damaged: what is said of them, how they are checked, and rebuilt.

Rebuilt is what can still be read: each table from its beginning to the first page that cannot be
read, and from its end back to the last one. What is lost from the ledgers costs a download, or a
second delivery; what is lost from the queues is lost, unless it lies at the provider. The damaged
file stays beside the new one. It trusts that nobody uses the file meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from shared import failpoint
from shared.disk.durable import sync
from shared.disk.space import space
from shared.errors import ConfigError
from shared.log import printable
from shared.sqlite.presence import mark_of, way_out

SIDES: Final = ("-wal", "-shm")
_VERSION: Final = "schema_version"
"""A table that is right in the new file already."""

_CHECKED: Final = 5
"""Faults that are told of at the most."""

_PASSING: Final = frozenset(
    (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY)
)
_UNREADABLE: Final = frozenset((sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ))
"""A page that the disk does not give, or that is not there: as lost as one that was overwritten."""

_LITTLE: Final = 64 * 1024
"""Bytes; SQLite needs 32 KiB beside a file to look into it."""

_MOST_KEPT: Final = 1000
"""Damaged files of one name."""


class FileHealth(NamedTuple):
    """How a file is.

    Attributes:
        faults: what is wrong with it, in SQLite's words; none where it is whole.
        rows: how many there are in each table that can be read.
        unknown: why it could not be looked at, which is no damage; None where it was.
    """

    faults: list[str]
    rows: dict[str, int]
    unknown: str | None = None


class Rebuilt(NamedTuple):
    """What became of a table: how many rows were kept, and whether that was all of it."""

    table: str
    rows: int
    whole: bool


def damage_error(path: Path, why: str) -> ConfigError:
    """Return what is said of a damaged file, whoever meets with it, and when.

    Args:
        path: the file.
        why: what SQLite says.
    """
    return ConfigError(
        printable(str(path)),
        f"the file is damaged ({printable(why)}). {way_out('keeps what can be read')}",
    )


def is_damage(error: BaseException | None) -> bool:
    """Return whether an error of SQLite says that the file is damaged."""
    codes = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return (
        isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in codes
    )


def file_health(path: Path) -> FileHealth:
    """Check a file, which may be in use; nothing in it changes."""
    try:
        with contextlib.closing(_open(path)) as db:
            faults = [str(row[0]) for row in db.execute(f"PRAGMA integrity_check({_CHECKED})")]
            rows = {name: _count(db, name) for name, _ in _tables(db)}
    except sqlite3.Error as error:
        said = printable(str(error))
        if _passes(error):
            return FileHealth([], {}, _trouble(path, error))
        return FileHealth([said], {})
    return FileHealth([] if faults == ["ok"] else faults, rows)


def rebuild(
    path: Path, empty: Path, put_right: Callable[[Path, Sequence[Rebuilt]], None]
) -> tuple[list[Rebuilt], Path | None]:
    """Copy what can be read of a file into a new one, which then takes its place.

    Killed at any moment it has lost nothing: until the new file is whole and on disk, the old one
    has its name; and there is never none.

    Raises:
        OSError: there is no room for the new file, or the disk does not take or give the data; all
            is as it was.

    Args:
        path: the damaged file; it is kept, with ``.damaged`` at the end of its name, and a number
            where there is one already.
        empty: a file with all tables, and nothing in them.
        put_right: what is to be done with the new file before it is used, given what is in it.

    Returns:
        What became of each table, and where the damaged file is now; None if there was none.
    """
    with contextlib.closing(sqlite3.connect(empty, isolation_level=None)) as new:
        new.execute("PRAGMA synchronous = FULL")
        found = [_copy_table(path, new, table) for table, _ in _tables(new) if table != _VERSION]
    put_right(empty, found)
    with contextlib.closing(sqlite3.connect(empty, isolation_level=None)) as new:
        new.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    sync(empty)
    failpoint.reach("rebuild", "written")
    kept = _set_aside(path)
    sync(path.parent)
    failpoint.reach("rebuild", "aside")
    empty.replace(path)
    failpoint.reach("rebuild", "in-place")
    sync(path.parent)
    remove(empty)
    return found, kept


def remove(path: Path) -> None:
    """Delete a file that was made for a while, with all that lies beside it."""
    for file in (*(path.with_name(path.name + side) for side in ("", *SIDES)), mark_of(path)):
        file.unlink(missing_ok=True)


def _set_aside(path: Path) -> Path | None:
    """Give a file, if there is one, a second name, and what lies beside it that name alone.

    The log of the old file must not lie beside the new one, not for a moment: it would be played
    back into it. So it goes into the old file first, as far as that works: where it does not, the
    old file cannot be read without it, and is refused by whoever opens it before the new is there.
    """
    with contextlib.suppress(sqlite3.Error), contextlib.closing(_open(path, "rw")) as old:
        old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    numbers = ("", *(f".{number}" for number in range(1, _MOST_KEPT)))
    for number in numbers:
        kept = path.with_name(f"{path.name}.damaged{number}")
        with contextlib.suppress(FileExistsError):
            if path.exists():
                _link_or_copy(path, kept)
            break
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(kept))
    for side in SIDES:
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + side).replace(kept.with_name(kept.name + side))
    return kept if kept.exists() else None


def _link_or_copy(path: Path, kept: Path) -> None:
    try:
        kept.hardlink_to(path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        with path.open("rb") as source, kept.open("xb") as copy:
            kept.chmod(0o600)
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())


def _copy_table(path: Path, new: sqlite3.Connection, table: str) -> Rebuilt:
    whole = False
    new.execute("BEGIN IMMEDIATE")
    for order in ("ASC", "DESC"):
        try:
            with contextlib.closing(_open(path)) as old:
                for row in _rows(old, new, table, order):
                    _put(new, *row)
        except sqlite3.Error as error:
            if path.exists() and _passes(error):
                raise OSError(_trouble(path, error)) from error
            continue  # from the other end
        whole = True
        break
    new.execute("COMMIT")
    return Rebuilt(table, _count(new, table), whole)


def _put(new: sqlite3.Connection, statement: str, values: tuple[object, ...]) -> None:
    """Put a row into the new file: what goes wrong there is no damage of the old one."""
    try:
        new.execute(statement, values)
    except sqlite3.IntegrityError:
        raise
    except sqlite3.Error as error:
        raise OSError(f"no new file can be written: {printable(str(error))}") from error


def _passes(error: sqlite3.Error) -> bool:
    """Return whether an error is of the disk or of the moment, and not of what is in the file."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code not in _UNREADABLE and code & 0xFF in _PASSING


def _trouble(path: Path, error: sqlite3.Error) -> str:
    """Return what an error of the disk means, and what to do."""
    found = space(path)
    if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL or (found and found.free < _LITTLE):
        return f"the disk is full: make room on it ({printable(str(error))})"
    return f"the disk does not take or give the data ({printable(str(error))})"


def _rows(
    old: sqlite3.Connection, new: sqlite3.Connection, table: str, order: str
) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Yield the statement for each row of a table, with the columns that both files have."""
    here, there = ([str(r[1]) for r in _columns(db, table)] for db in (new, old))
    names = ", ".join(f'"{column}"' for column in here if column in there)
    if not names:
        raise sqlite3.DatabaseError("the table is gone")
    key = ", ".join(f"{column} {order}" for column in _key(old, table))
    marks = ", ".join("?" * (names.count(",") + 1))
    put = f'INSERT OR REPLACE INTO "{table}" ({names}) VALUES ({marks})'  # noqa: S608
    for row in old.execute(f'SELECT {names} FROM "{table}" ORDER BY {key}'):  # noqa: S608
        yield put, row


def _columns(db: sqlite3.Connection, table: str) -> list[tuple[object, ...]]:
    return db.execute(f'PRAGMA table_info("{table}")').fetchall()


def _key(db: sqlite3.Connection, table: str) -> list[str]:
    """Return the columns by which a table is stored, so that it is read page by page."""
    rows = [row for row in _columns(db, table) if row[5]]
    key = [f'"{row[1]}"' for row in sorted(rows, key=lambda row: str(row[5]))]
    return key or ["rowid"]


def _open(path: Path, mode: str = "ro") -> sqlite3.Connection:
    db = sqlite3.connect(f"file:{quote(os.fsencode(path.absolute()))}?mode={mode}", uri=True)
    # Else SQLite reads nothing at all of a file that was cut off.
    db.execute("PRAGMA writable_schema = ON")
    return db


def _tables(db: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    yield from db.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
    ).fetchall()


def _count(db: sqlite3.Connection, table: str) -> int:
    try:
        (count,) = db.execute(f'SELECT count(*) FROM "{table}"').fetchone()  # noqa: S608
    except sqlite3.Error:
        return 0
    return int(count)
