"""A private RabbitMQ: own node name, ports, data and port mapper, stopped with all that it started.

It is run by this user from the package's own scripts (Debian 12 has 3.10, Debian 13 has 4.0), not
by the wrapper that changes to the system's ``rabbitmq`` account and its directories.
"""

import atexit
import base64
import contextlib
import functools
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.servers.process import accepts, free_port, require, running, wait_until

SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
USER, PASSWORD = "guest", "guest"

_CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{amqp}
loopback_users = none
heartbeat = 30
default_user = {user}
default_pass = {password}
vm_memory_high_watermark.absolute = 2GB
disk_free_limit.absolute = 50MB
raft.wal_max_size_bytes = 67108864
log.console.level = warning
"""


class RabbitServer:
    """One node. ``start``, ``stop`` and ``kill`` as often as wanted; its data stay.

    Attributes:
        port: where it speaks AMQP.
        management_port: where its HTTP API answers; 0 without the management plugin.
    """

    def __init__(self, folder: Path, management: bool = True, config: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self.management_port = free_port() if management else 0
        self._epmd_port = free_port()
        self._dist_port = free_port()
        self._node = f"pop3-{os.getpid()}-{self.port}@localhost"
        self._extra = config
        self._epmd: contextlib.ExitStack | None = None
        self._running: contextlib.ExitStack | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._vhosts = itertools.count(1)
        self._write()

    def url(self, vhost: str = "/") -> str:
        """Return the AMQP URL of a virtual host."""
        quoted = urllib.parse.quote(vhost, safe="")
        return f"amqp://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{quoted}"

    def start(self) -> None:
        """Start the node; return when it takes connections."""
        stack = contextlib.ExitStack()
        self._process = stack.enter_context(
            running([SERVER], self.folder / "console.log", self._answers, self._environment())
        )
        self._running = stack

    def stop(self) -> None:
        """Shut the node down in good order."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def kill(self) -> None:
        """End the node and its helpers at once, as a power cut would."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.stop()

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Let the node stand still (SIGSTOP) until ``thaw``; its connections stay open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen node go on."""
        self._signal(signal.SIGCONT)

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Call the management API; return what it answers, decoded, None for nothing.

        Args:
            method: GET, PUT, POST or DELETE.
            path: below ``/api/``, already quoted.
            body: what to send as JSON.
        """
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.management_port}/api/{path}",
            None if body is None else json.dumps(body).encode(),
            {
                "Content-Type": "application/json",
                "Authorization": "Basic "
                + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode(),
            },
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def vhost(self) -> str:
        """Make a virtual host that nobody has used; return its name."""
        name = f"v{next(self._vhosts)}"
        self.api("PUT", f"vhosts/{name}")
        return name

    def impose(self, vhost: str, pattern: str, definition: dict[str, object]) -> None:
        """Set a policy on queues of a virtual host."""
        policy = {"pattern": pattern, "definition": definition, "apply-to": "queues"}
        self.api("PUT", f"policies/{vhost}/imposed", policy)

    def drop_vhost(self, name: str) -> None:
        """Delete a virtual host with all that is in it."""
        self.api("DELETE", f"vhosts/{name}")

    def user(self, name: str, password: str, vhost: str, permissions: dict[str, str]) -> str:
        """Make a user with these permissions (configure, write, read); return the AMQP URL."""
        self.api("PUT", f"users/{name}", {"password": password, "tags": ""})
        self.api("PUT", f"permissions/{vhost}/{name}", permissions)
        return f"amqp://{name}:{password}@127.0.0.1:{self.port}/{vhost}"

    def close_connections(self, vhost: str, count: int = 1) -> int:
        """Close every client connection of a virtual host, as an operator would; return how many.

        The API lists a connection some seconds after it was opened.

        Args:
            vhost: its name.
            count: how many connections to wait for.
        """
        wait_until(lambda: len(self._connections(vhost)) >= count, f"connections to {vhost}")
        closed = 0
        for name in self._connections(vhost):
            with contextlib.suppress(urllib.error.HTTPError):
                self.api("DELETE", f"connections/{urllib.parse.quote(name, safe='')}")
                closed += 1
        return closed

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl (it takes a second); return what it prints."""
        done = subprocess.run(
            ["/usr/lib/rabbitmq/bin/rabbitmqctl", "-q", "-n", self._node, *arguments],
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"rabbitmqctl {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def open(self) -> None:
        """Start the port mapper, then the node."""
        stack = contextlib.ExitStack()
        epmd = shutil.which("epmd") or "epmd"
        stack.enter_context(
            running(
                [epmd, "-address", "127.0.0.1", "-port", str(self._epmd_port)],
                self.folder / "epmd.log",
                lambda: accepts(self._epmd_port),
            )
        )
        self._epmd = stack
        self.start()

    def close(self) -> None:
        """Stop the node at once (its data are thrown away), then the port mapper."""
        if self._running is not None:
            self.kill()
        if self._epmd is not None:
            self._epmd.close()

    def _connections(self, vhost: str) -> list[str]:
        return [c["name"] for c in self.api("GET", "connections") if c.get("vhost") == vhost]

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def _answers(self) -> bool:
        return accepts(self.port) and (not self.management_port or self._api_answers())

    def _api_answers(self) -> bool:
        try:
            self.api("GET", "overview")
        except OSError:
            return False
        return True

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = _CONFIG.format(amqp=self.port, user=USER, password=PASSWORD) + self._extra
        if self.management_port:
            config += (
                f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {self.management_port}\n"
            )
        plugins = "[rabbitmq_management]." if self.management_port else "[]."
        (self.folder / "rabbitmq.conf").write_text(config)
        (self.folder / "enabled_plugins").write_text(plugins)

    def _environment(self) -> dict[str, str]:
        folder = str(self.folder)
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin",
            "LANG": "C.UTF-8",
            "HOME": folder,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/rabbitmq-env.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{folder}/mnesia",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RABBITMQ_FEATURE_FLAGS_FILE": f"{folder}/feature_flags",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{folder}/generated",
            # The Erlang machine is then the process itself, and not a child of a shell.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput",
        }


@contextlib.contextmanager
def rabbitmq(folder: Path, management: bool = True, config: str = "") -> Iterator[RabbitServer]:
    """Run a private node until the block ends; skip the test where RabbitMQ is not installed.

    Args:
        folder: an empty directory for all its files.
        management: whether its HTTP API is wanted; ``vhost``, ``user`` and more need it.
        config: further lines for its configuration file.
    """
    require("rabbitmq-server", "epmd")
    server = RabbitServer(folder, management, config)
    try:
        server.open()
        yield server
    finally:
        server.close()


@functools.cache
def shared_rabbitmq() -> RabbitServer:
    """Return the one node of this test run: started when first wanted, ended with the process.

    For tests that keep to a virtual host of their own and leave the node itself in peace.
    """
    stack = contextlib.ExitStack()
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pop3-rabbitmq-"))
    atexit.register(stack.close)
    return stack.enter_context(rabbitmq(Path(folder)))
