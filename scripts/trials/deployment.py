"""A running docker-compose.yml, as scripts/trials/compose.py drives and asks it.

Everything goes through the docker command and RabbitMQ's management API; a command that fails ends
the trial with what it said.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
STARTED: Final = time.monotonic()
TLS: Final = ("docker-compose.yml", "deploy/compose.tls.yml")
STAGES: Final = {
    "fetcher": "poll",
    "parser": "incoming",
    "rewriter": "parsed",
    "deliverer": "pickup",
}
"""The stages, and the inbox of each."""


class Failed(Exception):
    """The deployment is not as it must be."""


def say(what: str) -> None:
    """Print a line of the story, with the seconds since its beginning."""
    print(f"[{time.monotonic() - STARTED:5.0f} s] {what}", flush=True)


def check(true: bool, what: str) -> None:
    """Say what holds.

    Raises:
        Failed: it does not.
    """
    if not true:
        raise Failed(what)
    say(f"ok: {what}")


def run(*command: str, folder: Path = ROOT) -> str:
    """Run a command to its end; return what it printed.

    Raises:
        Failed: it ended with another status than 0.
    """
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def wait_until(true: Callable[[], bool], what: str, seconds: float = 240) -> None:
    """Return once the condition holds.

    Raises:
        Failed: it does not within so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise Failed(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.5)


class Deployment:
    """The compose project that COMPOSE_PROJECT_NAME names, with profile ``demo``.

    Args:
        files: the compose files; unless given, docker-compose.yml alone.
        folder: where they are, and what they name.
    """

    def __init__(self, files: Sequence[str] = (), folder: Path = ROOT) -> None:
        flags = [part for file in files for part in ("--file", file)]
        self._compose = ("docker", "compose", *flags, "--profile", "demo")
        self._folder = folder
        self._port = os.environ["MANAGEMENT_PORT"]
        self._login = ""

    def compose(self, *arguments: str) -> str:
        """Run a compose command."""
        return run(*self._compose, *arguments, folder=self._folder)

    def tool(self, *arguments: str) -> str:
        """Run a command of the operator's."""
        return self.compose("run", "--rm", "--no-deps", "postmaster", *arguments)

    def begin(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a command in a container and go on."""
        return subprocess.Popen([*self._compose, "exec", "--no-TTY", *command], cwd=self._folder)

    def inside(self, service: str, *command: str) -> str:
        """Run a command in the first container of a service."""
        return self.compose("exec", "--no-TTY", service, *command)

    def containers(self, *services: str) -> list[dict[str, Any]]:
        """Return what the engine knows of the containers of these services, or of all."""
        ids = self.compose("ps", "--all", "--quiet", *services).split()
        found: list[dict[str, Any]] = json.loads(run("docker", "inspect", *ids))
        return found

    def health(self, service: str) -> list[str]:
        """Return the state of health of each container of a service."""
        return [c["State"].get("Health", {}).get("Status", "") for c in self.containers(service)]

    def wait_for_health(self, health: str, services: Mapping[str, int]) -> None:
        """Wait until each service has so many containers, all of them of this health."""
        for service, count in services.items():
            wanted = [health] * count
            wait_until(partial(self._is, service, wanted), f"{count} of {service} to be {health}")

    def wait_until_ready(self, *stages: str) -> None:
        """Wait until the first container of each stage is connected to what it needs."""
        for stage in stages:
            wait_until(partial(self.ready, stage), f"{stage} to be ready")

    def ready(self, stage: str) -> bool:
        """Return whether the first container of a stage says that it can take work."""
        code = (
            "import urllib.request as r\n"
            "try: print(r.urlopen('http://127.0.0.1:9108/readyz').status)\n"
            "except OSError as error: print(error)"
        )
        return self.inside(stage, "python", "-c", code).strip() == "200"

    def _is(self, service: str, health: list[str]) -> bool:
        return self.health(service) == health

    def kill(self, service: str) -> None:
        """SIGKILL the first container of a service from outside, as the kernel would.

        ``docker kill`` would not do: it tells the engine not to start the container again.
        """
        os.kill(self.containers(service)[0]["State"]["Pid"], 9)

    @contextlib.contextmanager
    def frozen(self, service: str) -> Iterator[None]:
        """Stop the processes of a service in their tracks until the block ends (SIGSTOP)."""
        parents = [container["State"]["Pid"] for container in self.containers(service)]
        children = [
            int(child)
            for parent in parents
            for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        ]
        for child in children:
            os.kill(child, signal.SIGSTOP)
        try:
            yield
        finally:
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGCONT)

    def log_in(self) -> None:
        """Get the password of the person who monitors."""
        self._login = ":".join(self.compose("run", "--rm", "secrets", "show", "/secrets").split())

    def api(self, path: str, body: object = None, login: str = "") -> Any:
        """Ask RabbitMQ's management API.

        Args:
            path: below ``/api/``.
            body: posted as JSON, if given.
            login: ``user:password``, in place of the person's who monitors.
        """
        credentials = base64.b64encode((login or self._login).encode()).decode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/api/{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def queues(self) -> dict[str, dict[str, Any]]:
        """Return the queues by name."""
        return {queue["name"]: queue for queue in self.api("queues")}

    def depths(self) -> dict[str, int | None]:
        """Return how many messages are in each queue; None where RabbitMQ has not counted yet."""
        return {name: queue.get("messages") for name, queue in self.queues().items()}

    def delivered(self) -> list[str]:
        """Return the Message-IDs in the mailboxes of the house, one for each copy."""
        found = self.inside(
            "mailserver", "grep", "-rhim1", "^Message-ID:", "--include=*.mailserver,*", "/srv/mail"
        )
        return [line.split()[1] for line in found.splitlines()]

    def tagged(self, tag: str) -> int:
        """Return how many messages with this tag are in the mailboxes."""
        return sum(i.endswith(f".{tag}@example.net>") for i in self.delivered())

    def idle(self) -> bool:
        """Return whether no message is on its way."""
        # The last two carry no mail.
        kept = ("failed", "quarantine", "held", "poll", "topology", "ledger")
        return all(count == 0 for n, count in self.depths().items() if not n.endswith(kept))

    def ended(self, service: str) -> bool:
        """Return whether the container of a service has ended."""
        return str(self.containers(service)[0]["State"]["Status"]) == "exited"

    def accepted(self) -> set[str]:
        """Return our ids of the messages in the mailboxes of the house."""
        where = ("--include=*.mailserver,*", "/srv/mail")
        found = self.inside("mailserver", "grep", "-rhim1", "^X-POP3-Connector-Id:", *where)
        return {line.split()[1] for line in found.splitlines()}

    def recorded(self) -> set[str]:
        """Return the ids of the messages that the ledger knows as delivered."""
        query = "select id from delivered"
        return set(
            self.inside(
                "postgres", "psql", "-U", "connector", "-d", "connector", "-Atc", query
            ).split()
        )


def stand_in() -> tuple[str, ...]:
    """Return a file more where postgres:17 is an image whose entry point drops its arguments.

    The public image passes them on. Where that is not to be had, its stand-in may not.
    """
    entry = run("docker", "run", "--rm", "--entrypoint", "sh", "postgres:17", "-c",
                "cat $(command -v docker-entrypoint.sh)")  # fmt: skip
    return () if 'exec "$@"\n}' in entry else ("tests/flow/compose.stand-in.yml",)


def main(story: Callable[[], None]) -> int:
    """Tell a story; return the exit status."""
    try:
        story()
    except Failed as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    return 0
