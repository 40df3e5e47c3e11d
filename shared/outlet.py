"""Writes text to a stream that somebody else reads, or does not: nobody waits for it.

A pipe that nobody reads is full after 64 KiB, and then a write never ends. So all but files is
written by a thread of its own, in the order in which it came. What it has not written yet is held,
up to a limit; beyond that it is lost, and how many lines were is told once there is room again.

It trusts no reader. A stream that is closed, or breaks, is no reason to stop anything. At the end
of the process it waits for what is held, as long as it makes progress. Known limit: a process that
forks has to do so before the first line.
"""

from __future__ import annotations

import atexit
import os
import select
import stat
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TextIO

MOST: Final = 1024 * 1024
"""Characters that are held: some thousand lines."""

PATIENCE: Final = 1.0
"""Seconds without any progress after which what is held is not waited for any more."""

_PIECE: Final = 4_096
"""Bytes that a pipe takes whole, or not at all (PIPE_BUF)."""


class Outlet:
    """A stream, and the thread that writes to it once there is something to write.

    Args:
        stream: where to; None for what standard error is at that moment.
        lost: makes the line, with its end, that tells how many were lost.
    """

    def __init__(self, stream: TextIO | None, lost: Callable[[int], str]) -> None:
        self._stream = stream
        self._tell_lost = lost
        self._changed = threading.Condition()
        self._held: list[str] = []
        self._size = 0  # of what is held or just being written
        self._lost = 0
        self._steps = 0
        self._stuck = False
        self._looked_at: TextIO | None = None
        self._fd: int | None = None
        self._begun = False

    def write(self, text: str) -> None:
        """Write lines, or hold them, or lose them."""
        stream = self._stream or sys.stderr
        if stream is not self._looked_at:
            self._looked_at, self._fd = stream, _waits(stream)
        if self._fd is None:
            with suppress(OSError, ValueError):
                print(text, end="", file=stream, flush=True)
            return
        with self._changed:
            if not self._begun:
                self._begin()
            if self._lost and self._size < MOST // 2:
                self._hold(self._tell_lost(self._lost))
                self._lost = 0
            if self._lost or self._size > MOST:  # all from the first one on: the order stays
                self._lost += text.count("\n")
            else:
                self._hold(text)

    def flush(self) -> None:
        """Wait until everything is written, as long as the reader makes progress."""
        with self._changed:
            if self._lost and not self._stuck:
                self._hold(self._tell_lost(self._lost))
                self._lost = 0
            while self._size:
                steps = self._steps
                wait = 0.0 if self._stuck else PATIENCE
                if not self._changed.wait_for(lambda: self._steps != steps, wait):  # noqa: B023
                    self._stuck = True
                    return

    def _hold(self, text: str) -> None:
        self._held.append(text)
        self._size += len(text)
        if len(self._held) == 1:
            self._changed.notify_all()

    def _begin(self) -> None:
        self._begun = True
        atexit.register(self.flush)
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._held)
                held, self._held = self._held, []
                fd, encoding = self._fd, getattr(self._looked_at, "encoding", None)
            text = "".join(held)
            if fd is not None:
                _write(fd, text.encode(encoding or "utf-8", "backslashreplace"), self._progress)
            with self._changed:
                self._size -= len(text)
                self._step()

    def _progress(self) -> None:
        with self._changed:
            self._step()

    def _step(self) -> None:
        self._steps += 1
        self._stuck = False
        self._changed.notify_all()


def _waits(stream: TextIO) -> int | None:
    """Return the descriptor of a stream that may keep a writer waiting; None of a file."""
    try:
        fd = stream.fileno()
        return None if stat.S_ISREG(os.fstat(fd).st_mode) else fd
    except (OSError, ValueError, AttributeError):  # one in memory, or closed
        return None


def _write(fd: int, data: bytes, progress: Callable[[], None]) -> None:
    """Write all of it, however long that takes; what cannot be written is dropped."""
    with suppress(OSError):
        while data:
            try:
                data = data[os.write(fd, data[:_PIECE]) :]
            except BlockingIOError:  # whoever shares it does not wait
                select.select([], [fd], [])
            progress()
