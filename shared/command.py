"""What a program of the operator's prints, within limits of time and size.

It gets a process group of its own, and where it goes over a limit all of the group is killed: what
a shell has started would live on, and print on, without it.
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


def printed(arguments: Sequence[str], limit: int, seconds: float) -> tuple[bytes, int]:
    """Return what a program prints to its standard output, and its exit status.

    Args:
        arguments: the program and its arguments.
        limit: bytes; one that prints more is killed, and what it printed is longer than this.
        seconds: for all of it, until its output and the program itself have ended.

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
            output = _read(process, limit, end)
            if len(output) <= limit:
                return output, process.wait(max(0.0, end - time.monotonic()))
            _kill(process)
            return output, process.wait()
        except subprocess.TimeoutExpired:
            _kill(process)
            raise TimeoutError from None
        except BaseException:
            _kill(process)
            raise


def _read(process: subprocess.Popen[bytes], limit: int, end: float) -> bytes:
    output, pipe = b"", cast(IO[bytes], process.stdout)
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while len(output) <= limit:
            left = end - time.monotonic()
            if left <= 0 or not selector.select(left):
                raise TimeoutError
            chunk = os.read(pipe.fileno(), _CHUNK)
            if not chunk:
                break
            output += chunk
    return output


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
