"""A mark as a file of this machine: beside the queue file, and in a spool that is a folder.

It appears whole, on disk, in the place of the one before. It is no SQLite file, so it may be opened
by any process.
"""

from __future__ import annotations

import os
from pathlib import Path

from shared.disk.durable import sync


def beside(queues: Path) -> Path:
    """Return where the mark of a queue file lies."""
    return queues.with_name(f"{queues.name}.mark")


def read_file(path: Path, longest: int) -> bytes | None:
    """Return the beginning of a file, None where there is none.

    Args:
        path: of the file.
        longest: bytes that are read.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(longest)
    except FileNotFoundError:
        return None


def write_file(path: Path, content: bytes) -> None:
    """Put content in the place of what is there, readable for its owner alone; it is on disk then.

    Raises:
        OSError: it cannot be written; what was there is as it was.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync(path.parent)
