"""What a run cost: wall clock, CPU time and peak memory, as the kernel counts them.

CPU time is user and system time of the processes measured, whatever else the machine does; it is
what can be compared on a busy one. Linux only: it reads ``/proc``.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

PATIENCE: Final = 1800.0
"""Seconds after which a program counts as hung; the slowest takes a tenth of that."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one contender.

    Attributes:
        messages: how many it moved.
        wall: seconds from its start to the last message in its place, and deleted on the server.
        cpu: seconds of CPU of its own processes.
        broker: seconds of CPU of RabbitMQ, 0 without.
        memory: peak resident bytes by process.
    """

    messages: int
    wall: float
    cpu: float
    broker: float = 0.0
    memory: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """The medians of a contender's rounds, as a line of the table; times a message in seconds."""

    contender: str
    rounds: int
    messages: int
    rate: float
    cpu: float
    broker: float
    memory: int


def row(contender: str, samples: Sequence[Sample]) -> Row:
    """Return the medians of some runs; of memory, the peak of the largest process."""
    return Row(
        contender,
        len(samples),
        samples[0].messages,
        median(s.messages / s.wall for s in samples),
        median(s.cpu / s.messages for s in samples),
        median(s.broker / s.messages for s in samples),
        int(median(max(s.memory.values(), default=0) for s in samples)),
    )


def run(
    command: Sequence[str],
    messages: int,
    log: Path,
    env: Mapping[str, str],
    patience: float = PATIENCE,
) -> Sample:
    """Run a program to its end and return what it cost, with the processes that it waited for.

    Raises:
        RuntimeError: it failed, or there was no end to it for so many seconds and it was killed;
            the error shows the end of what it printed.
    """
    with log.open("wb") as out:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env)
        peak = ended = 0
        while not ended:
            # The kernel's ru_maxrss would count what this program had when it forked.
            peak = max(peak, peak_of(process.pid))
            time.sleep(0.005)
            if time.perf_counter() - started > patience:
                process.kill()
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said = log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {said}")
    cpu = usage.ru_utime + usage.ru_stime
    return Sample(messages, wall, cpu, memory={Path(command[0]).name: peak})


def cpu_of(pid: int) -> float:
    """Return the seconds of CPU that a process has used so far, all its threads together.

    To the nanosecond, where ``/proc`` has it in ticks of 10 ms: the clock of another process, as
    ``clock_getcpuclockid(3)`` makes its number.
    """
    return time.clock_gettime(~pid << 3 | 2)


def peak_of(pid: int) -> int:
    """Return the peak resident memory of a process in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def until(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Look until it is so: every few milliseconds, and never for more than a tenth of the time.

    Raises:
        RuntimeError: it did not come in time.
    """
    end = time.monotonic() + seconds
    while True:
        looked = time.monotonic()
        if true():
            return
        if looked > end:
            raise RuntimeError(f"waited {seconds:g} seconds in vain for {what}")
        time.sleep(max(0.005, 9 * (time.monotonic() - looked)))
