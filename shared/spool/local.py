"""Blobs as files of this machine, which are on disk before anyone may refer to them.

A draft is a file in ``tmp`` below the root, locked (flock) as long as its process lives, so that
those of the dead are known and can be cleared away. Its commit is fsync, rename into place, fsync
of the folder; a new folder is synced into its parent first. Files are 0600, folders 0700: mail is
private. A message that is fetched again replaces its old blob perhaps just when that is swept up as
an orphan, so both hold a lock (flock) on the folder for that step, which ends with their process.
Folders stay when they are empty: keys are hexadecimal, so there are 256 at the most, and each that
is made anew costs the commit of a message one more sync of the root.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from shared.disk.durable import make_directory, sync
from shared.disk.replaced_file import read_file, write_file
from shared.spool.store import MARK, TMP, StoredBlob, key_of, path_of


class LocalDraft:
    """A file in ``tmp``."""

    def __init__(self, root: Path) -> None:
        make_directory(root / TMP)
        self._root = root
        while True:
            self._path = root / TMP / secrets.token_hex(16)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.fdopen(os.open(self._path, flags, 0o600), "wb", buffering=0)
            if _try_lock(self._file.fileno()) and self._path.exists():
                return
            self._file.close()  # taken for one of a dead process, before it was locked

    def write(self, chunks: Sequence[bytes]) -> None:
        """Add to it."""
        rest = memoryview(b"".join(chunks))
        while rest:
            rest = rest[self._file.write(rest) :]

    def commit(self, key: str) -> None:
        """Make it the blob of this key, durably; it replaces one that is there."""
        path = self._root / path_of(key)
        os.fsync(self._file.fileno())
        make_directory(path.parent)
        with _locked(path.parent):
            self._path.replace(path)
        self._file.close()  # not before: unlocked, it would pass for one of a dead process
        sync(path.parent)

    def discard(self) -> None:
        """Leave no trace of it."""
        self._file.close()
        self._path.unlink(missing_ok=True)


class LocalStore:
    """Files below a root folder, which is made when the first one is written."""

    own = (OSError,)

    def __init__(self, root: Path) -> None:
        self._root = root

    def draft(self) -> LocalDraft:
        """Begin a blob."""
        return LocalDraft(self._root)

    def open(self, key: str) -> BinaryIO:
        """Open a blob for reading."""
        try:
            return (self._root / path_of(key)).open("rb", buffering=0)
        except FileNotFoundError as error:
            if self._root.is_dir():
                raise
            # The disk may not be mounted: that is no reason to believe that the blob is gone.
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self._root)) from error

    def delete(self, key: str) -> None:
        """Delete a blob."""
        (self._root / path_of(key)).unlink(missing_ok=True)

    def delete_old(self, key: str, before: float) -> bool:
        """Delete a blob if it was written before this moment; return whether it was."""
        path = self._root / path_of(key)
        if not path.parent.exists():
            return False
        with _locked(path.parent):
            old = _older(path, before)
            if old:
                path.unlink(missing_ok=True)
        return old

    def blob_keys(self) -> Iterator[str]:
        """Yield the keys of all blobs."""
        for path in self._root.glob("??/*"):
            key = key_of(path.relative_to(self._root).as_posix())
            if key is not None:
                yield key

    def describe_blobs(self) -> Iterator[StoredBlob]:
        """Yield all blobs with size and time."""
        for key in self.blob_keys():
            yield from _described(key, self._root / path_of(key))

    def drafts(self) -> Iterator[StoredBlob]:
        """Yield what was begun and not committed, with size and time."""
        for path in self._root.glob(f"{TMP}/*"):
            yield from _described(f"{TMP}/{path.name}", path)

    def mark(self, longest: int) -> bytes | None:
        """Return the beginning of what says who fills the spool; None where nothing does."""
        return read_file(self._root / MARK, longest)

    def set_mark(self, content: bytes) -> bool:
        """Put that in the place of what is there; return False where there is no spool yet.

        The folder is not made: where a disk is not mounted, blobs would be missing, and not away.
        """
        if not self._root.is_dir():
            return False
        write_file(self._root / MARK, content)
        return True

    def discard_drafts(self, before: float) -> None:
        """Delete drafts of dead processes, and those that nobody wrote to since this moment.

        Raises:
            OSError: one could not be looked at, or not be deleted; the others are.
        """
        failed: OSError | None = None
        for path in self._root.glob(f"{TMP}/*"):
            try:
                with path.open("rb") as file:
                    if _older(path, before) or _try_lock(file.fileno()):
                        path.unlink(missing_ok=True)
            except FileNotFoundError:
                pass
            except OSError as error:
                failed = failed or error
        if failed is not None:
            raise failed


def _described(key: str, path: Path) -> Iterator[StoredBlob]:
    """Yield what is known of a file, if it is still there."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        yield StoredBlob(key, 0, 0.0, error)
    else:
        yield StoredBlob(key, found.st_size, found.st_mtime)


def _older(path: Path, before: float) -> bool:
    try:
        return path.stat().st_mtime < before
    except FileNotFoundError:
        return False


def _try_lock(descriptor: int) -> bool:
    """Take a lock that ends with its process; return whether nobody else has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
