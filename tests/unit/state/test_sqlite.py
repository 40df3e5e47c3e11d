"""The state on SQLite: the whole suite, and what concerns the file."""

import asyncio
import contextlib
import os
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import Connection, text

from shared.errors import ConfigError, StateUnavailable
from shared.ledger import LedgerEntry, MessageTrouble, Quirk
from shared.state import State, new_owner
from tests.ledger import claim_one, finish_one, unclaim_one
from tests.unit.state.opening import DAY
from tests.unit.state.suite import StateSuite


class TestSqlite(StateSuite):
    """The suite on SQLite."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/data/state.db"


class TestSqliteFile:
    """What concerns the file."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / "data" / "state.db"

    @pytest.fixture
    def url(self, file: Path) -> str:
        return f"sqlite:///{file}"

    async def test_nobody_else_can_read_it(self, file: Path, url: str) -> None:
        state = await State.open(url, owner=new_owner())
        await state.lease("x")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()}
        names = ("state.db", "state.db.made", "state.db-wal", "state.db-shm")
        assert modes == dict.fromkeys(names, 0o600)
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        await state.close()

    async def test_it_is_synced_at_each_commit(self, url: str) -> None:
        state = await State.open(url, owner=new_owner())
        try:
            asked = state._database.transaction(
                lambda c: [c.scalar(text(f"PRAGMA {p}")) for p in ("journal_mode", "synchronous")],
                writes=False,
            )
        finally:
            await state.close()
        assert asked == ["wal", 2]

    async def test_a_locked_file_is_temporary(self, file: Path, url: str) -> None:
        state = await State.open(url, owner=new_owner(), patience=0.1)
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StateUnavailable, match="locked"):
                await state.record("sales", [LedgerEntry("u1", "a")])
            assert await state.known("sales") == {}, "readers do not wait for writers"
            other.execute("ROLLBACK")
        await state.record("sales", [LedgerEntry("u1", "a")])
        assert set(await state.known("sales")) == {"u1"}
        await state.close()

    async def test_a_lock_is_waited_for(self, file: Path, url: str) -> None:
        state = await State.open(url, owner=new_owner(), patience=30)
        begun = threading.Event()
        state._database.transaction(
            lambda c: _driver(c).set_trace_callback(lambda statement: begun.set()), writes=False
        )
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            recording = asyncio.create_task(state.record("sales", [LedgerEntry("u1", "a")]))
            await asyncio.to_thread(begun.wait)
            other.execute("COMMIT")
            await recording
        assert set(await state.known("sales")) == {"u1"}
        await state.close()

    async def test_who_reads_before_writing_keeps_others_from_writing_between(
        self, file: Path, url: str
    ) -> None:
        state = await State.open(url, owner=new_owner())

        def read_and_write(connection: Connection) -> None:
            connection.execute(text("SELECT * FROM lease")).all()
            with (
                contextlib.closing(sqlite3.connect(file, timeout=0)) as other,
                pytest.raises(sqlite3.OperationalError, match="locked"),
            ):
                other.execute("DELETE FROM lease")
            connection.execute(text("DELETE FROM lease"))

        state._database.transaction(read_and_write, writes=True)
        await state.close()

    async def test_a_full_disk_is_temporary(self, url: str) -> None:
        state = await State.open(url, owner=new_owner(), patience=0.1)
        await state.record("sales", [LedgerEntry("u1", "a")])
        _limit_pages(state, 10)
        with pytest.raises(StateUnavailable, match="full"):
            await state.record("sales", [LedgerEntry(f"u{n}", f"{n:064}") for n in range(10_000)])
        assert set(await state.known("sales")) == {"u1"}
        _limit_pages(state, 100_000)
        await state.record("sales", [LedgerEntry("u2", "b")])
        assert set(await state.known("sales")) == {"u1", "u2"}
        await state.close()

    @pytest.mark.parametrize(
        ("file_mode", "folder_mode", "said"),
        [(0o400, 0o700, "Permission denied"), (0o600, 0o500, "readonly|unable to open")],
    )
    async def test_a_file_that_cannot_be_written_is_for_the_user_to_mend(
        self, file_mode: int, folder_mode: int, said: str
    ) -> None:
        with _folder_of_nobody() as folder:
            url = f"sqlite:///{folder}/state.db"
            state = await State.open(url, owner=new_owner())
            await state.close()
            with (
                _as_nobody(folder, file_mode, folder_mode),
                pytest.raises(ConfigError, match=rf"state\.url: .*({said})"),
            ):
                await State.open(url, owner=new_owner(), patience=0.1)

    async def test_a_file_that_is_no_database_is_for_the_user_to_mend(
        self, file: Path, url: str
    ) -> None:
        file.parent.mkdir()
        file.write_text("no database at all" * 100)
        with pytest.raises(ConfigError, match="not a database"):
            await State.open(url, owner=new_owner())
        assert file.read_text() == "no database at all" * 100

    async def test_nothing_that_grows_is_ever_scanned(self, url: str) -> None:
        plans = await _plans(url)
        steps = {step for plan in plans.values() for step in plan}
        # The virtual table is the array that a statement was given (json_each).
        scans = {s for s in steps if s.startswith("SCAN") and "VIRTUAL TABLE" not in s}
        small = {"SCAN lease", "SCAN account", "SCAN quirk", "SCAN trouble", "SCAN installation"}
        assert scans <= small, "what is held, configured, learnt"
        looks = [plan for statement, plan in plans.items() if "account.set_at >" in statement]
        for due in looks:
            found = ("account_next_poll", "SEARCH account USING PRIMARY KEY")
            assert any(any(f in step for f in found) for step in due)


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("secret", "not a database URL"),
            ("postgresql+psycopg://u:secret@h:port/d", "not a database URL"),
            ("mysql://u:secret@h/d", "mysql is not supported"),
            ("postgresql+asyncpg://u:secret@h/d", "asyncpg is not supported"),
            ("sqlite://", "names no file"),
            ("sqlite:///:memory:", "names no file"),
            ("sqlite:////proc/nowhere/state.db", "/proc/nowhere/state.db: No such file"),
        ],
    )
    async def test_a_wrong_url_is_for_the_user_to_mend(self, url: str, said: str) -> None:
        with pytest.raises(ConfigError, match=said) as caught:
            await State.open(url, owner=new_owner())
        chain = [caught.value, caught.value.__cause__]
        assert "secret" not in " ".join(map(str, chain))
        assert caught.value.where == "state.url"


