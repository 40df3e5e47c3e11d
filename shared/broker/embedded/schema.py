"""The file of the embedded broker: opening it, its schema, and what its errors mean.

One SQLite file in WAL mode. Every commit is synced to the disk before it counts (``synchronous =
FULL``), because a message is forgotten at its POP3 server on the strength of it. The file holds
mail, so only its owner may read it. It trusts nothing about a file that is there already: another
program's database and a newer version's are refused. Pages that a drained queue leaves free are
used again; the file keeps the size of the largest backlog it has held, and never more, until room
on the disk is short (``shrink``).
"""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path
from typing import Final

from shared.broker.embedded.statements import transaction
from shared.disk.explain import disk_words
from shared.disk.space import PAGE
from shared.errors import (
    BrokerUnavailable,
    ConfigError,
    QueueFileDamaged,
    QueueFileUnavailable,
)
from shared.log import printable
from shared.sqlite.open import make_ready, set_pragmas
from shared.sqlite.presence import QUEUES_LOST, note_made
from shared.sqlite.rebuild import damage_error, is_damage

APPLICATION_ID: Final = 0x504F5033
"""What ``file`` and we recognise our database by: "POP3" (SQLite file format, section 1.3)."""

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE queue (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            kind TEXT NOT NULL,
            ttl REAL,
            back_to TEXT
        )""",
        # The content of a message never changes; only the small rows below do. The body comes
        # last, so that the rest can be read without following its overflow pages.
        """CREATE TABLE message (
            id INTEGER PRIMARY KEY,
            message_id TEXT NOT NULL,
            headers TEXT NOT NULL,
            body BLOB NOT NULL
        )""",
        # Each message is in exactly one of these three, and each is in the order it is asked for.
        """CREATE TABLE waiting (
            queue INTEGER NOT NULL,
            id INTEGER NOT NULL,
            handouts INTEGER NOT NULL,
            PRIMARY KEY (queue, id)
        ) WITHOUT ROWID""",
        """CREATE TABLE delayed (
            queue INTEGER NOT NULL,
            due REAL NOT NULL,
            id INTEGER NOT NULL,
            PRIMARY KEY (queue, due, id)
        ) WITHOUT ROWID""",
        """CREATE TABLE lease (
            owner INTEGER NOT NULL,
            id INTEGER NOT NULL,
            queue INTEGER NOT NULL,
            handouts INTEGER NOT NULL,
            PRIMARY KEY (owner, id)
        ) WITHOUT ROWID""",
        # AUTOINCREMENT: the number of an owner is never given to another one.
        """CREATE TABLE owner (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL,
            renewed REAL NOT NULL
        )""",
    ),
)
"""Each step's statements; ``PRAGMA user_version`` says how many steps a file has behind it."""

TABLES: Final = frozenset(("queue", "message", "waiting", "delayed", "lease", "owner"))

_OF_A_NEW_FILE: Final = "PRAGMA auto_vacuum = INCREMENTAL"
"""So that ``shrink`` can give room back. It writes to the file whenever it is said, and on a full
disk nobody could look into it."""

_WIPING: Final = "PRAGMA secure_delete = FAST"
"""Content is wiped where that costs no extra write; the file is private anyway."""

LOG_PAGES: Final = 4000
"""Pages of the log, 16 MiB: fewer checkpoints than by default. After a spike it is cut back."""

_MEANINGS: Final = {
    sqlite3.SQLITE_BUSY: "another process keeps the queue file locked",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk does not take or give the data",
    sqlite3.SQLITE_READONLY: "the queue file cannot be written",
    sqlite3.SQLITE_PERM: "the queue file may not be opened by this user",
    sqlite3.SQLITE_CANTOPEN: "the queue file cannot be opened",
}
_FOR_THE_USER: Final = frozenset(
    (
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_CANTOPEN,
    )
)
_PASSING: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE))


def connect(path: Path, patience: float) -> sqlite3.Connection:
    """Return a connection to the queue file, which is made or brought up to date if need be.

    Args:
        path: the file; a directory that is missing is made, for its owner alone.
        patience: seconds to wait for another process's transaction.

    Raises:
        ConfigError: the file cannot be used at all: not writable, not ours, of a newer version; or
            it was made once, and is gone; or the log beside it is another file's.
        BrokerUnavailable: it cannot be used just now: locked, or the disk is full.
    """
    try:
        make_ready(path, QUEUES_LOST)
        connection = sqlite3.connect(path, timeout=patience, isolation_level=None)
    except (sqlite3.Error, OSError) as error:
        raise unusable(path, error) from error
    try:
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise unusable(path, error) from error
    except ConfigError:
        connection.close()
        raise
    note_made(path)
    return connection


def unavailable(path: Path, error: Exception) -> BrokerUnavailable:
    """Return what an error of SQLite means to somebody who waits for the broker."""
    if is_damage(error):
        return QueueFileDamaged(str(damage_error(path, str(error))))
    return QueueFileUnavailable(_sentence(path, error))


def is_full(error: Exception) -> bool:
    """Return whether an error of SQLite says that the disk is full."""
    return _code(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def is_a_values(error: Exception) -> bool:
    """Return whether a value is at fault, and the file takes everything else."""
    return isinstance(
        error, sqlite3.IntegrityError | sqlite3.DataError | OverflowError | UnicodeError
    )


def unusable(path: Path, error: Exception) -> ConfigError | BrokerUnavailable:
    """Return what an error means to somebody who opens the file: is it to be mended, or waited out?

    Args:
        path: the queue file.
        error: of SQLite, or of the operating system.
    """
    if is_damage(error):
        return damage_error(path, str(error))
    if isinstance(error, OSError):
        passing, what = error.errno in _PASSING, disk_words(error, path)
    else:
        code = _code(error)
        passing, what = code not in _FOR_THE_USER, f"{_MEANINGS.get(code, '')} ({error})"
    return unavailable(path, error) if passing else ConfigError(str(path), printable(what))


def _code(error: Exception) -> int:
    # The low byte is the primary result code; what the sqlite3 module itself raises has none.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _sentence(path: Path, error: Exception) -> str:
    said = printable(disk_words(error, path) if isinstance(error, OSError) else str(error))
    meaning = _MEANINGS.get(_code(error))
    return f"{path}: {said}" if meaning is None else f"{path}: {meaning} ({said})"


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = _version(connection, path)
    if version == len(MIGRATIONS) and (missing := TABLES - _tables(connection)):
        raise damage_error(path, f"there is no table {', '.join(sorted(missing))}")
    if not version:
        connection.execute(_OF_A_NEW_FILE)
    pages = set_pragmas(connection, path, LOG_PAGES)
    connection.execute(_WIPING)
    connection.execute(f"PRAGMA journal_size_limit = {pages * PAGE}")
    if version == len(MIGRATIONS):
        return
    with transaction(connection):
        for step in MIGRATIONS[_version(connection, path) :]:  # another process may have been here
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _tables(connection: sqlite3.Connection) -> set[str]:
    found = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
    return {name for (name,) in found}


def _version(connection: sqlite3.Connection, path: Path) -> int:
    # Tables first: another process may be making the file, and commits both together.
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if tables and application != APPLICATION_ID:
        raise ConfigError(str(path), "this is the database of another program, not a queue file")
    if version > len(MIGRATIONS):
        raise ConfigError(
            str(path),
            f"the queue file has schema {version}, written by a newer version of this program;"
            f" this one knows up to {len(MIGRATIONS)}",
        )
    return int(version)
