"""The databases that the state can lie in, and what can befall them while mail flows.

Each fault is a context: it lasts as long as the block.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from tests.servers.disk import Disk, memory_disk
from tests.servers.postgresql import PostgresqlServer, postgresql, several

Fault = Callable[[], AbstractContextManager[None]]


class Database(Protocol):
    """A database of its own for one installation."""

    @property
    def url(self) -> str: ...
    @property
    def faults(self) -> Mapping[str, Fault]: ...


class Sqlite:
    """A file in a folder of its own, which is the root of a small disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._file = disk.root / "state.db"
        self.url = f"sqlite:///{self._file}"
        self.faults: Mapping[str, Fault] = {"locked": self._locked, "full": self._full}

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with contextlib.closing(sqlite3.connect(self._file, isolation_level=None)) as other:
            other.execute("PRAGMA busy_timeout = 30000")
            other.execute("BEGIN EXCLUSIVE")
            yield

    @contextlib.contextmanager
    def _full(self) -> Iterator[None]:
        self._disk.fill()
        try:
            yield
        finally:
            self._disk.free()


class Postgresql:
    """A schema of its own; whoever waits for a lock gives up soon."""

    def __init__(self, server: PostgresqlServer) -> None:
        self._server = server
        self._schema, url = server.schema()
        self.url = f"{url}%20-clock_timeout%3D300ms"
        self.faults: Mapping[str, Fault] = {
            "restarted": self._restarted,
            "locked": self._locked,
            "stopped": self._stopped,
        }

    @contextlib.contextmanager
    def _restarted(self) -> Iterator[None]:
        self._server.stop()
        self._server.start()
        yield

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._server.connect() as other, other.transaction():
            query = "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = %s"
            names = [str(name) for (name,) in other.execute(query, [self._schema])]
            other.execute(f"SET LOCAL search_path = {self._schema}")
            other.execute(f"LOCK TABLE {', '.join(names)} IN ACCESS EXCLUSIVE MODE")
            yield

    @contextlib.contextmanager
    def _stopped(self) -> Iterator[None]:
        self._server.stop()
        try:
            yield
        finally:
            self._server.start()


class Pair:
    """A primary and its replica, which has all that was committed; the replica is named first."""

    def __init__(self, primary: PostgresqlServer, replica: PostgresqlServer) -> None:
        self._primary, self._replica = primary, replica
        self.url = several(replica, primary)
        self.faults: Mapping[str, Fault] = {"failed over": self._failed_over}
        with primary.connect() as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")

    @contextlib.contextmanager
    def _failed_over(self) -> Iterator[None]:
        """Have no server that takes writes; afterwards the replica does, for good."""
        self._primary.stop()
        try:
            yield
        finally:
            self._replica.promote()


@contextlib.contextmanager
def database(kind: str, folder: Path) -> Iterator[Database]:
    """Have a database until the block ends; skip the test where it cannot be had."""
    if kind == "pair":
        with postgresql() as primary, postgresql(primary) as replica:
            yield Pair(primary, replica)
    elif kind == "postgresql":
        with postgresql() as server:
            yield Postgresql(server)
    else:
        with memory_disk(folder / "state", "16m") as disk:
            yield Sqlite(disk)
