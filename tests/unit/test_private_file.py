"""A second look at a database of this process leaves the locks of the first alone."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from shared.broker.embedded import schema
from shared.disk.private_file import make_private
from shared.state import State, new_owner

WRITER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("PRAGMA user_version")
db.execute("CREATE TABLE IF NOT EXISTS theirs (n INTEGER)")
db.execute("INSERT INTO theirs VALUES (1)")
db.commit()
db.close()
"""


def test_what_another_process_writes_and_leaves_is_seen_after_a_second_look(
    tmp_path: Path,
) -> None:
    path = tmp_path / "queue.db"
    with closing(schema.connect(path, 5.0)) as first:
        first.execute("PRAGMA user_version").fetchone()
        schema.connect(path, 5.0).close()
        subprocess.run([sys.executable, "-c", WRITER, str(path)], check=True)
        assert first.execute("SELECT count(*) FROM theirs").fetchone() == (1,)
        assert Path(f"{path}-wal").exists()


async def test_the_same_of_the_state(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await (await State.open(path, owner=new_owner())).close()
    with closing(sqlite3.connect(path)) as first:
        first.execute("SELECT count(*) FROM sqlite_master").fetchone()
        await (await State.open(path, owner=new_owner())).close()
        subprocess.run([sys.executable, "-c", WRITER, str(path)], check=True)
        assert first.execute("SELECT count(*) FROM theirs").fetchone() == (1,)
        assert Path(f"{path}-wal").exists()


def test_a_file_that_may_not_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "state.db").mkdir()
    with pytest.raises(OSError, match="directory"):
        make_private(tmp_path / "state.db")
