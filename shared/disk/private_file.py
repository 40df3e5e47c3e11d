"""A SQLite file that only its owner can read: made where there is none.

One that is there is not even opened. Closed again, it would take all locks of this
process on it away (POSIX advisory locks belong to process and file; sqlite.org/howtocorrupt.html
section 2.2), those of another connection included; and the next process that leaves would delete
the log that this one goes on writing to.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

_EFFECTIVE: Final = os.access in os.supports_effective_ids


def make_private(path: Path) -> None:
    """Make a file and its directory, if they are missing; SQLite gives its other files the mode.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be made, or this user may not read and write it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        wrong = errno.EISDIR if path.is_dir() else errno.EACCES
        if wrong == errno.EISDIR or not os.access(
            path, os.R_OK | os.W_OK, effective_ids=_EFFECTIVE
        ):
            raise OSError(wrong, os.strerror(wrong), str(path)) from None
