"""The file that a backup is: a tar of both databases, the spool, and what they are.

First comes ``backup.json``, which says what this is, and last ``sums.json`` with the size and the
SHA-256 of each file before it; so an archive that was cut off or altered shows it. It holds mail,
and only its owner may read it. It is read as if anybody had written it: names that are none of ours
are refused, and nothing is unpacked by its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, NamedTuple

from shared.spool import valid

ABOUT: Final = "backup.json"
QUEUES: Final = "queue.db"
LEDGERS: Final = "state.db"
NOTE: Final = "unrecorded"
SPOOL: Final = "spool/"
FORMAT: Final = 1

_SUMS: Final = "sums.json"
_SINGLE: Final = frozenset((ABOUT, QUEUES, LEDGERS, NOTE))
_PIECE: Final = 1024 * 1024
_DESCRIPTION: Final = 64 * 1024 * 1024
"""Bytes that are read of a JSON member at the most: the sums of 400,000 blobs."""


class Damaged(Exception):
    """The archive is not what a backup has written."""


class About(NamedTuple):
    """What an archive says of itself.

    Attributes:
        moment: of which it is, in ISO 8601 (UTC).
        version: of the program that wrote it.
        holds: which files are part of it: QUEUES, LEDGERS, SPOOL.
        missing: keys of blobs that queues named and the spool no longer had.
    """

    moment: str
    version: str
    holds: tuple[str, ...]
    missing: tuple[str, ...]


class _Summed:
    """A file that counts and hashes what is read of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._size = 0

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self._hash.update(piece)
        self._size += len(piece)
        return piece

    def sum(self) -> list[object]:
        return [self._size, self._hash.hexdigest()]


class Writer:
    """Writes an archive.

    Args:
        file: open for writing, and empty.
        about: what it is.
    """

    def __init__(self, file: BinaryIO, about: About) -> None:
        self._tar = tarfile.TarFile(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)
        self._sums: dict[str, list[object]] = {}
        self.add_bytes(ABOUT, json.dumps({"format": FORMAT, **about._asdict()}).encode())

    def add(self, name: str, path: Path) -> None:
        """Add a file, which must not change meanwhile."""
        with path.open("rb") as file:
            self._add(name, path.stat().st_size, file)

    def add_bytes(self, name: str, content: bytes) -> None:
        """Add a file of this content."""
        self._add(name, len(content), io.BytesIO(content))

    def finish(self) -> None:
        """Add the sums, and the end."""
        self.add_bytes(_SUMS, json.dumps(self._sums).encode())
        self._tar.close()

    def _add(self, name: str, size: int, file: IO[bytes]) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, 0o600
        summed = _Summed(file)
        self._tar.addfile(member, summed)
        self._sums[name] = summed.sum()


class Member(NamedTuple):
    """A file in an archive: its name, which is one of ours, and its content, to be read once."""

    name: str
    pieces: Iterator[bytes]


def is_archive(path: Path) -> bool:
    """Return whether a file begins as an archive of ours."""
    try:
        with tarfile.open(path, "r:") as tar:
            first = tar.next()
            return first is not None and first.name == ABOUT
    except (OSError, tarfile.TarError):
        return False


def about(path: Path) -> About:
    """Return what an archive says of itself.

    Raises:
        Damaged: it is none.
        OSError: it cannot be read.
    """
    with contextlib.closing(members(path)) as every:
        first = next(every, None)
        if first is None or first.name != ABOUT:
            raise Damaged("this is no backup of pop3-connector")
        said = b"".join(first.pieces)
    try:
        found = json.loads(said)
        if found["format"] != FORMAT:
            raise Damaged(f"its format is {found['format']!r}, and this version knows {FORMAT}")
        lists = (tuple(map(str, found[name])) for name in ("holds", "missing"))
        return About(str(found["moment"]), str(found["version"]), *lists)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"{ABOUT} in it cannot be read") from error


def members(path: Path) -> Generator[Member, None, None]:
    """Yield each file of an archive; the sums are compared with what is read.

    Each is to be read to its end before the next.

    Raises:
        Damaged: it is cut off, or is not what was written.
        OSError: it cannot be read.
    """
    sums: dict[str, list[object]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                if file is None or member.name in sums:
                    raise Damaged("there is something in it that no backup writes")
                if member.name == _SUMS:
                    if _described(file) != sums:
                        raise Damaged("what is in it is not what was written")
                    return
                _require_ours(member.name)
                summed = _Summed(file)
                yield Member(member.name, _pieces(summed))
                sums[member.name] = summed.sum()
                tar.members.clear()  # type: ignore[attr-defined]  # it keeps them all
    except tarfile.TarError as error:
        raise Damaged(f"it cannot be read ({error})") from error
    raise Damaged("it was cut off")


def _pieces(file: _Summed) -> Iterator[bytes]:
    """Yield what is in a member; it is read where it is used, so errors are told here."""
    try:
        while piece := file.read(_PIECE):
            yield piece
    except tarfile.TarError as error:
        raise Damaged(f"it cannot be read ({error})") from error


def _described(file: IO[bytes]) -> Any:
    try:
        return json.loads(file.read(_DESCRIPTION))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{_SUMS} in it cannot be read") from error


def _require_ours(name: str) -> None:
    if name not in _SINGLE and not (name.startswith(SPOOL) and valid(name.removeprefix(SPOOL))):
        raise Damaged("there is a file in it that no backup writes")
