"""A snapshot has no end of a step without its beginning, whoever writes meanwhile."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from services.postmaster.errors import Unfit
from services.postmaster.snapshot import own_folder, snapshot

ROUNDS = 5
OTHERS = 2000
"""Blobs that make the moment long enough for a writer who is not kept out of it."""


@dataclass
class Writer:
    """Does as the stages do: blob, queue, ledger; then it forgets queue and blob. Without rest."""

    folder: Path
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def files(self) -> list[Path]:
        return [self.folder / "queue.db", self.folder / "state.db"]

    def blob(self, number: int) -> Path:
        return self.folder / "spool" / "ab" / f"{abs(number):032x}{'.other' * (number < 0)}"

    def make(self, others: int) -> None:
        self.blob(0).parent.mkdir(parents=True)
        for number in range(others):
            self.blob(-number - 1).touch()
        for file in self.files:
            with contextlib.closing(sqlite3.connect(file)) as db:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("CREATE TABLE message (number INTEGER PRIMARY KEY)")

    def write(self) -> None:
        queue, ledger = (sqlite3.connect(f, isolation_level=None, timeout=60) for f in self.files)
        with contextlib.closing(queue), contextlib.closing(ledger):
            for number in range(10**9):
                if self.done.is_set():
                    return
                self.blob(number).write_bytes(b"%d" % number)
                queue.execute("INSERT INTO message VALUES (?)", (number,))
                ledger.execute("INSERT INTO message VALUES (?)", (number,))
                if number >= 3:
                    queue.execute("DELETE FROM message WHERE number = ?", (number - 3,))
                    self.blob(number - 3).unlink()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    writer = Writer(tmp_path)
    writer.make(OTHERS)
    thread = threading.Thread(target=writer.write)
    thread.start()
    yield writer
    writer.done.set()
    thread.join()


def numbers(file: Path) -> set[int]:
    with contextlib.closing(sqlite3.connect(file)) as db:
        return {number for (number,) in db.execute("SELECT number FROM message")}


def test_what_one_file_says_the_other_knows_and_each_blob_is_there(
    writer: Writer, tmp_path: Path
) -> None:
    for number in range(ROUNDS):
        copies = [tmp_path / f"{number}.{file.name}" for file in writer.files]
        with snapshot(writer.files, tmp_path / "spool") as found:
            for copy, to in zip(found.databases, copies, strict=True):
                copy(to)
            blobs = {
                int(key[2:], 16): path.read_bytes()
                for key, path in found.blobs.items()
                if not key.endswith(".other")
            }
        queued, recorded = map(numbers, copies)
        assert queued <= blobs.keys()
        assert all(content == b"%d" % number for number, content in blobs.items())
        # What is in the ledger was queued; the last three are never forgotten before the next.
        assert {n for n in recorded if n > max(recorded, default=0) - 2} <= queued
        assert max(queued, default=0) - max(recorded, default=0) in (0, 1)
    assert not (tmp_path / "spool" / "backup").exists()


def test_where_the_file_system_knows_no_links_blobs_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    writer = Writer(tmp_path)
    writer.make(20)
    writer.blob(7).write_bytes(b"7")
    with snapshot(writer.files, tmp_path / "spool") as found:
        writer.blob(7).unlink()
        assert len(found.blobs) == 20 + 1
        assert found.blobs[f"ab{7:032x}"].read_bytes() == b"7"


def test_a_blob_that_cannot_be_read_keeps_no_other(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.make(20)
    writer.blob(7).mkdir()
    with snapshot(writer.files, tmp_path / "spool") as found:
        assert len(found.blobs) == 20
        assert all(path.is_file() for path in found.blobs.values())
    assert not (tmp_path / "spool" / "backup").exists()


def test_a_folder_is_one_process_s_and_is_left_without_a_trace(tmp_path: Path) -> None:
    left = tmp_path / "x.part"
    left.mkdir()
    (left / "of a killed process").touch()
    with own_folder(left) as folder:
        assert list(folder.iterdir()) == []
        with pytest.raises(Unfit, match="another backup is being made"), own_folder(left):
            pass
    assert not left.exists()
