"""Making durable what has been written: the content of a file, or the names in a directory."""

from __future__ import annotations

import os


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
