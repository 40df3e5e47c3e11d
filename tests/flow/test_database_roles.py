"""The database roles of deploy/postgres/roles.sql: each service does its work, and nothing more.

On a real PostgreSQL. The tables are made by the command that the owner runs; what a role must not
do is refused by the server: these clients are bare.
"""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from shared.errors import ConfigError, StateUnavailable
from shared.ledger import ADOPT, FETCH_AGAIN, UNDELIVERED, Claim, LedgerEntry, MessageTrouble, Quirk
from shared.oauth.record import TokenRecord
from shared.state import State, new_owner
from shared.state.schema import METADATA
from tests.ledger import claim_one, finish_one, unclaim_one
from tests.servers.postgresql import PASSWORD, USER, PostgresqlServer, postgresql

ROOT = Path(__file__).resolve().parents[2]
ROLES = ROOT / "deploy/postgres/roles.sql"
SERVICES = ("fetcher", "deliverer", "postmaster")

CHANGE = {"select", "insert", "update", "delete"}
MAY: dict[str, dict[str, set[str]]] = {
    "fetcher": {
        **dict.fromkeys(("lease", "uidl", "message", "account", "trouble", "quirk"), CHANGE),
        "delivered": {"delete"},
        "installation": {"select", "insert", "update"},
        "oauth_token": CHANGE - {"delete"},
        "schema_version": {"select"},
    },
    "deliverer": {
        "lease": CHANGE,
        "oauth_token": CHANGE - {"delete"},
        "delivered": {"select", "insert"},
        "schema_version": {"select"},
    },
    "postmaster": {
        "account": CHANGE - {"delete"},
        "oauth_token": CHANGE,
        "trouble": {"select"},
        "schema_version": {"select"},
    },
}
"""What each role may do with which table as a whole."""

DOES = {
    "select": "select * from {table}",
    "insert": "insert into {table} select * from {table} where false",
    "update": "update {table} set {column} = {column}",
    "delete": "delete from {table}",
}
NEVER = (
    "alter table delivered add column more text",
    "alter table lease owner to {role}",
    "drop table lease",
    "truncate delivered",
    "create table more (a int)",
    "create temporary table more (a int)",
    "create schema more",
    "create index on lease (owner)",
    "create role more",
    "set role connector",
)


