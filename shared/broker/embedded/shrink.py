"""Gives room that the queue file does not use any more back to the disk.

Pages that a drained queue leaves free are used again by the next messages, so the file keeps the
size of its largest backlog. Where room on the disk is short, it is cut down to what is in it, a
little at a time. A file of an earlier version, which cannot be cut, is written anew when next to
nothing is in it. What fails is tried again a second later.
"""

from __future__ import annotations

import sqlite3
from typing import Final

_STEP: Final = 512
"""Pages that are given back at a time, 2 MiB; others wait for the file meanwhile."""

_ALMOST_EMPTY: Final = 1024
"""Pages in use, 4 MiB, up to which a file is written anew."""

_INCREMENTAL: Final = 2
"""What ``PRAGMA auto_vacuum`` says of a file that can be cut."""


def give_back(db: sqlite3.Connection) -> bool:
    """Give some of it back; return whether there may be more.

    Args:
        db: the queue file, outside of a transaction.

    Raises:
        sqlite3.Error: it could not be done; nothing has changed.
    """
    free = _number(db, "freelist_count")
    if not free:
        return False
    if _number(db, "auto_vacuum") != _INCREMENTAL:
        if free > _ALMOST_EMPTY > _number(db, "page_count") - free:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("VACUUM")
        else:
            return False
    # As a script: this yields a row without columns for each page, and execute() takes one step.
    db.executescript(f"PRAGMA incremental_vacuum({_STEP})")
    # Not before its log is copied back does the file become shorter.
    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    return free > _STEP


def _number(db: sqlite3.Connection, pragma: str) -> int:
    (found,) = db.execute(f"PRAGMA {pragma}").fetchone()
    return int(found)
