"""Making durable what is written: the content of a file, or the names in a directory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def sync(path: str | os.PathLike[str]) -> None:
    """Return once the disk has a file's content, or a directory's names (fsync(2)).

    Args:
        path: of the one or the other.

    Raises:
        OSError: it could not be done.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def durable_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield an empty file that only its owner can read; the disk has it when the block ends.

    Args:
        path: of the file; what is there is written over. Its directory is not synced.

    Raises:
        OSError: it cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def make_directory(path: Path) -> None:
    """Make a directory and those above it exist, durably, for this program's user alone.

    Raises:
        NotADirectoryError: something else has its name, or that of one above it.
        OSError: it could not be done.
    """
    if path.is_dir():
        return
    make_directory(path.parent)
    try:
        path.mkdir(0o700, exist_ok=True)  # another process may be faster
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None
    sync(path.parent)
