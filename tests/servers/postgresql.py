"""A private PostgreSQL: own data directory and port, password logins only, no socket, no fsync.

PostgreSQL refuses to run as root, so a test that does starts it as the package's own account.
"""

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.servers.process import free_port, require, running, wait_until

USER, PASSWORD = "connector", "open sesame: 100%"
QUOTED = "open%20sesame%3A%20100%25"

_INITDB = ("--no-sync", "--encoding=UTF8", "--locale=C", "--auth=scram-sha-256")

_CONFIG = """\
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
fsync = off
shared_buffers = 32MB
max_connections = 50
"""


class PostgresqlServer:
    """One server. ``start`` and ``stop`` as often as wanted; its data stay.

    Args:
        folder: where its data lie.
        primary: whose replica it is, until it is promoted; None for a server of its own.
    """

    def __init__(self, folder: Path, primary: "PostgresqlServer | None" = None) -> None:
        self.port = free_port()
        self._data = folder / "data"
        self._log = folder / "log"
        self._names = itertools.count(1)
        self._running: contextlib.ExitStack | None = None
        self._process: subprocess.Popen[bytes] | None = None
        secret = folder / "password"
        secret.write_text(PASSWORD)
        _give_away(folder, secret)
        made = self._copied(primary) if primary else self._initialised(secret)
        subprocess.run(
            [*_as_postgres(), *made],
            check=True,
            capture_output=True,
            cwd="/",
            env={**os.environ, "PGPASSWORD": PASSWORD},
        )
        self.configure(_CONFIG.format(port=self.port))

    def _initialised(self, secret: Path) -> list[str]:
        program = str(_program("initdb"))
        return [
            program,
            *_INITDB,
            f"--username={USER}",
            f"--pwfile={secret}",
            f"--pgdata={self._data}",
        ]

    def _copied(self, primary: "PostgresqlServer") -> list[str]:
        program = str(_program("pg_basebackup"))
        source = ["--host=127.0.0.1", f"--port={primary.port}", f"--username={USER}"]
        how = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
        return [program, *source, *how, f"--pgdata={self._data}"]

    def configure(self, lines: str) -> None:
        """Add lines to its configuration; what is said last counts."""
        with (self._data / "postgresql.conf").open("a") as config:
            config.write(lines)

    def promote(self) -> None:
        """Make a replica a primary; return when it takes writes."""
        with self.connect() as connection:
            connection.execute("SELECT pg_promote()")

    def refuse_writes(self, *, refused: bool) -> None:
        """Have transactions that begin from now on be read-only, or not so any more."""
        value = "on" if refused else "off"
        with self.connect() as connection, self.connect() as bystander:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
            connection.execute("SELECT pg_reload_conf()")
            show = "SHOW default_transaction_read_only"
            wait_until(lambda: bystander.execute(show).fetchone() == (value,), "every session")

    def errors(self) -> list[str]:
        """Return what it has complained about so far."""
        return [x for x in self._log.read_text().splitlines() if "ERROR:" in x or "FATAL:" in x]

    def url(self, user: str = USER, password: str = QUOTED, database: str = "postgres") -> str:
        """Return an SQLAlchemy URL; the password is quoted."""
        return f"postgresql+psycopg://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def empty(self) -> str:
        """Return the URL of a new schema; a database of its own would be a thousand files."""
        return self.schema()[1]

    def schema(self) -> tuple[str, str]:
        """Make a schema; return its name, and a URL that ends with options for the server."""
        name = f"state{next(self._names)}"
        with self.connect() as connection:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        return name, f"{self.url()}?options=-csearch_path%3D{name}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """Return a connection of the test's own, in autocommit."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=USER,
            password=PASSWORD,
            dbname=database,
            autocommit=True,
        )

    def start(self) -> None:
        """Start it; return when it takes logins."""
        stack = contextlib.ExitStack()
        command = [*_as_postgres(), str(_program("postgres")), "-D", str(self._data)]
        at_once = signal.SIGQUIT  # SIGTERM would wait for the clients to leave
        self._process = stack.enter_context(
            running(command, self._log, self._answers, stop=at_once)
        )
        self._running = stack

    def stop(self) -> None:
        """Shut it down; whoever is connected is cut off."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def disconnect_everybody(self) -> None:
        """Cut every connection but the one that does it."""
        with self.connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError), self.connect():
            return True
        return False


def installed() -> bool:
    """Return whether there is a PostgreSQL on this machine."""
    return _program("postgres") is not None


@contextlib.contextmanager
def postgresql(primary: PostgresqlServer | None = None) -> Iterator[PostgresqlServer]:
    """Run a server until the block ends; skip the test where PostgreSQL is not installed.

    Args:
        primary: whose replica it is; it has to run.
    """
    if not installed():
        require("postgres")
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))  # not below pytest's: that is root's own
    try:
        server = PostgresqlServer(folder, primary)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def several(*servers: PostgresqlServer) -> str:
    """Return an SQLAlchemy URL of several servers, of which one takes writes."""
    hosts = "&".join(f"host=127.0.0.1:{server.port}" for server in servers)
    return f"postgresql+psycopg://{USER}:{QUOTED}@/postgres?{hosts}"


def _program(name: str) -> Path | None:
    """Return the newest version's program; Debian keeps them out of PATH."""
    found = [*Path("/usr/lib/postgresql").glob(f"*/bin/{name}")]
    if found:
        return max(found, key=lambda path: int(path.parts[4]))
    elsewhere = shutil.which(name)
    return Path(elsewhere) if elsewhere else None


def _as_postgres() -> list[str]:
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]


def _give_away(*paths: Path) -> None:
    if os.geteuid() == 0:
        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("there is no account postgres to run PostgreSQL as")
        for path in paths:
            os.chown(path, account.pw_uid, account.pw_gid)
