"""A log beside an SQLite file that is not that file's own."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from shared.broker.embedded.schema import connect
from shared.errors import ConfigError
from shared.sqlite.write_ahead_log import require_own_log
from shared.state.database import Database

KILLED = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA journal_mode = WAL")
db.execute("CREATE TABLE t (a, b)")
db.execute("CREATE INDEX i ON t (b)")
fill = '''WITH RECURSIVE n(v) AS (SELECT 1 UNION ALL SELECT v + 1 FROM n WHERE v < 500)
          INSERT INTO t SELECT v, hex(randomblob(100)) FROM n'''
db.execute(fill)
copy = sqlite3.connect(sys.argv[2])
db.backup(copy)
copy.execute("PRAGMA journal_mode = DELETE").fetchone()
copy.close()
for n in range(10):
    db.execute(fill)
    db.execute("DELETE FROM t WHERE a % 7 = ?", (n % 7,))
db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
db.execute(fill)
os._exit(0)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A database whose process was killed, and an earlier copy of it."""
    made = tmp_path / "some.db"
    subprocess.run([sys.executable, "-c", KILLED, made, tmp_path / "copy.db"], check=True)
    return made


def log_of(file: Path) -> Path:
    return file.with_name(f"{file.name}-wal")


def age(log: Path) -> None:
    os.utime(log, (1, 1))


def test_what_a_kill_left_is_a_files_own(file: Path) -> None:
    require_own_log(file)
    age(log_of(file))
    require_own_log(file)
    with sqlite3.connect(file) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_copy_in_the_place_of_the_file_is_told_and_nothing_is_changed(file: Path) -> None:
    shutil.copy(file.with_name("copy.db"), file)
    age(log_of(file))
    before = file.read_bytes(), log_of(file).read_bytes()
    for opening in (
        lambda: require_own_log(file),
        lambda: Database(file, 1.0),
        lambda: connect(file, 1.0),
    ):
        with pytest.raises(ConfigError, match=r"log of another file.*move .*-wal and .*-shm away"):
            opening()
        assert (file.read_bytes(), log_of(file).read_bytes()) == before
    log_of(file).unlink()
    file.with_name(f"{file.name}-shm").unlink(missing_ok=True)
    require_own_log(file)
    with sqlite3.connect(file) as db:
        assert db.execute("SELECT count(*) FROM t").fetchone() == (500,)


def test_a_file_that_is_damaged_itself_is_left_to_who_opens_it(file: Path) -> None:
    file.write_bytes(b"no database" * 1000)
    age(log_of(file))
    require_own_log(file)


def test_a_file_without_a_log_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "some.db").write_bytes(b"no database")
    require_own_log(tmp_path / "some.db")
    require_own_log(tmp_path / "none.db")
