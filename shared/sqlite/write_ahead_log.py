"""Whether the log beside an SQLite file is that file's own.

What is committed lies in ``FILE-wal`` before it gets into the file, and after a kill it stays
there. Where somebody then puts a copy in the place of the file alone, SQLite takes the log of the
old one for its own: pages of both are mixed, which it calls malformed, and writes into the file
when it is closed. Nothing in either says that they belong together. So where a log is older than
the last change of its file, both are read as one, without changing anything, before they are
opened; that costs a reading of the file after some kills, and never after an orderly stop. It
trusts the times of the file system to tell a copy that was put there from a file that was written
to.

Known limits: a mixture that happens to be sound is not told, nor a log that was put there after
the file.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Final
from urllib.parse import quote

from shared.errors import ConfigError
from shared.log import printable
from shared.sqlite.rebuild import is_damage

SLACK: Final = 5.0
"""Seconds that a file may be written to after its log: what is in the log is copied into it."""

PATIENCE: Final = 5.0


def require_own_log(path: Path) -> None:
    """Make sure that a file and the log beside it are not of two files.

    Raises:
        ConfigError: they are; it says what to do.
    """
    log = path.with_name(f"{path.name}-wal")
    if not _older(log, path) or (why := _mixture(path, immutable=False)) is None:
        return
    if _mixture(path, immutable=True) is not None:
        return  # the file is damaged by itself, which whoever opens it will say
    file, beside = printable(str(path)), printable(str(log))
    raise ConfigError(
        file,
        f"beside it lies the log of another file, {beside}: together they are no database"
        f" ({printable(' '.join(why.split()))}), and by itself this file is whole. Where it was put"
        f" there in the place of another one, stop all processes, move {beside} and {file}-shm"
        " away, and start again",
    )


def _older(log: Path, path: Path) -> bool:
    """Return whether there is a log, and the file was changed long after it."""
    try:
        beside = log.stat()
        return beside.st_size > 0 and path.stat().st_ctime > beside.st_mtime + SLACK
    except OSError:
        return False


def _mixture(path: Path, *, immutable: bool) -> str | None:
    """Return what is wrong with a file and its log, or with the file alone; None for nothing."""
    how = "immutable=1" if immutable else "mode=ro"
    where = f"file:{quote(os.fsencode(path.absolute()))}?{how}"
    try:
        with contextlib.closing(sqlite3.connect(where, uri=True, timeout=PATIENCE)) as db:
            (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        return str(error) if is_damage(error) else None
    return None if found == "ok" else str(found)
