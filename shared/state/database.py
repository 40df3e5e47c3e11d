"""One connection to the state database, for the one thread that uses it.

SQLite is a file in WAL mode that several processes share; a transaction is on disk when its commit
returns (``synchronous=FULL``). PostgreSQL is reached through psycopg. What went wrong is said once,
here: ConfigError while opening for what only the user can mend, StateUnavailable for all the rest,
after a few tries on a fresh connection. Neither ever holds a password or a parameter.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, stop_after_delay
from tenacity.wait import wait_random_exponential

from shared.disk.explain import disk_words
from shared.errors import (
    ConfigError,
    DatabaseDamaged,
    StateDamaged,
    StateUnavailable,
    Unstorable,
)
from shared.log import printable
from shared.sqlite.open import make_ready, set_pragmas
from shared.sqlite.presence import LEDGERS_LOST, how_gone, note_made
from shared.sqlite.rebuild import damage_error, is_damage
from shared.state import postgresql
from shared.state.postgresql import WHERE
from shared.state.schema import Incomplete, NewerDatabase, look, migrate

R = TypeVar("R")
_Paramstyle: TypeAlias = Literal["named", "pyformat"]

_NOT_THE_OWNER: Final = re.compile("permission denied|must be owner", re.IGNORECASE)
_OWNERS_TURN: Final = (
    "; where the tables are not this role's own, have their owner make them, or bring them up to"
    " date, with pop3-connector state migrate (and see deploy/postgres/roles.sql)"
)
_ANOTHER: Final = (
    "; this server is a replica, or was made read-only: each try connects anew, to another one"
    " where the URL names several (host=)"
)
_PUT_BACK: Final = (
    "Stop all processes, and put back a backup of the whole database; see Backup in"
    " docs/operations.md"
)
_TRIES: Final = 3

_FAULTS: Final = (exc.DBAPIError, exc.TimeoutError)
"""What the driver reports, and what the pool does when no connection can be had."""

_VALUES: Final = (UnicodeError, OverflowError)
"""What the drivers raise themselves where a value cannot be written as the database wants it."""

_LOG_PAGES: Final = 1000
"""Pages of the log on a disk of a usual size, as by default."""

_CACHE: Final = "PRAGMA cache_size = -16000"

_NOT_OURS: Final = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
"""Primary result codes of SQLite that waiting does not mend (sqlite.org/rescode.html)."""


class Database:
    """The connection. All methods must be called from one thread.

    Args:
        url: an SQLAlchemy URL, ``sqlite:///file`` or ``postgresql+psycopg://user@host/name``; or
            the path of a file.
        patience: seconds to wait for a lock, for a connection, and for tries in all.

    Raises:
        ConfigError: the URL is wrong, or its file was made once and is gone.
    """

    def __init__(self, url: str | Path, patience: float) -> None:
        parsed = _parse(url)
        self._engine = _ENGINES[parsed.drivername](parsed, patience)
        self._patience = patience
        self._connection: Connection | None = None
        self.damage: str | None = None
        """Why waiting does not help, where the file turned out to be damaged, if only in a part."""
        self._faults = (*_FAULTS, self._engine.dialect.loaded_dbapi.Error)
        self._retrying = Retrying(
            retry=retry_if_exception_type(self._faults),
            stop=stop_after_attempt(_TRIES - 1) | stop_after_delay(patience),
            wait=wait_random_exponential(multiplier=0.05, max=1),
            reraise=True,
        )

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self._engine.dialect.name

    def open(self) -> None:
        """Connect, and create or migrate the tables.

        Raises:
            ConfigError: the URL, the password or the file is wrong, or the schema is newer.
            StateUnavailable: the database cannot be reached, or is locked.
        """
        self._enter(_prepare, writes=True)
        if self.dialect == "sqlite":
            note_made(Path(str(self._engine.url.database)))

    def look(self) -> bool:
        """Connect, and see whether ``open`` would do; nothing is made or changed.

        Returns:
            Whether our tables are there.

        Raises:
            ConfigError: as with ``open``.
            StateUnavailable: as with ``open``.
        """
        return self._enter(_look, writes=False)

    def _enter(self, work: Callable[[Connection], R], *, writes: bool) -> R:
        try:
            return self._try(work, writes=writes)
        except NewerDatabase as error:
            raise ConfigError(WHERE, f"the database {error}") from error
        except Incomplete as error:
            raise self._damaged(str(error)) from error
        except self._faults as error:
            if _is_damage(_cause(error)):
                raise self._damaged(_reason(error)) from error
            if _hopeless(error):
                raise ConfigError(WHERE, _reason(error) + _advice(error)) from error
            raise StateUnavailable(_reason(error) + _advice(error)) from error

    def transaction(self, work: Callable[[Connection], R], *, writes: bool) -> R:
        """Do some work in a transaction; it is durable when this returns.

        Args:
            work: what to do; it is done again on a fresh connection where the first one broke,
                also when it cannot be known whether the commit had come through.
            writes: whether it changes anything; SQLite then locks from the beginning, because a
                transaction that turns from reading to writing cannot wait for others.

        Raises:
            Unstorable: a value is at fault, or breaks a rule of the tables. Nothing was done.
            StateUnavailable: the database cannot be reached, is locked, or is full.
            StateDamaged: it is damaged, or tables are gone from it.
        """
        try:
            return self._try(work, writes=writes)
        except self._faults as error:
            if self._is_a_values(error):
                raise Unstorable(_reason(error)) from error
            if _is_damage(_cause(error)):
                self.damage = str(self._damaged(_reason(error)))
                raise StateDamaged(self.damage) from error
            raise StateUnavailable(_reason(error) + _advice(error)) from error
        except (*_VALUES, exc.StatementError) as error:
            raise Unstorable(_reason(error)) from error

    def _damaged(self, why: str) -> ConfigError:
        if self.dialect == "postgresql":
            return DatabaseDamaged(
                WHERE, f"the database is damaged ({printable(why)}). {_PUT_BACK}"
            )
        return damage_error(Path(str(self._engine.url.database)), why)

    def close(self) -> None:
        """Disconnect."""
        self._give_back()
        self._engine.dispose()

    def _try(self, work: Callable[[Connection], R], *, writes: bool) -> R:
        # Watched by tenacity, with a connection asked of the pool, a transaction costs several
        # times the CPU besides its statements.
        started = time.monotonic()
        try:
            return self._once(work, writes)
        except self._faults as error:
            if self._is_a_values(error) or time.monotonic() - started >= self._patience:
                raise
        return cast(R, self._retrying(self._once, work, writes))

    def _once(self, work: Callable[[Connection], R], writes: bool) -> R:
        """Do some work in a transaction; if all goes well, the connection is kept for the next."""
        if self._connection is None:
            self._connection = self._engine.connect()
        try:
            self._connection.execution_options(writes=writes)
            with self._connection.begin():
                return work(self._connection)
        except BaseException as error:
            # The next one is to be made anew, not only where it broke: a server that has become
            # read-only stays so, and a pooler may have a better one.
            self._give_back(spoilt=self.dialect == "postgresql" and not self._is_a_values(error))
            raise

    def _is_a_values(self, error: BaseException) -> bool:
        """Return whether a value is at fault: whatever else the transaction does would be done."""
        cause, driver = _cause(error), self._engine.dialect.loaded_dbapi
        return isinstance(
            cause, (driver.DataError, driver.IntegrityError, *_VALUES)
        ) or postgresql.is_too_much(cause)

    def _give_back(self, *, spoilt: bool = False) -> None:
        """Return the connection to the pool, which makes a new one where it is of no use."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if spoilt:
            connection.invalidate()
        connection.close()


