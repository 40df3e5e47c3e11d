"""A mail server that throws away what it gets, so that it is never what everybody waits for.

``smtp-sink`` of Postfix, one process in C, speaking LMTP. It prints its counters with the reply to
each message, some 30 bytes to a file, and that is how it is known what has arrived, and when.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.servers.process import accepts, free_port, running

_COUNTERS: Final = re.compile(rb"mesg=(\d+)\r")
_TAIL: Final = 200


@dataclass(frozen=True, slots=True)
class Taken:
    """The messages that a sink has taken beyond so many."""

    printed: Path
    before: int

    def count(self) -> int:
        """Return how many there are."""
        return _counted(self.printed) - self.before

    def latest(self) -> int:
        """Return when it last took one, or a connection to it ended."""
        return self.printed.stat().st_mtime_ns


@dataclass(frozen=True, slots=True)
class Sink:
    """Where it listens, and the file with what it prints."""

    host: str
    port: int
    printed: Path

    def arrivals(self) -> Taken:
        """Return what it takes from now on."""
        return Taken(self.printed, _counted(self.printed))


def _counted(printed: Path) -> int:
    with printed.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        counted = _COUNTERS.findall(file.read())
    return int(counted[-1]) if counted else 0


def program() -> str | None:
    """Return where the program is, None where it is not installed."""
    return shutil.which("smtp-sink", path=os.environ.get("PATH", "") + ":/usr/sbin")


@contextlib.contextmanager
def smtp_sink(folder: Path) -> Iterator[Sink]:
    """Run a sink on a free port until the block ends.

    Raises:
        RuntimeError: it is not installed.
    """
    found = program()
    if found is None:
        raise RuntimeError("smtp-sink is not installed")
    sink = Sink("127.0.0.1", free_port(), folder / "smtp-sink.log")
    user = ["-u", "nobody"] if os.geteuid() == 0 else []  # it does not run as root
    command = [found, "-L", "-c", *user, f"{sink.host}:{sink.port}", "1000"]
    with running(command, sink.printed, lambda: accepts(sink.port)):
        yield sink
