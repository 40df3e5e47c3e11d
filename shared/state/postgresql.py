"""PostgreSQL as others run it: behind a pooler, with several hosts, read-only for a while.

A pooler that lends a server's connection for one transaction at a time (PgBouncer's transaction
mode) takes no ``options`` at the start, and keeps neither settings nor prepared statements for the
next transaction. So the settings in ``options`` are made anew at the beginning of each transaction,
in the same round trip as BEGIN, and no statement is prepared unless the URL says so. Nothing here
or elsewhere in the state outlives a transaction: no LISTEN, no lock of a session.

A database that cannot hold every text is refused: one foreign character would fail whatever is
recorded with it. It trusts PostgreSQL to name its errors by SQLSTATE; those of a failed login,
which libpq keeps to itself, are told by their words, and in another language count as temporary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, event, exc, text

from shared.errors import ConfigError
from shared.log import printable

WHERE: Final = "state.url"

SETTINGS: Final[Mapping[str, str]] = {"statement_timeout": "60s", "lock_timeout": "30s"}
"""What holds in each of our transactions, unless ``options`` in the URL say otherwise."""

READ_ONLY: Final = "25006"
"""The SQLSTATE of a write where nothing may be written: of a replica, or a server demoted to it."""

_TOO_MUCH: Final = "54"
"""The class of SQLSTATEs of what is too large or too complex for PostgreSQL."""

_ENCODINGS: Final = ("UTF8", "SQL_ASCII")
_MULTIPLE: Final = "host"

_HOPELESS_STATES: Final = ("28", "3D", "3F", "22023", "42704")
"""SQLSTATEs (or classes of them) of what the user has to mend: logins, names of databases, schemas
and settings (appendix A of PostgreSQL's documentation). That a right is missing goes by the words:
for who is not the owner of the tables it may pass."""

_HOPELESS_WORDS: Final = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|permission denied"
    r"|(role|database) .* does not exist|no such (user|database)"  # the latter are PgBouncer's
    r"|auth failed|unsupported startup parameter|invalid connection option|invalid \S+ value"
    r"|invalid integer value|bad value for|does not support SSL"
    r"|certificate .*(does not exist|does not match)|certificate verify failed"
    r"|could not (read|load|open) .*(certificate|private key)",
    re.IGNORECASE,
)

_OPTION: Final = re.compile(r"(?:-c\s*|--)([A-Za-z_][\w.-]*)=((?:\\.|\S)*)(?:\s+|$)")


@dataclass(frozen=True, slots=True)
class EngineArguments:
    """What an engine is made with.

    Attributes:
        url: with what libpq takes alone.
        arguments: those of the driver.
        begin: begins a transaction, and makes the settings for it.
    """

    url: URL
    arguments: Mapping[str, Any]
    begin: str


def address(url: URL, patience: float) -> EngineArguments:
    """Return how to connect.

    Args:
        url: as it stands in the configuration.
        patience: seconds for a connection to one host.

    Raises:
        ConfigError: it has an option that means nothing.
    """
    given = dict(url.query)
    settings = {**SETTINGS, **_settings(_text(given.pop("options", "")))}
    prepare = _prepare(_text(given.pop("prepare_threshold", "none")))
    defaults = {
        "connect_timeout": str(max(2, round(patience))),
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "15000",
        "application_name": "pop3-connector",
        "client_encoding": "utf8",  # else text of a database in SQL_ASCII would come as bytes
        # Of several hosts the first may have been made a replica. One alone may be a pooler, whose
        # word on that can be old; a write will tell.
        **({"target_session_attrs": "read-write"} if _is_several(url) else {}),
    }
    query = {k: v if k == _MULTIPLE else _text(v) for k, v in {**defaults, **given}.items()}
    return EngineArguments(url.set(query=query), {"autocommit": True, **prepare}, _begin(settings))


def prepare(engine: Engine, begin: str) -> None:
    """Have an engine's transactions begin like this, and look at what its URL says.

    Raises:
        ConfigError: libpq knows no such option, or hosts and ports do not go together.
    """
    driver: Any = engine.dialect.loaded_dbapi
    try:
        _, options = engine.dialect.create_connect_args(engine.url)
        given = {name: value for name, value in options.items() if name != "context"}  # psycopg's
        driver.conninfo.make_conninfo(**given)
    except (driver.ProgrammingError, exc.ArgumentError) as error:
        raise ConfigError(WHERE, printable(" ".join(str(error).split()))) from None

    @event.listens_for(engine, "begin")
    def set_anew(connection: Connection) -> None:
        bare: Any = connection.connection.driver_connection
        bare.execute(begin, prepare=False)


_DAMAGE: Final = frozenset(("42P01", "42703", "XX001", "XX002"))
"""undefined_table, undefined_column, data_corrupted, index_corrupted."""


def unsuitable(connection: Connection) -> str | None:
    """Return why a database will not do, None where it will.

    Args:
        connection: in a transaction of ours.
    """
    encoding, schema, path = connection.execute(
        text(
            "SELECT current_setting('server_encoding'), current_schema(),"
            " current_setting('search_path')"
        )
    ).one()
    if encoding not in _ENCODINGS:
        return (
            f"the database has the encoding {encoding}, in which not every text can be stored: mail"
            " would come twice. Make one with ENCODING 'UTF8' and TEMPLATE template0, and take the"
            " data along with pg_dump; see docs/operations.md"
        )
    if schema is None:
        return (
            f"no schema of the search_path {printable(path)} exists, or this role may not use it:"
            " make it, or name another in the URL (options=-csearch_path=NAME)"
        )
    return None


def hopeless(error: BaseException) -> bool:
    """Return whether an error of the driver is about what the user has to mend."""
    state = getattr(error, "sqlstate", None) or ""
    return state.startswith(_HOPELESS_STATES) or _HOPELESS_WORDS.search(str(error)) is not None


def is_damage(error: BaseException | None) -> bool:
    """Return whether a table or column is gone, or data are corrupted: waiting mends neither.

    See https://www.postgresql.org/docs/current/errcodes-appendix.html.
    """
    return getattr(error, "sqlstate", None) in _DAMAGE


def is_too_much(error: BaseException) -> bool:
    """Return whether a value is beyond a limit of the program, such as the size of a key."""
    return str(getattr(error, "sqlstate", None) or "").startswith(_TOO_MUCH)


def is_read_only(error: BaseException) -> bool:
    """Return whether the server takes no writes."""
    return getattr(error, "sqlstate", None) == READ_ONLY


def _text(value: tuple[str, ...] | str) -> str:
    return value if isinstance(value, str) else value[-1]


def _is_several(url: URL) -> bool:
    hosts = url.query.get(_MULTIPLE, url.host or "")
    return not isinstance(hosts, str) or "," in hosts


def _settings(options: str) -> dict[str, str]:
    """Take ``options`` apart, as a server does (postgres(1), -c and --name).

    Raises:
        ConfigError: there is something else in it.
    """
    found: dict[str, str] = {}
    rest = options.strip()
    while rest:
        match = _OPTION.match(rest)
        if match is None:
            raise ConfigError(
                WHERE,
                f"options: expected -c NAME=VALUE, again and again, not {printable(rest)}: each is"
                " set at the beginning of a transaction, which a pooler lets pass",
            )
        name, value = match.groups()
        found[name.replace("-", "_")] = re.sub(r"\\(.)", r"\1", value)
        rest = rest[match.end() :]
    return found


def _prepare(value: str) -> Mapping[str, int | None]:
    """Return after how many runs a statement is prepared; never, unless the URL says so."""
    if value.lower() == "none":
        return {"prepare_threshold": None}
    if not value.isdecimal():
        raise ConfigError(WHERE, "prepare_threshold: expected a number of runs, or none")
    return {"prepare_threshold": int(value)}


def _begin(settings: Mapping[str, str]) -> str:
    quoted: Callable[[str], str] = lambda value: "'" + value.replace("'", "''") + "'"  # noqa: E731
    each = (f"set_config({quoted(k)}, {quoted(v)}, true)" for k, v in settings.items())
    return f"BEGIN; SELECT {', '.join(each)}"
