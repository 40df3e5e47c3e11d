"""The state in a PostgreSQL that others run: behind PgBouncer, with a replica, and a failover."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from shared.errors import ConfigError, StateUnavailable
from shared.ledger import LedgerEntry
from shared.state import State, new_owner
from tests.flow.connector import connector
from tests.ledger import claim_one, finish_one
from tests.servers.pgbouncer import Pgbouncer, pgbouncer
from tests.servers.postgresql import USER, PostgresqlServer, postgresql, several
from tests.servers.process import wait_until

STATES = 4
"""Clients of a pooler, more than it has connections to the server."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    with postgresql() as running:
        yield running


@pytest.fixture(scope="module")
def pooler(server: PostgresqlServer) -> Iterator[Pgbouncer]:
    with pgbouncer(server, connections=STATES // 2) as running:
        yield running


@asynccontextmanager
async def opened(url: str, patience: float = 5.0) -> AsyncIterator[State]:
    state = await State.open(url, owner=new_owner(), patience=patience)
    try:
        yield state
    finally:
        await state.close()


async def a_life(state: State, name: str) -> None:
    """Do what fetcher and deliverer do, many times over."""
    for number in range(30):
        id_ = f"{name}-{number}"
        await state.record(name, [LedgerEntry(f"{number}", id_)])
        assert await claim_one(state, id_, "default") is not None
        await finish_one(state, id_, "default", {"a@x": "250 schön"})
        await state.claim_due([name], hold=0)
        await state.record_poll(name, next_poll=0, error=None)
        await state.recall(name, "server")


class TestPooler:
    @pytest.mark.parametrize("path", [None, "hosted"])
    async def test_nothing_fails_where_transactions_share_connections(
        self, server: PostgresqlServer, pooler: Pgbouncer, path: str | None
    ) -> None:
        options = "" if path is None else f"?options=-csearch_path%3D{path}"
        with server.connect() as connection:
            connection.execute("CREATE SCHEMA IF NOT EXISTS hosted")
        before = len(server.errors())
        async with (
            opened(pooler.url(options=options)) as one,
            opened(pooler.url(options=options)) as two,
            opened(pooler.url(options=options)) as three,
            opened(pooler.url(options=options)) as four,
        ):
            states = (one, two, three, four)
            await asyncio.gather(*(a_life(s, f"{path}{n}") for n, s in enumerate(states)))
            assert len(await one.known(f"{path}{STATES - 1}")) == 30
        assert server.errors()[before:] == []
        with server.connect() as connection:
            found = connection.execute(f"SELECT count(*) FROM {path or 'public'}.uidl").fetchone()
        assert found == (STATES * 30,)

    async def test_settings_hold_in_each_transaction(
        self, server: PostgresqlServer, pooler: Pgbouncer
    ) -> None:
        async with opened(pooler.url(options="?options=-clock_timeout%3D100ms"), 0.3) as state:
            await state.record("sales", [LedgerEntry("u1", "a")])
            with server.connect() as other, other.transaction():
                other.execute("LOCK TABLE uidl IN ACCESS EXCLUSIVE MODE")
                with pytest.raises(StateUnavailable, match="lock timeout"):
                    await state.record("sales", [LedgerEntry("u2", "b")])
            await state.record("sales", [LedgerEntry("u2", "b")])

    async def test_who_prepares_statements_says_so(
        self, server: PostgresqlServer, pooler: Pgbouncer
    ) -> None:
        url = server.url() + "?prepare_threshold=1"
        async with opened(url) as state:
            for number in range(4):
                await state.seen([f"{number}"])
                await state.record("prepared", [LedgerEntry(f"{number}", f"p{number}")])
            assert len(await state.known("prepared")) == 4
        with pytest.raises(ConfigError, match="prepare_threshold: expected a number"):
            await State.open(f"{server.url()}?prepare_threshold=yes", owner=new_owner())

    async def test_a_user_whom_the_pooler_does_not_know_is_for_the_user_to_mend(
        self, pooler: Pgbouncer
    ) -> None:
        url = pooler.url().replace(f"{USER}:", "stranger:")
        with pytest.raises(ConfigError, match="authentication failed"):
            await State.open(url, owner=new_owner(), patience=1)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("sslmod=require", 'invalid connection option "sslmod"'),
        ("sslmode=require", "server does not support SSL"),
        ("options=-csearch_path%3Dnowhere", "no schema of the search_path nowhere exists"),
    ],
)
def test_what_the_user_has_to_mend_ends_the_process(
    server: PostgresqlServer, tmp_path: Path, option: str, said: str
) -> None:
    with connector(tmp_path) as product:
        product.config.write_text(
            f'data_dir = "{tmp_path}/data"\n[delivery]\nurl = "maildir://{tmp_path}/x"\n'
            f'[state]\nurl = "{server.url()}?{option}"\n'
        )
        done = product.cli("run")
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "sesame" not in done.stderr


