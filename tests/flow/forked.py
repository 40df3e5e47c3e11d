"""Processes of the product that begin by fork, without loading Python and the product each time.

For tests that start dozens of processes: loading takes most of a second of CPU, a fork next to
nothing. They are real processes all the same, each with its own life and death. They log each line,
however many there are of its kind: tests wait for lines.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired

from services.command_line import OPERATOR
from tests.clock import ShiftedClock
from tests.flow.connector import STAGES, Connector, command_of

_LOADED = ["__main__", "services.command_line", "services.run"]
_LOADED += ["services.process", *(f"services.{stage}.wiring" for stage in STAGES)]
_LOADED += [
    "shared.broker.embedded.broker",
    "shared.broker.rabbitmq.broker",
    "shared.state",
    "shared.settings.load",
]
_LOADED += ["shared.settings.advice", "shared.settings.owner", "email.parser", "encodings.idna"]
_LOADED += [f"services.postmaster.{module}" for module in sorted({*OPERATOR.values()})]
_LOADED += ["sqlalchemy.dialects.sqlite.aiosqlite", "tests.flow.forked"]


@dataclass
class Forked:
    """A process, with as much of ``subprocess.Popen`` as the tests use."""

    process: ForkServerProcess

    @property
    def pid(self) -> int | None:
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, or minus the signal that ended it; None while it runs."""
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        if self.process.exitcode is None:
            os.kill(self.process.pid, number)

    def wait(self, seconds: float | None = None) -> int:
        self.process.join(seconds)
        if self.process.exitcode is None:
            raise TimeoutExpired(str(self.process.name), seconds or 0)
        return self.process.exitcode


class ForkedConnector(Connector):
    """An installation whose processes begin by fork, on a machine whose clock a test can set.

    Attributes:
        first: what each process does before anything else, but for commands.
        first_of_commands: what each command does.
    """

    first: Callable[[], None] | None = None
    first_of_commands: Callable[[], None] | None = None

    @cached_property
    def clock(self) -> ShiftedClock:
        """What the processes take for the clock of the machine."""
        return ShiftedClock(self.folder / "clock")

    def start(self, *names: str, **environment: str) -> None:
        for name in names:
            log = self.folder / f"{name}.log"
            self.processes[name] = self._fork(self.first, command_of(name), log, log, environment)

    def cli(self, *arguments: str, timeout: float = 300) -> CompletedProcess[str]:
        """Run one command of the product to its end."""
        with tempfile.TemporaryDirectory(prefix="cli-") as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            process = self._fork(self.first_of_commands, arguments, out, err, {})
            try:
                status = process.wait(timeout)
            finally:
                process.send_signal(signal.SIGKILL)
            return CompletedProcess(arguments, status, out.read_text(), err.read_text())

    def _fork(
        self,
        first: Callable[[], None] | None,
        arguments: Sequence[str],
        out: Path,
        err: Path,
        environment: Mapping[str, str],
    ) -> Forked:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_LOADED)
        command = ["--config", str(self.config), *arguments]
        process = context.Process(
            target=_live,
            args=(first, command, out, err, environment, self.clock.path),
            name=" ".join(arguments),
        )
        process.start()
        return Forked(process)


def _live(
    first: Callable[[], None] | None,
    command: list[str],
    out: Path,
    err: Path,
    environment: Mapping[str, str],
    clock: Path,
) -> None:
    """Be a process of the product until it ends."""
    from services.command_line import main
    from shared import flood

    for number, path in ((1, out), (2, err)):
        with path.open("ab") as file:
            os.dup2(file.fileno(), number)
    os.environ.update(environment)
    if first is not None:
        first()
    ShiftedClock(clock).rule()
    vars(flood).update(SOME=sys.maxsize, MANY=sys.maxsize)
    sys.exit(main(command))
