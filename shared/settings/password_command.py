"""What a program of the operator's prints, within limits of time and size.

It gets a process group of its own, and where it goes over a limit all of the group is killed: what
a shell has started would live on, and print on, without it. So it is where the program has ended
and something that it started holds its output open: what it has printed by then is all.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Final, cast

_CHUNK: Final = 65_536

_LOOK: Final = 0.05
"""Seconds between two looks whether it has ended, while its output has not."""


def run_program(arguments: Sequence[str], limit: int, seconds: float) -> tuple[bytes, int]:
    """Return what a program prints to its standard output, and its exit status.

    Args:
        arguments: the program and its arguments.
        limit: bytes; one that prints more is killed, and what it printed is longer than this.
        seconds: until the program has ended.

    Raises:
        TimeoutError: it took longer, and was killed.
        OSError: it cannot be run.
        ValueError: it has a name that no program can have.
    """
    end = time.monotonic() + seconds
    with subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            output, ended = _read(process, limit, end)
            if len(output) <= limit and ended:
                return output, process.wait(max(0.0, end - time.monotonic()))
            _kill(process)
            return output, process.wait()
        except subprocess.TimeoutExpired:
            _kill(process)
            raise TimeoutError from None
        except BaseException:
            _kill(process)
            raise


def _read(process: subprocess.Popen[bytes], limit: int, end: float) -> tuple[bytes, bool]:
    """Return what it prints, and whether that has an end; it has none where others hold it open."""
    output, pipe = b"", cast(IO[bytes], process.stdout)
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while len(output) <= limit:
            if (left := end - time.monotonic()) <= 0:
                raise TimeoutError
            over = _has_ended(process)  # before the look: what it printed is there then
            if selector.select(0 if over else min(left, _LOOK)):
                if not (chunk := os.read(pipe.fileno(), _CHUNK)):
                    return output, True
                output += chunk
            elif over:
                return output, False
    return output, False


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Return whether it has ended; its id stays its own, so that no other group is killed."""
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    try:
        return os.waitid(os.P_PID, process.pid, options) is not None
    except ChildProcessError:  # nobody waits for children here (SIGCHLD is ignored)
        return False


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
