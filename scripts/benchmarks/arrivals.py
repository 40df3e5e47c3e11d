"""What has arrived at the far end, and when the last of it did; and when a maildrop was emptied.

Whoever is measured shares the machine with the benchmark, so looking has to cost next to nothing.
A look is a ``stat`` of what changes with each message, a directory or a file; messages are counted
only when nothing has changed since the look before. The end is the time that the file system has
for the last change, exact to a tick of the kernel (4 ms), however seldom somebody looks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

PAUSE: Final = 0.1


class Arrivals(Protocol):
    """The messages that came to some place."""

    def count(self) -> int:
        """Return how many there are."""

    def latest(self) -> int:
        """Return when something last came, in nanoseconds as ``time.time_ns``; 0 if never."""


@dataclass(frozen=True, slots=True)
class Folders:
    """The files in all directories that match, such as the ``new`` of every user.

    Nothing but the messages that come, or go, may change these directories.
    """

    root: Path
    patterns: Sequence[str]

    def count(self) -> int:
        """Return how many names the directories have."""
        return sum(len(os.listdir(folder)) for folder in self._all())  # noqa: PTH208  (thousands)

    def latest(self) -> int:
        """Return when a name was last added to one of them, or removed."""
        return max((folder.stat().st_mtime_ns for folder in self._all()), default=0)

    def _all(self) -> Iterator[Path]:
        for pattern in self.patterns:
            yield from self.root.glob(pattern)


def last_arrival(arrivals: Arrivals, messages: int, seconds: float) -> int:
    """Wait until so many messages have come; return when the last one did, as ``time.time_ns``.

    Raises:
        RuntimeError: there are fewer after so many seconds, or there are more.
    """
    end = time.monotonic() + seconds
    seen = -1
    while (latest := arrivals.latest()) != seen or arrivals.count() < messages:
        if time.monotonic() > end:
            break
        seen = latest
        time.sleep(PAUSE)
    check(arrivals, messages)
    return arrivals.latest()


def last_departure(maildrops: Folders, seconds: float) -> int:
    """Wait until nothing is left there; return when the last name went, as ``time.time_ns``.

    Raises:
        RuntimeError: something is left after so many seconds.
    """
    end = time.monotonic() + seconds
    while left := maildrops.count():
        if time.monotonic() > end:
            raise RuntimeError(f"{left} messages are still on the server")
        time.sleep(PAUSE)
    return maildrops.latest()


def check(arrivals: Arrivals, messages: int) -> None:
    """Make sure that so many messages have come, and no more.

    Raises:
        RuntimeError: it is another number.
    """
    if (found := arrivals.count()) != messages:
        raise RuntimeError(f"{found} messages arrived, not {messages}")
