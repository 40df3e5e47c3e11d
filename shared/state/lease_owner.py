"""Who holds a lease: one process start, named so that its death can be proven on its own machine.

An owner is ``host/place:pid:start:token``. The place stands for one boot of one kernel and one PID
namespace, so that containers which share a kernel do not take each other's processes for dead.
Within the same place an owner is dead when no process has its PID and start time, or only a zombie
does: its leases are free at once, whatever the clocks say. Everywhere else, and where there is no
``/proc``, nothing is proven and a lease runs until it expires. A stopped process (SIGSTOP) is not
dead either.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

_PROC: Final = Path("/proc")
_GONE: Final = ("Z", "X", "x")
"""Process states of proc(5) that nothing comes back from."""


class _Process(NamedTuple):
    state: str
    start: str


def new_owner() -> str:
    """Return an owner that stands for this process, different at each call."""
    pid = os.getpid()
    process = _process(pid)
    start = process.start if process else "-"
    return f"{socket.gethostname()}/{_place()}:{pid}:{start}:{secrets.token_hex(4)}"


def local(owner: str) -> bool:
    """Return whether ``dead`` can tell of this owner: it started on this machine, in this boot."""
    place, _, start, _ = _parts(owner)
    return start != "-" and place == _place() != "-"


def dead(owner: str) -> bool:
    """Return whether the process of this owner is proven to be gone for good."""
    if not local(owner):
        return False
    _, pid, start, _ = _parts(owner)
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, OverflowError):  # somebody else's process is alive all the same
        pass
    process = _process(pid)
    return process is not None and (process.start != start or process.state in _GONE)


def _parts(owner: str) -> tuple[str, str, str, str]:
    host, _, rest = owner.rpartition("/")
    place, pid, start, token = rest.split(":") if host and rest.count(":") == 3 else ("-",) * 4
    return place, pid, start, token


@cache
def _place() -> str:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespace = str((_PROC / "self/ns/pid").readlink())
    except OSError:
        return "-"
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:12]


def _process(pid: int | str) -> _Process | None:
    """Read state and start time (clock ticks since boot) of a process; see proc(5), fields 3, 22.

    The name in parentheses before them may hold anything, also a parenthesis.
    """
    try:
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return _Process(fields[0], fields[19])
    except (OSError, IndexError):
        return None
