"""Damaged files: said at the start with what to do, and made anew from what can be read of them."""

import contextlib
import json
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.disk.space import PAGE
from tests.corpus.messages import sample_messages
from tests.flow.forked import ForkedConnector
from tests.flow.plant import Plant
from tests.servers.dovecot import Dovecot

NAME = "sales"


@pytest.fixture
def plant(tmp_path: Path, product: ForkedConnector, provider: Dovecot) -> Plant:
    """An installation that has delivered 30 messages, and holds 20 more."""
    made = Plant(product, provider, tmp_path / "mail", None)
    product.configure(
        [made.account(NAME, keep="forever")],
        f"maildir://{made.mail}/{{local}}",
        retry={"tiers": ["1s"]},
    )
    made.hand_in(NAME, sample_messages(30, 1, max_size=20_000))
    assert product.once()[0] == 0
    made.mail.rename(tmp_path / "away")
    made.mail.touch()
    made.hand_in(NAME, sample_messages(20, 2, max_size=20_000))
    product.once()
    made.mail.unlink()
    (tmp_path / "away").rename(made.mail)
    product.clock.advance(2)  # what was put off is due
    return made


def cut(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])


def of_zeros(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def emptied(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as db:
        names = [n for (n,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        for name in names:
            if not name.startswith("sqlite"):
                db.execute(f"DROP TABLE {name}")
        db.commit()


def a_table_less(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute(f"DROP TABLE {'uidl' if file.name == 'state.db' else 'waiting'}")
        db.commit()


HARM = [
    ("state.db", cut),
    ("state.db", emptied),
    ("queue.db", of_zeros),
    ("queue.db", emptied),
    ("queue.db", a_table_less),
]


@pytest.mark.parametrize(("file", "harm"), HARM)
def test_it_is_said_at_the_start_and_what_can_be_read_goes_on(
    plant: Plant, file: str, harm: Callable[[Path], None]
) -> None:
    harm(plant.data / file)
    refused = plant.product.cli("run", timeout=60)
    assert refused.returncode == 2, refused.stderr
    assert f"{plant.data / file}: the file is damaged (" in refused.stderr
    assert "restore BACKUP" in refused.stderr
    assert "state rebuild" in refused.stderr
    assert "Traceback" not in refused.stderr
    checked = plant.product.cli("state", "check", "--json")
    assert checked.returncode == 1
    faults = {Path(row["file"]).name: row["faults"] for row in json.loads(checked.stdout)}
    assert faults[file] and not any(f for name, f in faults.items() if name != file)

    rebuilt = plant.product.cli("state", "rebuild")
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert (plant.data / f"{file}.damaged").exists()
    assert plant.product.cli("state", "check").returncode == 0
    plant.product.cli("quarantine", "release", "--all", "--yes")
    plant.product.once()
    if file == "state.db":  # it has lost its name with all else, so whose the queues are is asked
        assert plant.product.cli("account", "adopt", "--all").returncode == 0
        plant.product.once()
    tally = plant.tally()
    assert tally.strangers == 0
    # Of state.db nothing of the mail was in it; what queue.db has lost was fetched again.
    assert (tally.delivered, tally.lost) == (50, 0)
    if file == "queue.db":
        assert tally == plant.right()
        lost = "sales: 20 messages are lost from the queues; they may still be at the provider, and"
        assert (lost in rebuilt.stdout) is (harm is not a_table_less)


def test_whole_files_are_counted_and_left_alone(plant: Plant) -> None:
    checked = plant.product.cli("state", "check")
    assert checked.returncode == 0
    assert "state.db: whole" in checked.stdout
    assert "  uidl: 50 rows" in checked.stdout
    assert "  delivered: 30 rows" in checked.stdout
    assert "  message: 20 rows" in checked.stdout
    assert plant.product.cli("state", "rebuild").stdout == "no file is damaged\n"


@pytest.mark.parametrize("harm", ["uidl", "delivered", "gone"])
def test_ledgers_that_do_not_know_all_any_more_have_accounts_held(plant: Plant, harm: str) -> None:
    file = plant.data / "state.db"
    if harm == "gone":
        file.unlink()
        for side in ("-wal", "-shm"):
            file.with_name(f"{file.name}{side}").unlink(missing_ok=True)
    else:
        spoil(file, harm)
    rebuilt = plant.product.cli("state", "rebuild")
    assert (rebuilt.returncode, "All accounts are held" in rebuilt.stdout) == (0, True)
    assert "delivered again" not in rebuilt.stdout
    plant.product.once()
    stands = json.loads(plant.product.cli("accounts", NAME, "--json").stdout)
    assert stands[0]["status"] == "held"
    if harm == "uidl":
        assert plant.tally() == plant.right()
    assert plant.product.cli("account", "adopt", "--all").returncode == 0
    assert plant.product.once()[0] == 0
    if harm != "delivered":  # of which nothing is known any more: queues that wait till then
        assert plant.tally() == plant.right()


def test_no_file_is_made_anew_under_a_process_that_uses_it(plant: Plant) -> None:
    plant.run("run")
    plant.product.processes["run"].send_signal(signal.SIGSTOP)  # it would notice, and end
    cut(plant.data / "state.db")
    refused = plant.product.cli("state", "rebuild")
    assert refused.returncode == 2
    assert "processes use these files; stop them first" in refused.stderr


def spoil(file: Path, table: str) -> None:
    """Overwrite the first page of a table, which nobody reads before it is needed."""
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        (page,) = db.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = ?", [table]
        ).fetchone()
    with file.open("r+b") as out:
        out.seek((page - 1) * PAGE)
        out.write(bytes(PAGE))


@pytest.mark.parametrize(
    ("file", "table", "command"),
    [("queue.db", "message", "spool sweep"), ("state.db", "account", "accounts")],
)
def test_damage_of_a_later_page_is_said_in_the_same_words_by_all(
    plant: Plant, file: str, table: str, command: str
) -> None:
    """Nothing is refused at the start: it is met with while a process runs."""
    spoil(plant.data / file, table)
    said = f"{plant.data / file}: the file is damaged ("
    for words in (["run", "--once", "--json"], command.split(), ["backup", "x.tar"]):
        ended = plant.product.cli(*words, timeout=60)
        assert ended.returncode == 2, (words, ended.stderr)
        for text in (said, "pop3-connector restore BACKUP", "pop3-connector state rebuild"):
            assert text in ended.stderr, (words, ended.stderr)
        assert ended.stderr.count("state.url") == 0
    assert plant.product.cli("state", "rebuild").returncode == 0
    assert plant.product.cli("run", "--once", timeout=60).returncode in (0, 1)
