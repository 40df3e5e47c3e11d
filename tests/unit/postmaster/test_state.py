"""Files that are gone or empty since they were made, and a rebuild that is killed or done again."""

import contextlib
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.failpoint import VARIABLE
from tests.servers.disk import memory_disk
from tests.unit.postmaster.conftest import Office
from tests.unit.postmaster.test_backup import made_ledgers

Harm = Callable[[Path], None]


def gone(file: Path) -> None:
    file.unlink()


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def one_byte(file: Path) -> None:
    file.write_bytes(b"S")


def a_table_less(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute("DROP TABLE owner")
        db.commit()


@pytest.fixture
def used(office: Office) -> Office:
    """An office with a message in its queues, and ledgers."""
    office.put("one")
    made_ledgers(office)
    return office


def failed(office: Office) -> int:
    return len(office("failed", "list", "--json").json)


@pytest.mark.parametrize("harm", [gone, emptied, one_byte])
@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("queue.db", "mail that waited in it is lost, unless it still lies at the provider"),
        ("state.db", "accounts are held then, until you choose"),
    ],
)
def test_what_was_made_is_not_made_anew_in_silence(
    used: Office, name: str, loss: str, harm: Harm
) -> None:
    harm(used.data / name)
    for command in (["run", "--once"], ["check-config"]):
        refused = used(*command)
        assert refused.status == 2
        assert str(used.data / name) in refused.err
        assert "state rebuild" in refused.err
        assert loss in refused.err
    if name == "queue.db":
        assert used("failed", "list").status == 2
    checked = used("state", "check")
    assert checked.status == 1
    assert f"{name}: damaged" in checked.out

    rebuilt = used("state", "rebuild")
    assert rebuilt.status == 0, rebuilt.err
    assert (loss if name == "queue.db" else "All accounts are held") in rebuilt.out
    assert used("state", "check").status == 0
    assert used("check-config").status == 0
    assert failed(used) == (0 if name == "queue.db" else 1)


def test_what_was_never_made_here_is_made(used: Office) -> None:
    """As after a change of the broker; and a file of an older version gets its mark."""
    for name in ("queue.db", "state.db"):
        (used.data / f"{name}.made").unlink()
    assert failed(used) == 1
    assert used("state", "check").status == 0
    assert (used.data / "queue.db.made").exists()
    assert (used.data / "state.db.made").exists()
    for name in ("queue.db", "state.db"):
        (used.data / name).unlink()
        (used.data / f"{name}.made").unlink()
    assert used("check-config").status == 0
    assert used("topology", "declare").status == 0
    assert failed(used) == 0


@pytest.mark.parametrize("step", ["written", "aside", "in-place"])
def test_a_rebuild_that_is_killed_has_lost_nothing(used: Office, step: str) -> None:
    file = used.data / "queue.db"
    a_table_less(file)
    child = os.fork()
    if not child:
        os.environ[VARIABLE] = f"rebuild.{step}"
        used("state", "rebuild")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert file.exists()
    assert used("state", "rebuild").status == 0
    assert failed(used) == 1
    assert not list(used.data.glob("*.new*"))


def test_a_second_rebuild_keeps_what_the_first_one_kept(used: Office) -> None:
    file = used.data / "queue.db"
    a_table_less(file)
    first = file.read_bytes()
    assert used("state", "rebuild").status == 0
    a_table_less(file)
    assert "the damaged one is queue.db.damaged.1" in used("state", "rebuild").out
    assert file.with_name("queue.db.damaged").read_bytes() == first
    assert file.with_name("queue.db.damaged.1").exists()
    assert failed(used) == 1


def fill(folder: Path) -> None:
    with contextlib.suppress(OSError), (folder / "filler").open("ab", 0) as file:
        while True:
            file.write(bytes(512))


def test_a_full_disk_is_no_damage_and_nothing_is_rebuilt_on_it(used: Office) -> None:
    kept = used.data.with_name("kept")
    used.data.rename(kept)
    with memory_disk(used.data, "4m"):
        shutil.copytree(kept, used.data, dirs_exist_ok=True)
        fill(used.data)
        checked = used("state", "check")
        assert checked.status == 1
        assert "damaged" not in checked.out
        assert "the disk is full: make room on it" in checked.out
        listed = used("failed", "list")
        assert listed.status == 1
        assert "broker running" not in listed.err
        assert "Is its disk full? Make room on it" in listed.err
        (used.data / "filler").unlink()
        assert failed(used) == 1

        a_table_less(used.data / "queue.db")
        with (used.data / "filler").open("wb", 0) as file:
            file.write(bytes(shutil.disk_usage(used.data).free - 100_000))
        rebuilt = used("state", "rebuild")
        assert rebuilt.status == 1
        assert "is unchanged, as no new file could be made beside it" in rebuilt.err
        assert not list(used.data.glob("*.new*"))
        (used.data / "filler").unlink()
        assert used("state", "rebuild").status == 0
        assert failed(used) == 1
