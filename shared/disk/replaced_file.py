"""Small files that are written anew as a whole: a mark beside the queue file or in a spool folder.

What is written appears whole, in the place of what was there before. Such a file is no SQLite file,
so it may be opened by any process.
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


def write_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Put content in the place of what is there, readable for its owner alone.

    Args:
        path: of the file; its directory is there.
        content: all of it.
        durable: whether to return only when it is on disk.

    Raises:
        OSError: it cannot be written; what was there is as it was.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    made = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(made, "wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    draft.replace(path)
    if durable:
        sync(path.parent)