def _limit_pages(state: State, pages: int) -> None:
    """Let the file grow to so many pages only, as if the disk were full then."""
    state._database.transaction(
        lambda c: c.exec_driver_sql(f"PRAGMA max_page_count={pages}").all(), writes=False
    )


@contextlib.contextmanager
def _folder_of_nobody() -> Iterator[Path]:
    """Make a folder that an ordinary user reaches; the test's own is root's where root tests."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "data"
        folder.mkdir()
        yield folder


@contextlib.contextmanager
def _as_nobody(folder: Path, file_mode: int, folder_mode: int) -> Iterator[None]:
    """Give folder and files these modes, and be a user whom they bind: root writes anything."""
    user = os.geteuid()
    for path in (*folder.iterdir(), folder):
        path.chmod(folder_mode if path == folder else file_mode)
        if user == 0:
            os.chown(path, 65534, -1)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o700)


async def _plans(url: str) -> dict[str, list[str]]:
    """Return every statement that the state makes, with the steps of its query plan."""
    state = await State.open(url, owner=new_owner())
    statements: set[str] = set()
    state._database.transaction(
        lambda c: _driver(c).set_trace_callback(statements.add), writes=False
    )
    await _use_everything(state)
    await state.close()
    words = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as raw:
        return {
            statement: [str(row[3]) for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}")]
            for statement in statements
            if statement.startswith(words)
        }


def _driver(connection: Connection) -> sqlite3.Connection:
    return cast(sqlite3.Connection, connection.connection.driver_connection)


async def _use_everything(state: State) -> None:
    other = await State.open(str(state._database._engine.url), owner=new_owner())
    await other.lease("x")
    await state.lease("x")
    await state.release("x")
    await state.record("sales", [LedgerEntry("u1", "a")])
    await state.known("sales")
    await state.seen(["a"])
    await state.heads("sales", ["u1"])
    await state.measure("sales", {"u1": 1})
    await state.recall("sales", "server")
    await state.record_troubles("sales", [MessageTrouble("u1", 1, 1, 0, "why")])
    await state.forget_troubles("sales", ["u1"])
    await state.learn("server", Quirk("name", 1, 0))
    await state.move_in("sales", "x@server")
    await state.put_off("sales", until=0)
    await state.forget("sales", ["u1"])
    await state.claim_due(["sales"], hold=60)
    await state.give_back(["sales"])
    await state.record_poll("sales", next_poll=0, error=None)
    await state.accounts()
    await claim_one(state, "a", "default")
    await finish_one(state, "a", "default", {"a@x": "250"})
    await claim_one(state, "b", "default")
    await unclaim_one(state, "b", "default")
    await state.prune(-DAY)
    await other.close()
