"""The processes of the product, and somebody who starts them again: what systemd or Compose does.

A fault kills, freezes or takes away a process; whoever is wanted and gone is started again within a
moment. Every death is kept with its cause, and one that no fault has caused is a defect.
"""

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from shared.failpoint import VARIABLE
from tests.flow.connector import STAGES, Connector

FIRST = STAGES
SECOND = tuple(f"{stage}#2" for stage in STAGES)
LOOK_EVERY = 0.2
LEAVING = 120.0
"""Seconds that a process may take to end in good order, with a broker that may be away."""


def stage_of(name: str) -> str:
    """Return the stage of a process."""
    return name.partition("#")[0]


@dataclass(frozen=True)
class Death:
    """A process that has ended without being asked to.

    Attributes:
        at: seconds since 1970.
        name: of the process.
        armed: the fault point that it was to die at, "" for none.
        status: of its end; -9 for SIGKILL.
    """

    at: float
    name: str
    armed: str
    status: int


@dataclass
class Crew:
    """All processes of the product.

    Attributes:
        product: starts them.
        deaths: all that there were.
        oddities: what else was seen of them that should not be.
        farewells: exit statuses of those that were asked to end, by name; 0 is right.
    """

    product: Connector
    deaths: list[Death] = field(default_factory=list)
    oddities: list[str] = field(default_factory=list)
    farewells: list[tuple[str, int]] = field(default_factory=list)
    _wanted: set[str] = field(default_factory=set)
    _next: dict[str, str] = field(default_factory=dict)  # fault points, for the next start
    _poison: dict[str, str] = field(default_factory=dict)  # fault points by stage, for all starts
    _armed: dict[str, str] = field(default_factory=dict)  # of those that run
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _over: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def kept_alive(self) -> Iterator[None]:
        """Start again what dies, until the block ends; then kill what is left."""
        thread = threading.Thread(target=self._keep, name="crew")
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
            for name in list(self.product.processes):
                self.thaw(name)
            self.product.close()

    def want(self, *names: str) -> None:
        """Let these processes run from now on."""
        with self._lock:
            self._wanted.update(names)
        self.look()

    def dismiss(self, *names: str) -> None:
        """End these processes in good order, and keep the statuses."""
        with self._lock:
            self._wanted.difference_update(names)
            self.look()
            leaving = {n: self.product.processes.pop(n) for n in names if self._runs(n)}
            for name, process in leaving.items():
                self._armed.pop(name, None)
                process.send_signal(signal.SIGTERM)
        for name, process in leaving.items():
            try:
                status = process.wait(LEAVING)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                status = process.wait()
            self.farewells.append((name, status))

    def kill(self, name: str) -> None:
        """SIGKILL a process, if it runs; if it is wanted, another one follows."""
        self._signal(name, signal.SIGKILL)
        self.look()

    def take_away(self, name: str) -> None:
        """SIGKILL a process, and let none follow until it is wanted again."""
        with self._lock:
            self._wanted.discard(name)
            self.kill(name)

    def freeze(self, name: str) -> None:
        """Let a process stand still."""
        self._signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let a frozen process go on."""
        self._signal(name, signal.SIGCONT)

    def arm(self, name: str, step: str) -> None:
        """Start a process anew with a fault point; the one after it has none."""
        with self._lock:
            self._next[name] = step
            self.kill(name)

    def disarm(self, name: str) -> None:
        """Kill a process that has not come to its fault point."""
        with self._lock:
            self._next.pop(name, None)
            if name in self._armed:
                self.kill(name)

    def poison(self, stage: str, step: str | None) -> None:
        """Start all processes of a stage with a fault point from now on, or with none."""
        with self._lock:
            self._poison.pop(stage, None)
            if step is not None:
                self._poison[stage] = step
            for name in [n for n in self._wanted if stage_of(n) == stage]:
                self.kill(name)

    def armed(self, name: str) -> bool:
        """Return whether a fault point of a process is still to be reached."""
        with self._lock:
            return name in self._armed or name in self._next

    def look(self) -> None:
        """Take note of who is dead, and start who is wanted."""
        with self._lock:
            for name, process in list(self.product.processes.items()):
                status = process.poll()
                if status is not None:
                    del self.product.processes[name]
                    armed = self._armed.pop(name, "")
                    self.deaths.append(Death(time.time(), name, armed, status))
            for name in sorted(self._wanted - self.product.processes.keys()):
                self._start(name)

    def _start(self, name: str) -> None:
        step = self._poison.get(stage_of(name)) or self._next.pop(name, None)
        if step is None:
            self.product.start(name)
        else:
            self._armed[name] = step
            self.product.start(name, **{VARIABLE: step})

    def _runs(self, name: str) -> bool:
        return name in self.product.processes

    def _signal(self, name: str, number: signal.Signals) -> None:
        with self._lock:
            if not self._runs(name):
                return
            self.product.processes[name].send_signal(number)
            if number is signal.SIGKILL:
                self._armed.pop(name, None)  # it dies here, and not at its step
                self.product.processes[name].wait()

    def _keep(self) -> None:
        while not self._over.wait(LOOK_EVERY):
            self.look()
