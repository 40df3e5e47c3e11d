"""The state on a real PostgreSQL: the whole suite, and what is a server's alone."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator

import psycopg
import pytest

from shared.errors import ConfigError, StateUnavailable
from shared.ledger import Claim, LedgerEntry
from shared.state import State, new_owner
from tests.ledger import claim_one, finish_one, unclaim_one
from tests.servers.postgresql import PostgresqlServer, postgresql
from tests.servers.proxy import Proxy, proxy
from tests.unit.state.suite import StateSuite


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    with postgresql() as running:
        yield running


@pytest.fixture
def url(server: PostgresqlServer) -> str:
    return server.empty()


@pytest.fixture
def line(server: PostgresqlServer) -> Iterator[Proxy]:
    with proxy(server.port) as running:
        yield running


class TestPostgresql(StateSuite):
    """The suite on PostgreSQL."""

    @pytest.fixture
    def url(self, server: PostgresqlServer) -> str:
        return server.empty()


class TestServer:
    async def test_a_dropped_connection_goes_unnoticed(
        self, server: PostgresqlServer, url: str
    ) -> None:
        state = await State.open(url, owner=new_owner())
        await state.record("sales", [LedgerEntry("u1", "a")])
        server.disconnect_everybody()
        await state.record("sales", [LedgerEntry("u2", "b")])
        assert set(await state.known("sales")) == {"u1", "u2"}
        await state.close()

    async def test_a_database_in_ascii_keeps_any_text(self, server: PostgresqlServer) -> None:
        with server.connect() as connection:
            connection.execute(
                "CREATE DATABASE ascii TEMPLATE template0 ENCODING SQL_ASCII LOCALE 'C'"
            )
        state = await State.open(server.url(database="ascii"), owner=new_owner())
        await state.record("sales", [LedgerEntry("ü1", "a")])
        assert set(await state.known("sales")) == {"ü1"}
        assert await claim_one(state, "id", "küche") == Claim(frozenset(), replay=False)
        await finish_one(state, "id", "küche", {"änne@x": "250 schön"})
        assert await claim_one(state, "id", "küche") == Claim(frozenset({"änne@x"}), replay=False)
        await state.close()

    @pytest.mark.parametrize("hold", [3600, 0], ids=["not due", "due"])
    async def test_accounts_of_nobody_cost_log_and_network_nothing(
        self, server: PostgresqlServer, line: Proxy, url: str, hold: float
    ) -> None:
        """Rows of removed and disabled accounts are due for ever, and looked at each second.

        So it is whether an account of ours is due beside them or not.
        """
        async with contextlib.AsyncExitStack() as stack:

            async def opened() -> State:
                through = url.replace(f":{server.port}/", f":{line.port}/")
                state = await State.open(through, owner=new_owner())
                stack.push_async_callback(state.close)
                return state

            removed = [f"removed{n}" for n in range(300)]
            await (await opened()).claim_due(removed, hold=0)
            fetchers = [await opened() for _ in range(4)]
            for fetcher in fetchers:
                await fetcher.claim_due(["sales"], hold=hold)
            written, passed = 0, line.passed
            with server.connect() as connection:
                for fetcher in fetchers * 5:
                    written -= _log_position(connection)
                    await fetcher.claim_due(["sales"], hold=hold)
                    written += _log_position(connection)
            passed = line.passed - passed
        # Each of 20 times, a lock would be some 50 bytes for each of them, and a name 10.
        assert written < 100 * len(removed)
        assert passed < 50 * len(removed)

    async def test_a_server_that_is_away_is_temporary(
        self, server: PostgresqlServer, url: str
    ) -> None:
        state = await State.open(url, owner=new_owner(), patience=0.5)
        assert await claim_one(state, "id", "default") == Claim(frozenset(), replay=False)
        server.stop()
        try:
            with pytest.raises(StateUnavailable, match="refused"):
                await finish_one(state, "id", "default", {"a@x": "250"})
            with pytest.raises(StateUnavailable):
                await State.open(url, owner=new_owner(), patience=0.5)
        finally:
            server.start()
        await finish_one(state, "id", "default", {"a@x": "250"})
        claim = await claim_one(state, "id", "default")
        assert claim == Claim(frozenset({"a@x"}), replay=False)
        await state.close()

    async def test_a_frozen_server_is_temporary(self, server: PostgresqlServer, url: str) -> None:
        """It still takes connections, as its kernel does, and never answers them."""
        state = await State.open(url, owner=new_owner())
        await state.close()
        server.signal(signal.SIGSTOP)
        try:
            with pytest.raises(StateUnavailable):
                await State.open(url, owner=new_owner(), patience=1)
        finally:
            server.signal(signal.SIGCONT)
        state = await State.open(url, owner=new_owner())
        await state.close()

    async def test_a_connection_broken_at_commit_counts_once(
        self, server: PostgresqlServer, url: str
    ) -> None:
        """Polls, claims and records go on while connections are cut at any moment."""
        state = await State.open(url, owner=new_owner())
        stop = asyncio.Event()

        async def cut() -> None:
            while not stop.is_set():
                await asyncio.to_thread(server.disconnect_everybody)

        async def deliver(number: int) -> None:
            id_ = f"{number}"
            while True:
                try:
                    if await claim_one(state, id_, "default") is not None:
                        return await finish_one(state, id_, "default", {"a@x": "250"})
                except StateUnavailable:
                    with contextlib.suppress(StateUnavailable):
                        await unclaim_one(state, id_, "default")

        cutting = asyncio.create_task(cut())
        for start in range(0, 200, 20):
            await asyncio.gather(*(deliver(n) for n in range(start, start + 20)))
        stop.set()
        await cutting
        claims = await asyncio.gather(*(claim_one(state, f"{n}", "default") for n in range(200)))
        assert {claim and claim.delivered for claim in claims} == {frozenset({"a@x"})}
        await state.close()

    @pytest.mark.parametrize("encoding", ["LATIN1", "KOI8R", "EUC_JP"])
    async def test_a_database_that_cannot_hold_every_text_is_refused(
        self, server: PostgresqlServer, encoding: str
    ) -> None:
        name = encoding.lower()
        with server.connect() as connection:
            connection.execute(
                f"CREATE DATABASE {name} TEMPLATE template0 ENCODING {encoding} LOCALE 'C'"
            )
        with pytest.raises(ConfigError, match=f"encoding {encoding}"):
            await State.open(server.url(database=name), owner=new_owner(), patience=1)
        with server.connect(name) as connection:
            found = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
            assert found.fetchone() == (0,)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ("sslmod=require", 'invalid connection option "sslmod"'),
            ("sslmode=requre", 'invalid sslmode value: "requre"'),
            ("sslmode=require", "does not support SSL"),
            ("connect_timeout=long", "connect_timeout"),
            ("target_session_attrs=any-will-do", "invalid target_session_attrs value"),
            ("host=a&host=b&port=1", "can't mix|don't match|multihost"),
            ("options=-csearch_path%3Dnowhere", "no schema of the search_path nowhere exists"),
            ("options=-cno_such_setting%3D1", "unrecognized configuration parameter"),
            ("options=-clock_timeout%3Dlong", "invalid value for parameter"),
            ("options=-d5", "expected -c NAME=VALUE, again and again, not -d5"),
        ],
    )
    async def test_a_wrong_option_is_for_the_user_to_mend(
        self, server: PostgresqlServer, options: str, said: str
    ) -> None:
        with pytest.raises(ConfigError, match=f"(?i){said}") as caught:
            await State.open(f"{server.url()}?{options}", owner=new_owner(), patience=1)
        assert "sesame" not in str(caught.value)

    async def test_options_are_read_as_a_server_reads_them(
        self, server: PostgresqlServer, url: str
    ) -> None:
        more = r"%20--lock-timeout=100ms%20-c%20application_name=one\%20two%27s"
        state = await State.open(url + more, owner=new_owner(), patience=0.3)
        await state.record("sales", [LedgerEntry("u1", "a")])
        with server.connect() as other, other.transaction():
            other.execute(f"LOCK TABLE {url.rpartition('%3D')[2]}.uidl IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(StateUnavailable, match="lock timeout"):
                await state.record("sales", [LedgerEntry("u2", "b")])
        await state.close()

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"password": "opensesame"}, "authentication failed"),
            ({"database": "nowhere"}, 'database "nowhere" does not exist'),
        ],
    )
    async def test_a_wrong_login_is_for_the_user_to_mend(
        self, server: PostgresqlServer, wrong: dict[str, str], said: str
    ) -> None:
        url = server.url(**wrong)
        with pytest.raises(ConfigError, match=said) as caught:
            await State.open(url, owner=new_owner(), patience=1)
        chain = [caught.value, caught.value.__cause__]
        assert "sesame" not in " ".join(map(str, chain))

    async def test_a_user_without_rights_is_for_the_user_to_mend(
        self, server: PostgresqlServer
    ) -> None:
        with server.connect() as connection:
            connection.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
        with pytest.raises(ConfigError, match="permission denied"):
            await State.open(server.url("guest", "guest"), owner=new_owner(), patience=1)


def _log_position(connection: psycopg.Connection[tuple[object, ...]]) -> int:
    found = connection.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
    assert found is not None
    return int(str(found[0]))
