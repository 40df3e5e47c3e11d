"""The product as its users run it: a configuration file, and real processes started with it."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from tests.servers.process import wait_until

ROOT = Path(__file__).resolve().parents[2]
FIRST_LINE = b"X-POP3-Connector-First-Line: "
"""Its value is a line that stands above the header of a raw message."""

BOM = b"\xef\xbb\xbf"
STAGES = ("fetcher", "parser", "rewriter", "deliverer")


class Process(Protocol):
    """A process as the tests see it; as of ``subprocess.Popen``."""

    @property
    def pid(self) -> int | None: ...
    @property
    def returncode(self) -> int | Any | None: ...
    def poll(self) -> int | None: ...
    def send_signal(self, number: signal.Signals, /) -> None: ...
    def wait(self, seconds: float | None = None, /) -> int: ...


@dataclass
class Connector:
    """One installation in a folder of its own.

    Attributes:
        folder: holds the configuration, the data directory and a log for each process.
    """

    folder: Path
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.folder / "connector.toml"

    @property
    def queue_file(self) -> Path:
        """Where the embedded broker has its queues."""
        return self.folder / "data" / "queue.db"

    def configure(
        self,
        accounts: Iterable[dict[str, object]],
        delivery: str,
        broker: str | None = None,
        **tables: Mapping[str, object],
    ) -> None:
        """Write the configuration.

        Args:
            accounts: the keys of each account.
            delivery: the URL of the default destination.
            broker: the URL of RabbitMQ, None for the embedded broker.
            tables: further tables, such as ``retry={"tiers": ["1s"]}``.
        """
        lines = [f"data_dir = {json.dumps(str(self.folder / 'data'))}"]
        every: dict[str, Mapping[str, object]] = {"delivery": {"url": delivery}, **tables}
        if broker is not None:
            every["broker"] = {"url": broker}
        for name, keys in every.items():
            lines += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in keys.items())]
        for account in accounts:
            lines += ["[[account]]", *(f"{k} = {json.dumps(v)}" for k, v in account.items())]
        self.config.write_text("\n".join(lines) + "\n")
        self.config.chmod(0o600)

    def cli(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run one command of the product to its end."""
        return subprocess.run(
            [*self._command(), *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self._environment(),
            check=False,
        )

    def once(self, timeout: float = 300) -> tuple[int, dict[str, Any]]:
        """``run --once --json``: the exit status and the summary."""
        done = self.cli("run", "--once", "--json", timeout=timeout)
        assert done.stdout, done.stderr[-3000:]
        return done.returncode, json.loads(done.stdout)

    def json(self, *arguments: str) -> Any:
        """Run a command with ``--json`` and return what it printed."""
        done = self.cli(*arguments, "--json")
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    def start(self, *names: str, **environment: str) -> None:
        """Start processes: stages, or ``run``; with these variables in their environment.

        A second process of a stage is ``parser#2``.
        """
        for name in names:
            log = (self.folder / f"{name}.log").open("ab")
            with log:
                self.processes[name] = subprocess.Popen(
                    [*self._command(), *command_of(name)],
                    cwd=ROOT,
                    stdout=log,
                    stderr=log,
                    env=self._environment() | environment,
                )

    def kill(self, name: str) -> None:
        """SIGKILL a process."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self, name: str, seconds: float = 60) -> int:
        """SIGTERM a process; return its exit status."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(seconds)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of a process."""
        path = self.folder / f"{name}.log"
        text = path.read_text(errors="replace") if path.exists() else ""
        whole = text.rpartition("\n")[0]  # of the last line some may not be written yet
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    def count(self, name: str, event: str) -> int:
        """Return how often a process has logged an event."""
        return Counter(e["event"] for e in self.events(name))[event]

    def tail(self) -> str:
        """Return the end of every log, for a failure message."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"== {p.name}\n{p.read_text(errors='replace')[-1500:]}" for p in logs)

    def wait(self, true: Any, what: str, seconds: float = 120) -> None:
        """Wait for a condition; show the logs where it does not come."""
        try:
            wait_until(true, what, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None

    def close(self) -> None:
        """Kill what still runs."""
        for name in list(self.processes):
            self.kill(name)

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "services", "--config", str(self.config)]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT)}


def command_of(name: str) -> list[str]:
    """Return the command of a process; what stands after ``#`` tells two of a kind apart."""
    return name.partition("#")[0].split()


@contextlib.contextmanager
def connector(folder: Path) -> Iterator[Connector]:
    """Return an installation; its processes end with the block."""
    installation = Connector(folder)
    try:
        yield installation
    finally:
        installation.close()


def lf(raw: bytes) -> bytes:
    """Return a message with the line ends of a Maildir."""
    return raw.replace(b"\r\n", b"\n")


def below_prefix(stored: bytes) -> bytes:
    """Return a stored message without what the connector, and servers after it, put on top.

    What the connector prepends is one run of lines, the last of them an X-POP3-Connector field.
    Lines above the header of the message, which it makes fields of its own, are returned as they
    were, with LF line ends.
    """
    head, _, _ = stored.partition(b"\n\n")
    ours = [m.start() for m in re.finditer(rb"^X-POP3-Connector-", head, re.MULTILINE)]
    assert ours, f"not ours: {stored[:300]!r}"
    strays = [at for at in ours if stored.startswith(FIRST_LINE, at)]
    if strays:
        return _strays(stored[strays[0] :])
    at = stored.index(b"\n", ours[-1]) + 1
    while stored[at : at + 1] in (b" ", b"\t"):
        at = stored.index(b"\n", at) + 1
    return stored[at:]


def _strays(stored: bytes) -> bytes:
    above = b""
    while stored.startswith(FIRST_LINE):
        line, _, stored = stored.removeprefix(FIRST_LINE).partition(b"\n")
        blank = re.fullmatch(rb"\((\d+) blank lines\)", line)
        above += b"\n" * int(blank[1]) if blank else line if line == BOM else line + b"\n"
    return above + stored


def digests(messages: Iterable[bytes]) -> Counter[str]:
    """Return how often each message occurs, by a hash that makes failures readable."""
    return Counter(sha256(message).hexdigest() for message in messages)
