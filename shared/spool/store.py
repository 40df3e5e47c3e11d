"""The seam between the spool and the place where blobs lie, and the names that blobs have there.

A store does blocking work, in a thread of the spool's, and lets exceptions out as they come; the
spool translates them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final, NamedTuple, Protocol

TMP: Final = "tmp"
"""The folder of what is being written. Shards have two characters, so it is none of them."""

_KEY: Final = re.compile(r"[0-9A-Za-z]{3}[0-9A-Za-z.-]{0,250}")


MARK: Final = "ledger"
"""The file that says who fills the spool; no blob lies right below the root."""


class StoredBlob(NamedTuple):
    """A blob that lies there.

    Attributes:
        key: of the blob.
        size: its bytes.
        written: seconds since 1970 (UTC).
        trouble: why it cannot be looked at; size and time are then 0, and mean nothing.
    """

    key: str
    size: int
    written: float
    trouble: Exception | None = None


class Draft(Protocol):
    """A blob that is being written, and that nobody sees before it is committed."""

    def write(self, chunks: Sequence[bytes]) -> None:
        """Add to it."""

    def commit(self, key: str) -> None:
        """Make it the blob of this key, durably, in one step for whoever reads."""

    def discard(self) -> None:
        """Leave no trace of it; harmless after ``commit``, and when done twice."""


class Store(Protocol):
    """Where blobs lie."""

    @property
    def own(self) -> tuple[type[Exception], ...]:
        """What is raised for a fault of one blob, which says nothing of the others."""

    def draft(self) -> Draft:
        """Begin a blob."""

    def open(self, key: str) -> BinaryIO:
        """Open a blob for reading.

        Raises:
            FileNotFoundError: there is none of this key.
        """

    def delete(self, key: str) -> None:
        """Delete a blob; nothing happens where there is none."""

    def delete_old(self, key: str, before: float) -> bool:
        """Delete a blob if it was written before this moment; return whether it was."""

    def blob_keys(self) -> Iterator[str]:
        """Yield the keys of all blobs."""

    def describe_blobs(self) -> Iterator[StoredBlob]:
        """Yield all blobs that are there, with what is known of them, or why nothing is."""

    def drafts(self) -> Iterator[StoredBlob]:
        """Yield what was begun and not committed, as far as that can be seen from here."""

    def mark(self, longest: int) -> bytes | None:
        """Return the beginning of what says who fills the spool; None where nothing does."""

    def set_mark(self, content: bytes) -> bool:
        """Put that in the place of what is there; return False where there is no spool yet."""

    def discard_drafts(self, before: float) -> None:
        """Delete what was begun and not committed.

        That is: by a process that is dead, where that can be known, or untouched since this moment.
        """


def valid(key: str) -> bool:
    """Return whether this can be the key of a blob, and so part of a path."""
    return _KEY.fullmatch(key) is not None


def path_of(key: str) -> str:
    """Return the path of a blob below the root: ``abcdef`` is ``ab/cdef``.

    Raises:
        ValueError: no blob can have such a key.
    """
    if not valid(key):
        raise ValueError(f"{key!r} cannot be the key of a blob")
    return f"{key[:2]}/{key[2:]}"


def key_of(path: str) -> str | None:
    """Return the key of the blob at this path below the root; None where it is no blob's."""
    shard, _, rest = path.rpartition("/")
    return shard + rest if len(shard) == 2 and valid(shard + rest) else None
