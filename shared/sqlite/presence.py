"""Which SQLite files were made once: what is gone since, or empty, is not made anew in silence.

A queue file that is missing looks as one that was never needed, and a missing ledger as a first
start: mail that waited is gone, or all at the provider comes again, and nothing is said. So a mark
lies beside each file from its first good opening on, and without its file it stops whoever opens
it. It trusts that nobody deletes mark and file together; who does so wants to begin anew. Where
there is no mark (another broker or database was in use, an older version) the file is made.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from shared.disk.durable import sync
from shared.errors import ConfigError
from shared.log import printable

QUEUES_LOST: Final = "mail that waited in it is lost, unless it still lies at the provider"
LEDGERS_LOST: Final = (
    "accounts are held then, until you choose what becomes of the mail that still lies at the"
    " providers"
)

_MARK: Final = ".made"
_EMPTY: Final = 1
"""Bytes that SQLite takes for nothing: on some systems it writes one into an empty file."""


def mark_of(path: Path) -> Path:
    """Return the mark beside a file."""
    return path.with_name(path.name + _MARK)


def how_gone(path: Path) -> str | None:
    """Return how a file that was made is not there any more; None where all is as it should be."""
    try:
        if path.stat().st_size > _EMPTY:
            return None
        how = "is empty"
    except FileNotFoundError:
        how = "is gone"
    except OSError:
        return None  # whoever opens it will say so
    with contextlib.suppress(OSError):
        if mark_of(path).exists():
            return how
    return None


def require_there(path: Path, loss: str) -> None:
    """Make sure that a file was not lost since it was made.

    Args:
        path: the file.
        loss: what it means to go on without it, as a sentence without its beginning and end.

    Raises:
        ConfigError: it was; it says what to do.
    """
    if how := how_gone(path):
        raise ConfigError(
            printable(str(path)),
            f"the file was made and used here, and {how} now."
            f" {way_out(f'makes an empty one: {loss}')}",
        )


def way_out(rebuild: str) -> str:
    """Return what to do about a file that is damaged or gone: the same for all.

    Args:
        rebuild: what ``state rebuild`` does about it.
    """
    return (
        "Stop all processes. Then, if there is a backup, move what lies in data_dir away and run"
        ' "pop3-connector restore BACKUP"; or run "pop3-connector state rebuild", which '
        f"{rebuild}"
    )


def note_made(path: Path) -> None:
    """Write down, as far as that works, that a file is there; this is on disk afterwards."""
    mark = mark_of(path)
    with contextlib.suppress(OSError):
        if mark.exists():
            return
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        sync(mark.parent)
