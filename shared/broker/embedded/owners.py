"""Who holds leases in the queue file, and whether they still live.

Every open broker is an owner: a row in the file, and a lock (``flock``) on ``<file>.owners/<id>``.
The kernel drops the lock when the process ends, however it ends, so a free lock means that the
owner is dead and its leases can be taken over at once; no clock has a say in that. A process that
is alive but frozen (stopped, swapped to death) keeps its lock; it is given up when it has not
renewed its row for ``FROZEN_AFTER``. That is measured on the monotonic clock, which all processes
of a machine share and nobody sets; a restart of the machine frees all locks anyway.

Lock files are made, and removed, inside a write transaction on the queue file, of which SQLite
allows one at a time. So nobody can lock a file that is just being removed, or find a row whose
lock is not held yet.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import weakref
from pathlib import Path
from typing import Final

FROZEN_AFTER: Final = 900.0
"""Seconds without renewal. Long: to give up an owner that lives after all means delivering twice,
while a frozen one delays only the few messages it holds."""

RENEW_EVERY: Final = 60.0
"""Seconds between renewals; each is a write, and one in fifteen is enough."""


class Evicted(Exception):
    """Others took this owner for frozen, and have taken its leases."""


class Owner:
    """This process's claim to its leases, for as long as the lock is held.

    Attributes:
        id: the number of its row, never given to another owner.
    """

    def __init__(self, id_: int, fd: int) -> None:
        self.id = id_
        self._unlock = weakref.finalize(self, os.close, fd)
        # A forked child shares the lock and would keep it alive after us; closing its copy of the
        # descriptor does not unlock ours. An exec closes it by itself.
        os.register_at_fork(after_in_child=self._unlock)

    def unlock(self) -> None:
        """Let go of the lock; from now on the owner is dead to everybody."""
        self._unlock()


def register(db: sqlite3.Connection, path: Path, name: str, now: float) -> Owner:
    """Become an owner. To be called inside a write transaction.

    Args:
        db: the queue file, open.
        path: where it is.
        name: who we are, for whoever looks into the file.
        now: monotonic seconds.

    Raises:
        OSError: the lock file cannot be made.
    """
    row = db.execute("INSERT INTO owner (name, renewed) VALUES (?, ?)", (name, now))
    assert row.lastrowid is not None  # noqa: S101  (an INSERT has one)
    lock = _lock_file(path, row.lastrowid)
    lock.parent.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return Owner(row.lastrowid, fd)


def require(db: sqlite3.Connection, owner: int) -> None:
    """Return if the owner is in the file; then nobody has touched its leases.

    Raises:
        Evicted: it is not.
    """
    if db.execute("SELECT 1 FROM owner WHERE id = ?", (owner,)).fetchone() is None:
        raise Evicted(f"owner {owner} was given up by others")


def renew(db: sqlite3.Connection, owner: int, now: float) -> None:
    """Say that the owner is not frozen. To be called inside a write transaction."""
    db.execute("UPDATE owner SET renewed = ? WHERE id = ?", (now, owner))


def remove(db: sqlite3.Connection, path: Path, owner: int) -> None:
    """Forget an owner whose leases have been given back. To be called inside a write transaction.

    The file goes before the commit: a row without a file counts as dead, a file without a row
    would lie there for ever.
    """
    _lock_file(path, owner).unlink(missing_ok=True)
    db.execute("DELETE FROM owner WHERE id = ?", (owner,))


def abandoned(db: sqlite3.Connection, path: Path, own: int, now: float) -> list[int]:
    """Return the other owners that are dead or frozen.

    Args:
        db: the queue file, open.
        path: where it is.
        own: the owner that asks.
        now: monotonic seconds.
    """
    others = db.execute("SELECT id, renewed FROM owner WHERE id <> ?", (own,)).fetchall()
    return [
        owner
        for owner, renewed in others
        if now - renewed > FROZEN_AFTER or not is_locked(_lock_file(path, owner))
    ]


def _lock_file(path: Path, owner: int) -> Path:
    return path.with_name(f"{path.name}.owners") / str(owner)


def is_locked(lock: Path) -> bool:
    """Return whether the owner of a lock file lives."""
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(fd)
