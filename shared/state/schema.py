"""The tables of the state database, and the steps that make them.

A step is never changed once it has been released: what a newer version needs is a further step, and
only ever adds, so that older processes run on beside newer ones during an update. Trusts that
nobody else creates tables of these names. A database of a newer version is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Integer,
    MetaData,
    Table,
    Text,
    inspect,
    select,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator


def escaped(value: str) -> str:
    """Return a text as ``Escaped`` stores it."""
    if value.isprintable() and "\\" not in value:
        return value
    return value.encode("unicode_escape").decode("ascii")


class Escaped(TypeDecorator[str]):
    """Any text at all, also with what PostgreSQL or UTF-8 cannot hold: NUL, lone surrogates.

    UIDLs and addresses come from strangers, and one bad character must not fail the transaction
    that a hundred others share. Text that is printable and has no backslash is stored as it is.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the text as it is stored."""
        return None if value is None else escaped(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the text as it was given."""
        if value is None or "\\" not in value:
            return value
        return value.encode("ascii").decode("unicode_escape")


METADATA: Final = MetaData()

LEASE_TABLE: Final = Table(
    "lease",
    METADATA,
    Column("name", Escaped, primary_key=True),
    Column("owner", Escaped, nullable=False),
    Column("renewed", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Column("taken", Integer, nullable=False),
)
"""``taken`` is 1 where the lease passed to its owner from one who had not given it back."""

UIDL: Final = Table(
    "uidl",
    METADATA,
    Column("account", Escaped, primary_key=True),
    Column("uidl", Escaped, primary_key=True),
    Column("id", Escaped, nullable=False),
    Column("first_seen", Double, nullable=False),
    Column("size", BigInteger),
    Column("head", Escaped),
)
"""What lies in a maildrop and has been taken over already. ``size`` is what LIST said of it, and
``head`` a hash of its header block; older versions know neither."""

MESSAGE: Final = Table(
    "message",
    METADATA,
    Column("id", Escaped, primary_key=True),
    Column("account", Escaped, nullable=False),
    Column("first_seen", Double, nullable=False),
    Column("since", Double),
    Column("loose", BigInteger),
)
"""Every identity that has been taken over, whether or not it still lies in a maildrop.

``first_seen`` is renewed while a message is seen without a UIDL, and when its UIDL is forgotten:
an identity is pruned by it. Where that has happened, ``since`` is when it was taken over.
``loose`` is a looser fingerprint, which header lines that a provider adds do not change."""

ACCOUNT: Final = Table(
    "account",
    METADATA,
    Column("name", Escaped, primary_key=True),
    Column("next_poll", Double, nullable=False),
    Column("set_at", Double, nullable=False),
    Column("queued_until", Double, nullable=False),
    Column("queued_at", Double, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("last_ok", Double),
    Column("last_error", Escaped),
    Column("undone", Escaped),
    Column("maildrop", Escaped),
    Column("login_after", Double),
    Column("refused", Escaped),
    Column("retry_at", Double),
    Column("held", Escaped),
    Column("choice", Escaped),
    Column("paused_until", Double),
    Column("busiest", Integer),
)
"""``set_at`` and ``queued_at`` say when the time beside them was written: from a moment in the
future it was written by a clock that has since been set back, and counts for nothing. ``undone`` is
what the last poll left undone; ``refused`` a hash of a refused password, not tried again before
``retry_at``. ``held`` says why nothing is polled before the operator has chosen; ``choice`` what
that was, until it is done. ``paused_until`` is the moment before which it is not polled.
``busiest`` is how many messages a poll brought at the most, since one has come to its end."""

TROUBLE: Final = Table(
    "trouble",
    METADATA,
    Column("account", Escaped, primary_key=True),
    Column("key", Escaped, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("until", Double, nullable=False),
    Column("reason", Escaped, nullable=False),
    Column("id", Escaped),
    Column("deletes", Integer, nullable=False),
)
"""Messages that could not be fetched, or not be deleted (``deletes``)."""

QUIRK: Final = Table(
    "quirk",
    METADATA,
    Column("server", Escaped, primary_key=True),
    Column("name", Escaped, primary_key=True),
    Column("value", Integer, nullable=False),
    Column("until", Double, nullable=False),
)
"""What has been learnt of servers, for all their accounts."""

DELIVERED: Final = Table(
    "delivered",
    METADATA,
    Column("id", Escaped, primary_key=True),
    Column("destination", Escaped, primary_key=True),
    Column("recipient", Escaped, primary_key=True),
    Column("at", Double, nullable=False),
    Column("receipt", Escaped, nullable=False),
)

INSTALLATION: Final = Table(
    "installation",
    METADATA,
    Column("one", Integer, primary_key=True),
    Column("id", Escaped, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
    Column("asked", Escaped),
    Column("marked", Escaped),
    Column("doubted", Escaped),
)
"""Which state database this is, in one row, and how far it has got: ``number`` grows, and stands in
marks elsewhere. ``asked`` are those marks that the operator was asked about; ``marked`` the places
that took one. ``doubted`` is why an account that is not known yet is held, as it may have been."""

OAUTH_TOKEN: Final = Table(
    "oauth_token",
    METADATA,
    Column("name", Escaped, primary_key=True),
    Column("grant_id", Escaped, nullable=False),
    Column("sealed", Text, nullable=False),
    Column("authorized", Double, nullable=False),
    Column("changed", Double, nullable=False),
    Column("asked", Double),
    Column("ends", Double),
)
"""Tokens, encrypted; see ``shared.oauth.record``."""

VERSION: Final = Table("schema_version", METADATA, Column("version", Integer, nullable=False))

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE lease (
        name {text} NOT NULL PRIMARY KEY,
        owner {text} NOT NULL,
        renewed DOUBLE PRECISION NOT NULL,
        expires DOUBLE PRECISION NOT NULL,
        taken INTEGER NOT NULL
    ){keyed};
    CREATE TABLE uidl (
        account {text} NOT NULL,
        uidl {text} NOT NULL,
        id {text} NOT NULL,
        first_seen DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (account, uidl)
    ){keyed};
    CREATE INDEX uidl_id ON uidl (id);
    CREATE TABLE message (
        id {text} NOT NULL PRIMARY KEY,
        account {text} NOT NULL,
        first_seen DOUBLE PRECISION NOT NULL
    ){keyed};
    CREATE INDEX message_first_seen ON message (first_seen, id);
    CREATE TABLE account (
        name {text} NOT NULL PRIMARY KEY,
        next_poll DOUBLE PRECISION NOT NULL,
        set_at DOUBLE PRECISION NOT NULL,
        queued_until DOUBLE PRECISION NOT NULL,
        queued_at DOUBLE PRECISION NOT NULL,
        failures INTEGER NOT NULL,
        last_ok DOUBLE PRECISION,
        last_error {text}
    ){keyed};
    CREATE INDEX account_next_poll ON account (next_poll);
    CREATE INDEX account_set_at ON account (set_at);
    CREATE TABLE delivered (
        id {text} NOT NULL,
        destination {text} NOT NULL,
        recipient {text} NOT NULL,
        at DOUBLE PRECISION NOT NULL,
        receipt {text} NOT NULL,
        PRIMARY KEY (id, destination, recipient)
    ){keyed};
    CREATE INDEX delivered_at ON delivered (at)
    """,
    """
    ALTER TABLE uidl ADD COLUMN size BIGINT;
    ALTER TABLE uidl ADD COLUMN head {text};
    ALTER TABLE message ADD COLUMN since DOUBLE PRECISION;
    ALTER TABLE account ADD COLUMN undone {text};
    ALTER TABLE account ADD COLUMN maildrop {text};
    ALTER TABLE account ADD COLUMN login_after DOUBLE PRECISION;
    ALTER TABLE account ADD COLUMN refused {text};
    ALTER TABLE account ADD COLUMN retry_at DOUBLE PRECISION;
    CREATE TABLE trouble (
        account {text} NOT NULL,
        key {text} NOT NULL,
        number INTEGER NOT NULL,
        tries INTEGER NOT NULL,
        until DOUBLE PRECISION NOT NULL,
        reason {text} NOT NULL,
        id {text},
        deletes INTEGER NOT NULL,
        PRIMARY KEY (account, key)
    ){keyed};
    CREATE TABLE quirk (
        server {text} NOT NULL,
        name {text} NOT NULL,
        value INTEGER NOT NULL,
        until DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (server, name)
    ){keyed}
    """,
    """
    ALTER TABLE account ADD COLUMN held {text};
    ALTER TABLE account ADD COLUMN choice {text};
    CREATE TABLE installation (
        one INTEGER NOT NULL PRIMARY KEY,
        id {text} NOT NULL,
        number BIGINT NOT NULL,
        at DOUBLE PRECISION NOT NULL,
        asked {text},
        marked {text}
    )
    """,
    "ALTER TABLE installation ADD COLUMN doubted {text}",
    "ALTER TABLE account ADD COLUMN paused_until DOUBLE PRECISION",
    """
    CREATE TABLE oauth_token (
        name {text} NOT NULL PRIMARY KEY,
        grant_id {text} NOT NULL,
        sealed {text} NOT NULL,
        authorized DOUBLE PRECISION NOT NULL,
        changed DOUBLE PRECISION NOT NULL,
        asked DOUBLE PRECISION,
        ends DOUBLE PRECISION
    ){keyed}
    """,
    """
    ALTER TABLE account ADD COLUMN busiest INTEGER;
    ALTER TABLE message ADD COLUMN loose BIGINT
    """,
)
"""Statements that lead from each schema version to the next; the first ones from nothing."""

_WORDS: Final = {
    "sqlite": {"text": "TEXT", "keyed": " WITHOUT ROWID"},
    "postgresql": {"text": 'TEXT COLLATE "C"', "keyed": ""},
}

_ALONE: Final = {
    "sqlite": (),  # its write transactions exclude each other
    "postgresql": ("SELECT pg_advisory_xact_lock(1886351204)",),
}
"""What keeps two processes from migrating at once; the number is only ours ("pop" and a "d")."""

_OURS: Final = {
    "sqlite": (),
    "postgresql": ("ALTER TABLE schema_version RESET (fillfactor)",),
}
"""What changes nothing, and is for the owner of the tables alone: others have to wait for it."""

_TABLES: Final = {
    "sqlite": "SELECT name FROM sqlite_schema WHERE type = 'table'",
    "postgresql": "SELECT relname FROM pg_class WHERE pg_table_is_visible(oid)",
}
"""What there is: at a server, of what the search_path leads to."""


class NewerDatabase(Exception):
    """The database was migrated by a newer version of this program.

    Args:
        found: its schema version.
    """

    def __init__(self, found: int) -> None:
        super().__init__(f"has schema {found}, this version knows {len(MIGRATIONS)} at most")


class Incomplete(Exception):
    """Tables are gone from the database: it was damaged, or put back in part.

    Args:
        missing: their names.
    """

    def __init__(self, missing: Iterable[str]) -> None:
        super().__init__(f"there is no table {', '.join(sorted(missing))}")


def _require_tables(connection: Connection) -> None:
    """Raise Incomplete where a table is gone."""
    found = connection.scalars(text(_TABLES[connection.dialect.name]))
    if missing := METADATA.tables.keys() - set(found):
        raise Incomplete(missing)


def _require_new(connection: Connection) -> None:
    """Raise Incomplete where a file without our tables had something in it once."""
    if connection.dialect.name == "sqlite" and connection.scalar(text("PRAGMA freelist_count")):
        raise Incomplete(METADATA.tables)


def look(connection: Connection) -> bool:
    """Make sure that the schema is one that this version knows, or can bring up to date.

    Nothing is made or changed.

    Returns:
        Whether there is any; a database without our tables is one that is new.

    Raises:
        NewerDatabase: it is beyond that.
        Incomplete: tables are gone from it.
    """
    if not inspect(connection).has_table(VERSION.name):
        return False
    found = connection.scalar(select(VERSION.c.version)) or 0
    if found > len(MIGRATIONS):
        raise NewerDatabase(found)
    if found == len(MIGRATIONS):
        _require_tables(connection)
    return True


def migrate(connection: Connection) -> None:
    """Bring the database to the newest schema, in the transaction of this connection.

    Raises:
        NewerDatabase: it is beyond that.
        Incomplete: tables are gone from it.
    """
    dialect = connection.dialect.name
    for statement in _ALONE[dialect]:
        connection.execute(text(statement))
    found = _version(connection)
    if found > len(MIGRATIONS):
        raise NewerDatabase(found)
    if found == len(MIGRATIONS):
        _require_tables(connection)
        return
    for statement in _OURS[dialect] if found else ():
        connection.execute(text(statement))
    for step in MIGRATIONS[found:]:
        for statement in step.format(**_WORDS[dialect]).split(";"):
            connection.execute(text(statement))
    connection.execute(VERSION.delete())
    connection.execute(VERSION.insert().values(version=len(MIGRATIONS)))


def _version(connection: Connection) -> int:
    if not inspect(connection).has_table(VERSION.name):
        _require_new(connection)
        connection.execute(text("CREATE TABLE schema_version (version INTEGER NOT NULL)"))
    return connection.scalar(select(VERSION.c.version)) or 0
