"""What lies in ``data_dir`` at one moment: queues, ledgers and spool, while processes work on them.

SQLite lets one process write to a file at a time. Whoever holds that right to both files keeps all
others still; in that moment the copies begin to read, and each blob gets a second name (a hard
link), under which it stays until it has been copied. So a snapshot is what a power cut would have
left: it never has the end of a step without its beginning. The moment is short, as copying comes
after it; only where the file system knows no hard links are blobs copied in it. It trusts that a
blob is there before a queue names it, and until none does any more, and that it never changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from services.postmaster.errors import Unfit
from shared.log import printable
from shared.spool.local import LocalStore
from shared.spool.store import path_of
from shared.sqlite.rebuild import damage_error, is_damage

LINKS: Final = "backup"
"""The folder in the spool where blobs have their second names; no shard is called so."""

PATIENCE: Final = 30.0
"""Seconds to wait for the transactions of others."""

_LOOK: Final = "SELECT count(*) FROM sqlite_schema"


class Snapshot(NamedTuple):
    """What was there at one moment.

    Attributes:
        databases: copy each file as it was, in the order in which they were given.
        blobs: where each blob lies, by key.
        note: the content of the file of notes; empty where there is none.
    """

    databases: list[Callable[[Path], None]]
    blobs: dict[str, Path]
    note: bytes


@contextlib.contextmanager
def snapshot(
    databases: Sequence[Path], spool: Path | None = None, note: Path | None = None
) -> Iterator[Snapshot]:
    """Yield what is there at this moment; it can be copied until the block ends.

    Args:
        databases: SQLite files in WAL mode; whoever else writes to two of them in one transaction
            does so in this order.
        spool: the folder of the blobs.
        note: a file that is small enough to be read at once.

    Raises:
        ConfigError: a file is damaged.
        sqlite3.Error: a file cannot be read, or others do not let go of it.
        OSError: the spool cannot be read, or no link be made in it.
        Unfit: another backup is being made.
    """
    with contextlib.ExitStack() as stack:
        links = None
        if spool is not None and spool.is_dir():
            links = stack.enter_context(own_folder(spool / LINKS))
        readers = [stack.enter_context(_opened(file)) for file in databases]
        with _all_still(databases):
            for reader in readers:
                reader.execute("BEGIN")
                reader.execute(_LOOK).fetchone()  # what it reads from now on is of this moment
            blobs = {} if spool is None or links is None else _link_blobs(spool, links)
            noted = b"" if note is None or not note.exists() else note.read_bytes()
        copiers = [_copier(reader, file) for reader, file in zip(readers, databases, strict=True)]
        yield Snapshot(copiers, blobs, noted)


@contextlib.contextmanager
def own_folder(path: Path) -> Iterator[Path]:
    """Yield a folder that is empty and nobody else's; what a killed process left in it is deleted.

    Raises:
        Unfit: another process has it just now, or it belongs to another user.
        OSError: it cannot be made.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(lock).st_uid != os.geteuid():
            raise Unfit(f"{printable(str(path))} belongs to another user: delete it")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Unfit(f"{printable(str(path))}: another backup is being made") from error
        try:
            _empty(path)
            yield path
        finally:
            _empty(path)
            path.rmdir()
    finally:
        os.close(lock)


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


@contextlib.contextmanager
def _all_still(databases: Sequence[Path]) -> Iterator[None]:
    """Let nobody write to these files until the block ends."""
    with contextlib.ExitStack() as stack:
        for file in databases:
            with _telling_damage(file):
                stack.enter_context(_opened(file)).execute("BEGIN IMMEDIATE")
        yield


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    where = f"file:{quote(os.fsencode(file.absolute()))}?mode=rw"
    with contextlib.closing(
        sqlite3.connect(where, uri=True, timeout=PATIENCE, isolation_level=None)
    ) as db:
        yield db


@contextlib.contextmanager
def _telling_damage(file: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if is_damage(error):
            raise damage_error(file, str(error)) from error
        raise


def _copier(reader: sqlite3.Connection, file: Path) -> Callable[[Path], None]:
    def copy(to: Path) -> None:
        with (
            _telling_damage(file),
            contextlib.closing(sqlite3.connect(to, isolation_level=None)) as db,
        ):
            reader.backup(db)
            db.execute("PRAGMA journal_mode = DELETE").fetchone()  # a file that is whole by itself

    return copy


def _link_blobs(spool: Path, links: Path) -> dict[str, Path]:
    found = {}
    for key in LocalStore(spool).blob_keys():
        blob = spool / path_of(key)
        try:
            _link(blob, links / key)
        except FileNotFoundError:  # it goes, so no queue names it any more
            continue
        except OSError:
            (links / key).unlink(missing_ok=True)
            if readable(blob):
                raise
            continue  # as if it were missing
        found[key] = links / key
    return found


def readable(blob: Path) -> bool:
    """Return whether a file can be read; where not, that concerns it alone."""
    try:
        with blob.open("rb") as file:
            file.read(1)
    except OSError:
        return False
    return True


def _link(blob: Path, name: Path) -> None:
    try:
        os.link(blob, name, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:  # no hard links here, or no more of this one
        shutil.copyfile(blob, name, follow_symlinks=False)
