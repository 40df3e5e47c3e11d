"""How an SQLite file is opened that several processes share, and of which every commit counts.

The queue file and the ledgers are opened alike; their tables, and how those are brought up to date,
are each one's own. It trusts nothing about a file that is there already. A commit is on disk when
it returns, because mail is forgotten elsewhere on the strength of it.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from shared.disk.private_file import make_private
from shared.disk.space import log_pages
from shared.sqlite.presence import require_there
from shared.sqlite.write_ahead_log import require_own_log

_PRAGMAS: Final = (
    "journal_mode = WAL",
    "synchronous = FULL",
    # What a single statement would undo by is a few pages; as a file it was a third of all writes.
    "temp_store = MEMORY",
)


def make_ready(path: Path, loss: str) -> None:
    """Make a file, with its directory, for its owner alone, if it was never there.

    Args:
        path: the file.
        loss: what it means to go on without one that was lost, see ``require_there``.

    Raises:
        ConfigError: it was made once, and is gone; or the log beside it is another file's.
        OSError: it cannot be made, or this user may not read and write it.
    """
    require_there(path, loss)
    require_own_log(path)
    make_private(path)


def set_pragmas(connection: sqlite3.Connection, path: Path, most_log: int) -> int:
    """Make a new connection write as it has to.

    Args:
        connection: to the file.
        path: the file.
        most_log: pages of the log on a disk of a usual size.

    Returns:
        Pages of the log, after which it is copied into the file.

    Raises:
        sqlite3.Error: the file is locked, damaged or no database.
    """
    pages = log_pages(path, most_log)
    for pragma in (*_PRAGMAS, f"wal_autocheckpoint = {pages}"):
        connection.execute(f"PRAGMA {pragma}").close()
    return pages