def probe(url: str | Path, patience: float) -> bool:
    """Connect to a database at a server, and see whether it would do; nothing is made or changed.

    Args:
        url: where it is; of a file this would make one.
        patience: seconds to wait for a connection.

    Returns:
        Whether our tables are there.

    Raises:
        DatabaseDamaged: tables are gone from it.
        ConfigError: what only the user can mend, such as the password.
        StateUnavailable: it cannot be reached.
    """
    database = Database(url, patience)
    try:
        return database.look()
    finally:
        database.close()


def file_of(url: str) -> Path | None:
    """Return the file that a URL leads to, None where it leads to a server.

    Raises:
        ConfigError: it leads nowhere, as far as one can tell without opening anything.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        return Path(_file_named_by(parsed))
    _ENGINES[parsed.drivername](parsed, 1.0).dispose()
    return None


def _parse(url: str | Path) -> URL:
    if isinstance(url, Path):
        return URL.create(_SHORT["sqlite"], database=str(url.absolute()))
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        # Without the cause: it repeats the URL, and with it the password.
        what = "is not a database URL such as sqlite:////var/lib/x.db"
        if re.search(r"@[^/]*,", str(url)):
            what += "; several hosts are given as user@/database?host=a:5432&host=b:5432"
        raise ConfigError(WHERE, what) from None
    if parsed.drivername in _SHORT:
        parsed = parsed.set(drivername=_SHORT[parsed.drivername])
    if parsed.drivername not in _ENGINES:
        known = " or ".join(_ENGINES)
        raise ConfigError(WHERE, f"{printable(parsed.drivername)} is not supported; use {known}")
    return parsed


def _sqlite(url: URL, patience: float) -> Engine:
    path = Path(_file_named_by(url))
    try:
        make_ready(path, LEDGERS_LOST)
    except OSError as error:
        raise ConfigError(WHERE, f"{printable(str(path))}: {disk_words(error, path)}") from error
    engine = _engine(url, {"timeout": patience}, paramstyle="named")

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: object) -> None:
        if how := how_gone(path):  # else it would be made anew, and have no tables
            raise sqlite3.OperationalError(f"{printable(str(path))} {how}")
        connection.isolation_level = None  # BEGIN is ours, below
        set_pragmas(connection, path, _LOG_PAGES)
        connection.execute(_CACHE).close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        driver = cast(sqlite3.Connection, connection.connection.driver_connection)
        driver.execute("BEGIN IMMEDIATE" if writes else "BEGIN").close()

    return engine


def _file_named_by(url: URL) -> str:
    if url.query:
        names = printable(", ".join(url.query))
        raise ConfigError(WHERE, f"there are no options in the URL of a file ({names})")
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise ConfigError(WHERE, "names no file; several processes share it, so memory will not do")
    return url.database


def _postgresql(url: URL, patience: float) -> Engine:
    address = postgresql.address(url, patience)
    engine = _engine(address.url, address.arguments, paramstyle="pyformat")
    postgresql.prepare(engine, address.begin)
    return engine


def _engine(url: URL, arguments: Mapping[str, Any], *, paramstyle: _Paramstyle) -> Engine:
    try:
        return create_engine(
            url,
            paramstyle=paramstyle,
            pool_size=1,
            max_overflow=0,
            hide_parameters=True,
            connect_args=dict(arguments),
        )
    except exc.ArgumentError as error:
        raise ConfigError(WHERE, printable(str(error))) from None
    except (exc.NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigError(
            WHERE, f"needs a package: pip install 'pop3-connector[{url.get_backend_name()}]'"
        ) from error


_SHORT: Final = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg"}
_ENGINES: Final[Mapping[str, Callable[[URL, float], Engine]]] = {
    "sqlite+pysqlite": _sqlite,
    "postgresql+psycopg": _postgresql,
}


def _prepare(connection: Connection) -> None:
    _require_suitable(connection)
    migrate(connection)


def _look(connection: Connection) -> bool:
    _require_suitable(connection)
    return look(connection)


def _require_suitable(connection: Connection) -> None:
    if connection.dialect.name == "postgresql" and (why := postgresql.unsuitable(connection)):
        raise ConfigError(WHERE, why)


def _is_damage(cause: BaseException | None) -> bool:
    return is_damage(cause) or postgresql.is_damage(cause)


def _hopeless(error: Exception) -> bool:
    """Return whether a failure to open is one that only the user can mend."""
    cause = _cause(error)
    if isinstance(cause, sqlite3.Error):
        return cause.sqlite_errorcode & 0xFF in _NOT_OURS
    return postgresql.hopeless(cause)


def _advice(error: Exception) -> str:
    cause = _cause(error)
    if postgresql.is_read_only(cause):
        return _ANOTHER
    return _OWNERS_TURN if _NOT_THE_OWNER.search(str(cause)) else ""


def _reason(error: Exception) -> str:
    return printable(" ".join(str(_cause(error)).split()))


def _cause(error: BaseException) -> BaseException:
    return error.orig if isinstance(error, exc.StatementError) and error.orig else error
