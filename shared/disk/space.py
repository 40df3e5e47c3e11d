"""Room on the disks that we write to: how much has to stay free, and a reserve for emergencies.

Mail that is fetched fills a disk; mail that is delivered makes room on it, and needs some itself
while it does. So nothing is fetched below a floor, as RabbitMQ blocks its publishers; and for the
day on which somebody else fills the disk, a file holds on to some room and lets go of it then. A
disk without room for more files (inodes) is full as well. It trusts ``statvfs``. Limits: what can
be compressed, shared or promised by a file system (btrfs, thin volumes) may be less than it says;
quotas of a user are seen as far as ``statvfs`` shows them; the reserve holds a single inode.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

MIB: Final = 1024 * 1024
PAGE: Final = 4096
"""Bytes of a page of SQLite."""

_LOG_SHARE: Final = 32
"""The log of a SQLite file takes this part of the disk, at the most."""

_RESERVE_MOST: Final = 48 * MIB
"""Bytes of the reserve: what the checkpoints of both databases may add to their files, which is
twice 16 MiB and 4 MiB, with something over."""

_ENOUGH: Final = 1.25
"""Floors that have to be free to fetch again after that: or it would be a message at a time."""

_FILES: Final = 1_000
"""So many files there has to be room for, or a quarter of what there can be if that is less."""

_PART: Final = 3
"""The reserve is this part of the floor, at the most."""


class Floor(NamedTuple):
    """How much of a disk has to be free: so many bytes, or such a share of it if that is less."""

    bytes: int
    percent: float

    def __str__(self) -> str:
        size = f"{self.bytes // MIB} MiB"
        if self.bytes == sys.maxsize:
            return f"{self.percent:g} %"
        return size if self.percent >= 100 else f"{size} (or {self.percent:g} %)"

    def of(self, total: int) -> int:
        """Return it in bytes, for a disk of so many."""
        return min(self.bytes, int(total * self.percent / 100))


USUAL: Final = Floor(200 * MIB, 25.0)
"""The floor unless the configuration says otherwise; a small disk keeps a quarter of itself."""


class Space(NamedTuple):
    """How much room there is on a disk: bytes, and files (inodes).

    Attributes:
        total: bytes of the disk.
        free: of them, those that we may use.
        files: how many files it can hold; 0 where it has no such limit, or does not tell.
        more_files: how many more of them we may make.
    """

    total: int
    free: int
    files: int = 0
    more_files: int = 0

    def lacks_files(self, floor: Floor, times: float = 1.0) -> bool:
        """Return whether it has room for too few files, where a floor is wanted at all.

        Args:
            floor: how many bytes have to be free.
            times: how many times as many files as usual there has to be room for.
        """
        wanted = min(_FILES, self.files // 4) * times
        return floor.of(self.total) > 0 and self.more_files < wanted


def space(place: Path) -> Space | None:
    """Return how much room there is where a file or folder lies or will lie; None if unknown."""
    with contextlib.suppress(OSError):
        try:
            found = os.statvfs(place)
        except FileNotFoundError:
            found = os.statvfs(_existing(place))
        size = found.f_frsize
        return Space(found.f_blocks * size, found.f_bavail * size, found.f_files, found.f_favail)
    return None


def _existing(place: Path) -> Path:
    return next((p for p in (place, *place.parents) if p.exists()), place)


def log_pages(path: Path, most: int) -> int:
    """Return how many pages the log of a SQLite file may have before it is copied back.

    Args:
        path: the file.
        most: as many on a disk of a usual size. A small one has to hold the messages, too.
    """
    found = space(path)
    return most if found is None else max(1, min(most, found.total // _LOG_SHARE // PAGE))


class Room:
    """Tells whether there is enough room to fetch more.

    Args:
        places: the files and folders that fetched mail ends up in; some may not be there yet.
        floor: what has to stay free on the disk of each.
    """

    def __init__(self, places: Sequence[Path], floor: Floor) -> None:
        self._places = tuple(places)
        self._floor = floor
        self._low = False

    def lacking(self, more: int = 0) -> str | None:
        """Return what there is too little of, None where there is enough or nobody can say.

        Args:
            more: bytes that are to be written.
        """
        why = next(filter(None, (self._short(place, more) for place in self._places)), None)
        if not more:
            self._low = why is not None
        return why

    def scarce(self) -> bool:
        """Return whether so little is free that what is on its way in has to stay out, too."""
        floor = self._floor
        return any(
            one.free < floor.of(one.total) // 2 or one.lacks_files(floor, 0.5)
            for one in filter(None, map(space, self._places))
        )

    def _short(self, place: Path, more: int) -> str | None:
        found = space(place)
        if found is None:
            return None
        times = _ENOUGH if self._low else 1.0
        if found.lacks_files(self._floor, times):
            return (
                f"the disk of {place} has room for {found.more_files} more files (inodes) of"
                f" {found.files}, however large it is: nothing is fetched until there is room for"
                " more, so delete files there; delivering goes on"
            )
        wanted = self._floor.of(found.total) * times
        if found.free - more >= wanted:
            return None
        return (
            f"{found.free // MIB} MiB are free on the disk of {place}, and limits.min_free wants"
            f" {wanted / MIB:.0f} MiB: {'nothing' if not more else f'a message of {more} bytes'}"
            f" is{' not' if more else ''} fetched until there is room; delivering goes on"
        )


class Reserve:
    """A file that does nothing but take up room, until that is needed.

    Processes that share a folder share it: any of them may give it up, and any makes it again.

    Args:
        path: the file.
        floor: what has to stay free besides; the reserve is a part of that in size.
    """

    def __init__(self, path: Path, floor: Floor) -> None:
        self._path = path
        self._floor = floor

    def see_to_it(self, *, stuck: bool) -> bool:
        """Give it up where the disk is full, make it where there is plenty of room.

        Args:
            stuck: something could not be written, for whatever reason.

        Returns:
            Whether room was made just now.
        """
        found = space(self._path)
        if found is None:
            return False
        floor = self._floor.of(found.total)
        size = min(_RESERVE_MOST, floor // _PART)
        if found.free < (floor if stuck else size // 2):
            return self.give_up()
        if size and found.free >= floor * _ENOUGH + size and not self._path.exists():
            self._make(size)
        return False

    def give_up(self) -> bool:
        """Let its room be used; return whether there was any."""
        with contextlib.suppress(OSError):
            self._path.unlink()
            return True
        return False

    def _make(self, size: int) -> None:
        # Under its name only when it is whole: a part of it is no reserve to count on.
        draft = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            with draft.open("xb", buffering=0) as file:
                draft.chmod(0o600)
                os.posix_fallocate(file.fileno(), 0, size)
            draft.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink()
