"""Private instances of real servers: free ports, temporary directories, started and stopped.

Every server module here offers a context manager that starts one instance, waits until it answers
and stops it, and a ``MISSING`` reason where the server cannot be had.
"""

import contextlib
import fcntl
import functools
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PORTS = 256
"""How many ports a process that runs tests has to itself."""


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody uses just now, nor is about to use.

    It is none of those that the kernel gives to clients: a server that is restarted would find its
    port taken by somebody's connection.
    """
    for port in _ports():
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


@functools.cache
def _ports() -> Iterator[int]:
    """Return ports that no other process that runs tests will take, round and round.

    A server takes its port some time after it was found free. A lock that lasts as long as this
    process keeps others off.
    """
    folder = Path(tempfile.gettempdir()) / "pop3-connector-ports"
    folder.mkdir(mode=0o1777, exist_ok=True)
    firsts = range(10_000, _first_of_clients() - PORTS, PORTS)
    for first in random.SystemRandom().sample(firsts, len(firsts)):
        lock = os.open(folder / str(first), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
        else:
            return itertools.cycle(range(first, first + PORTS))
    raise AssertionError(f"all ports are taken by other tests; see {folder}")


def _first_of_clients() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return 32_768


def require(*programs: str) -> None:
    """Skip the test, or fail it on CI, where one of the programs is not installed."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/lib/dovecot:/usr/lib/rabbitmq/bin"
    missing = [p for p in programs if shutil.which(p, path=path) is None]
    if not missing:
        return
    reason = f"not installed here: {', '.join(missing)} (scripts/test installs what it can)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def wait_until(true: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Return as soon as the condition holds; fail after so many seconds without it."""
    deadline = time.monotonic() + seconds
    pause = 0.005
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)


def accepts(port: int) -> bool:
    """Return whether somebody accepts connections on this port of 127.0.0.1."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def running(
    command: list[str],
    log: Path,
    ready: Callable[[], bool],
    env: dict[str, str] | None = None,
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in the foreground until the block ends.

    Args:
        command: the program and its arguments.
        log: a file for what it prints.
        ready: tells whether it answers yet.
        env: its environment, this process's own if None.
        stop: the signal that ends it; SIGKILL for its process group follows after 20 seconds.
    """
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
    try:

        def answers() -> bool:
            if process.poll() is not None:
                text = log.read_text(errors="replace")[-3000:]
                raise AssertionError(f"{command[0]} ended with {process.returncode}:\n{text}")
            return ready()

        wait_until(answers, f"{command[0]} to answer; see {log}")
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(stop)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