class Site:
    """A database with the tables made by their owner, and roles for the services."""

    def __init__(self, server: PostgresqlServer, database: str) -> None:
        self.server = server
        self.database = database

    def connect(self, role: str = USER, password: str = "") -> psycopg.Connection[tuple[object]]:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.server.port,
            user=role,
            password=password or (PASSWORD if role == USER else f"{role}'s own"),
            dbname=self.database,
            autocommit=True,
        )

    def url(self, role: str) -> str:
        return self.server.url(role, f"{role}'s%20own", self.database)

    def migrate(self) -> None:
        """Run the owner's command."""
        url = self.server.url(database=self.database)
        subprocess.run(
            [sys.executable, "-m", "services", "state", "migrate"],
            cwd=ROOT,
            env={
                **os.environ,
                "POP3_CONNECTOR__STATE__URL": url,
                "POP3_CONNECTOR__DELIVERY__URL": "smtp://mail.example",
            },
            check=True,
            capture_output=True,
            timeout=60,
        )

    def grant(self) -> None:
        """Run roles.sql, as a person would."""
        said = subprocess.run(
            ["psql", "-v", "ON_ERROR_STOP=1"]
            + [part for role in SERVICES for part in ("-v", f"{role}={role}'s own")]
            + ["-f", str(ROLES)],
            env={
                **os.environ,
                "PGHOST": "127.0.0.1",
                "PGPORT": str(self.server.port),
                "PGUSER": USER,
                "PGPASSWORD": PASSWORD,
                "PGDATABASE": self.database,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (said.returncode, said.stderr) == (0, "")

    def refused(self, role: str, statement: str) -> bool:
        """Return whether the server refuses a statement of this role; nothing of it stays."""
        with self.connect(role) as connection, connection.transaction(force_rollback=True):
            try:
                connection.execute(statement)
            except InsufficientPrivilege:
                return True
        return False

    @asynccontextmanager
    async def state(self, role: str) -> AsyncIterator[State]:
        state = await State.open(self.url(role), owner=new_owner(), patience=2)
        try:
            yield state
        finally:
            await state.close()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with postgresql() as server:
        with server.connect() as connection:
            connection.execute("CREATE DATABASE mail")
        made = Site(server, "mail")
        made.migrate()
        made.grant()
        made.grant()  # it says the same however often it is run
        yield made


async def test_the_fetcher_does_all_its_work(site: Site) -> None:
    async with site.state("fetcher") as state:
        assert await state.claim_due(["sales"], hold=60) == ["sales"]
        await state.hold_queued(["sales"], hold=60)
        assert await state.lease("account/sales")
        await state.recall("sales", "pop.example")
        await state.move_in("sales", "pop.example/sales")
        await state.learn("pop.example", Quirk("pipelining", 1, 2e9))
        await state.record("sales", [LedgerEntry("u1", "a"), LedgerEntry("u2", "b")])
        await state.measure("sales", {"u1": 7})
        await state.heads("sales", ["u1"])
        await state.seen(["a"])
        await state.record_troubles("sales", [MessageTrouble("u2", 2, 1, 2e9, "it hangs")])
        await state.forget_troubles("sales", ["u2"])
        await state.forget("sales", ["u2"])
        await state.put_off("sales", until=1.0)
        assert (await state.installation()).used
        await state.hold(["sales"], "it is new")
        await state.enrol(["another"])
        await state.record_asked("a mark")
        await state.advance()
        await state.record_marked("queues")
        assert await state.count_held(["sales"]) == 1
        await state.adopt("sales", {"u3": 1}, choice=ADOPT)
        await state.count_as_delivered(["c"])
        await state.fetch_again("sales", UNDELIVERED, since=2e9)
        await state.fetch_again("other", FETCH_AGAIN, since=None)
        await state.give_back(["sales"])
        await state.record_poll("sales", next_poll=1.0, error=None)
        await state.release("account/sales")
        record = TokenRecord("account:sales", "grant", "sealed", 1.0, 1.0)
        await state.tokens.keep(record, instead_of=None)
        await state.tokens.note_renewal("account:sales", "grant", begins=True)
        assert await state.tokens.keep(record, instead_of="grant")
        await state.prune(older_than=1)
        assert set(await state.known("sales")) == {"u1", "u3"}


async def test_the_deliverer_does_all_its_work(site: Site) -> None:
    async with site.state("deliverer") as state:
        assert await claim_one(state, "id", "default") == Claim(frozenset(), replay=False)
        await finish_one(state, "id", "default", {"a@x": "250 ok"})
        await finish_one(state, "id", "default", {"a@x": "250 again"})
        assert await claim_one(state, "id", "default") == Claim(frozenset({"a@x"}), replay=False)
        await unclaim_one(state, "id", "default")
        assert await claim_one(state, "left", "default") is not None
    async with site.state("deliverer") as state:  # what the first one left is a replay
        assert await claim_one(state, "left", "default") == Claim(frozenset(), replay=True)


async def test_the_deliverer_knows_whose_the_queues_are_or_that_it_may_not_look(
    site: Site,
) -> None:
    async with site.state("deliverer") as state:
        assert await state.question() is not None
        with site.connect() as owner:
            owner.execute("revoke select (held, choice) on account from deliverer")
            try:
                assert await state.question() is None
            finally:
                site.grant()


async def test_the_operators_command_does_all_its_work(site: Site) -> None:
    async with site.state("fetcher") as state:
        await state.claim_due(["info"], hold=60)
    async with site.state("postmaster") as state:
        assert "info" in await state.accounts()
        await state.choose(["info", "never seen"], ADOPT, ends=True)
        await state.tokens.keep(TokenRecord("x", "g", "s", 1.0, 1.0), instead_of=None)
        assert await state.tokens.reseal("x", "s", "t")
        assert await state.tokens.forget("x")
        assert (await state.accounts())["info"].choice == ADOPT


@pytest.mark.parametrize("role", SERVICES)
def test_a_role_does_with_each_table_what_it_needs_and_nothing_else(site: Site, role: str) -> None:
    found: dict[str, set[str]] = {}
    for name, table in METADATA.tables.items():
        column = next(iter(table.columns)).name
        for what, statement in DOES.items():
            if not site.refused(role, statement.format(table=name, column=column)):
                found.setdefault(name, set()).add(what)
    assert found == MAY[role]


@pytest.mark.parametrize("role", SERVICES)
def test_the_owner_alone_may_alter(site: Site, role: str) -> None:
    allowed = [one for one in NEVER if not site.refused(role, one.format(role=role))]
    assert allowed == []


def test_parser_and_rewriter_have_no_role_and_others_are_not_let_in(site: Site) -> None:
    with site.connect() as connection:
        roles = {name for (name,) in connection.execute("select rolname from pg_roles")}
        assert not {"parser", "rewriter"} & roles
        connection.execute("create role stranger login password 'guess'")
    with pytest.raises(psycopg.OperationalError, match=r"permission denied for database"):
        site.connect("stranger", "guess")


async def test_a_newer_service_waits_for_the_owner_to_bring_the_tables_up_to_date(
    site: Site,
) -> None:
    with site.connect() as connection:
        connection.execute("update schema_version set version = version - 1")
        try:
            with pytest.raises(StateUnavailable, match=r"owner.*pop3-connector state migrate"):
                async with site.state("fetcher"):
                    pass
        finally:
            connection.execute("update schema_version set version = version + 1")


async def test_who_may_not_make_the_tables_is_told_who_does(site: Site) -> None:
    with site.connect() as connection:
        connection.execute("CREATE DATABASE empty")
    empty = Site(site.server, "empty")
    with pytest.raises(ConfigError, match=r"denied.*pop3-connector state migrate"):
        async with empty.state("fetcher"):
            pass