def test_a_fetcher_that_starts_while_the_server_is_away_waits_for_it(tmp_path: Path) -> None:
    """Also where it has opened the database, and compares it, which it is not alone in doing."""
    with postgresql() as server, connector(tmp_path) as product:
        product.configure([], f"maildir://{tmp_path}/x", None, state={"url": server.url()})
        assert product.once()[0] == 0
        with server.connect() as other:
            asks = (
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE query ILIKE '%INTO lease%' AND pid <> pg_backend_pid()"
            )
            now = "extract(epoch from clock_timestamp())"

            def compares() -> bool:
                other.execute(
                    "INSERT INTO lease (name, owner, renewed, expires, taken)"
                    f" VALUES ('installation', 'other', {now}, {now} + 20, 0) ON CONFLICT (name)"
                    f" DO UPDATE SET renewed = {now}, expires = {now} + 20"
                )
                return other.execute(asks).fetchone() != (0,)

            compares()
            product.start("run")
            product.wait(compares, "it compares")
        server.stop()
        product.wait(lambda: product.count("run", "waiting for the state database") > 0, "it waits")
        server.start()
        with server.connect() as other:
            other.execute("DELETE FROM lease WHERE name = 'installation'")
        number = "SELECT number FROM installation"
        with server.connect() as other:
            product.wait(lambda: other.execute(number).fetchone() == (2,), "it goes on")
        assert product.stop("run") == 0


class TestFailover:
    async def test_the_ledger_goes_on_where_the_replica_is_promoted(self) -> None:
        with postgresql() as primary, postgresql(primary) as replica:
            async with opened(several(replica, primary), 1.0) as state:
                await state.record("sales", [LedgerEntry("u1", "a")])
                wait_until(lambda: _uidls(replica) == ["u1"], "the replica to have it")
                primary.stop()
                with pytest.raises(StateUnavailable):
                    await state.record("sales", [LedgerEntry("u2", "b")])
                replica.promote()
                await state.record("sales", [LedgerEntry("u2", "b")])
                assert set(await state.known("sales")) == {"u1", "u2"}
            # What was the primary comes back, first in the list, and is none any more.
            primary.configure("default_transaction_read_only = on\n")
            primary.start()
            async with opened(several(primary, replica), 1.0) as state:
                await state.record("sales", [LedgerEntry("u3", "c")])
            assert _uidls(replica) == ["u1", "u2", "u3"]
            assert _uidls(primary) == ["u1"]

    async def test_a_connection_to_a_server_that_was_made_read_only_is_thrown_away(self) -> None:
        with postgresql() as demoted, postgresql(demoted) as promoted:
            async with (
                opened(several(demoted, promoted), 2.0) as both,
                opened(demoted.url(), 0.5) as alone,
            ):
                await both.record("sales", [LedgerEntry("u1", "a")])
                wait_until(lambda: _uidls(promoted) == ["u1"], "the replica to have it")
                promoted.promote()
                demoted.refuse_writes(refused=True)
                await both.record("sales", [LedgerEntry("u2", "b")])
                assert _uidls(promoted) == ["u1", "u2"]
                with pytest.raises(StateUnavailable, match="replica, or was made read-only"):
                    await alone.record("sales", [LedgerEntry("u2", "b")])
                demoted.refuse_writes(refused=False)
                await alone.record("sales", [LedgerEntry("u3", "c")])
                assert _uidls(demoted) == ["u1", "u3"]


def _uidls(server: PostgresqlServer) -> list[str]:
    """Return what is recorded there; nothing where the table has not come to a replica yet."""
    with server.connect() as connection:
        try:
            found = connection.execute("SELECT uidl FROM uidl ORDER BY uidl").fetchall()
        except psycopg.errors.UndefinedTable:
            return []
    return [str(uidl) for (uidl,) in found]
