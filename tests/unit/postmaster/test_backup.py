"""``backup`` and ``restore``: what is saved, and what is not put back because it does not fit."""

import io
import json
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from shared.message import Spooled
from tests.unit.postmaster.conftest import RAW, Office, fetched

KEY = "ab" + "0" * 30
ORPHAN = "cd" + "0" * 30
"""The key of a blob that no queue names."""
Members = dict[str, bytes]


@pytest.fixture
def saved(office: Office, tmp_path: Path) -> Path:
    """An archive of two messages, one of them in the spool; what it was made of is gone."""
    office.put("small")
    office.spooled(KEY, RAW)
    office.put(KEY, payload=replace(fetched(), raw=Spooled(KEY, len(RAW), RAW[:20])))
    office.spooled(ORPHAN, RAW)
    made_ledgers(office)
    file = tmp_path / "saved.tar"
    done = office("backup", str(file))
    assert done.status == 0, done.err
    assert "2 messages in queues and 1 blobs" in done.out
    shutil.rmtree(office.data)
    return file


def made_ledgers(office: Office) -> None:
    from services.postmaster.state import make_ledgers

    make_ledgers(office.data / "state.db")


def read(file: Path) -> Members:
    with tarfile.open(file) as tar:
        found = {}
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            found[member.name] = content.read()
        return found


def write(file: Path, members: Members) -> None:
    """Write an archive whose sums are right, whatever is in it."""
    del members["sums.json"]
    sums = {name: [len(raw), sha256(raw).hexdigest()] for name, raw in members.items()}
    members["sums.json"] = json.dumps(sums).encode()
    with tarfile.open(file, "w") as tar:
        for name, raw in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))


def test_all_comes_back(office: Office, saved: Path) -> None:
    done = office("restore", str(saved))
    assert done.status == 0, done.err
    assert "2 messages in queues" in done.out
    names = ["queue.db", "queue.db.mark", "spool", "state.db"]
    assert sorted(p.name for p in office.data.iterdir()) == names
    assert len(office("failed", "list", "--json").json) == 2
    assert [blob["key"] for blob in office("spool", "list", "--json").json] == [KEY]
    assert office("state", "check").status == 0


def cut(file: Path, _: Office) -> None:
    file.write_bytes(file.read_bytes()[:-20_000])


def cut_between_members(file: Path, _: Office) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: whole.index(b"sums.json")])


def altered(file: Path, _: Office) -> None:
    file.write_bytes(file.read_bytes().replace(b"Subject: hello", b"Subject: hallo"))


def another_thing(file: Path, _: Office) -> None:
    file.write_bytes(b"x" * 5000)


def no_blob(file: Path, _: Office) -> None:
    members = read(file)
    del members[f"spool/{KEY}"]
    write(file, members)


def cut_in_a_member(file: Path, _: Office) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: whole.index(b"SQLite format 3") + 700])


def nested(file: Path, _: Office) -> None:
    members = read(file)
    members["backup.json"] = b"[" * 100_000
    write(file, members)


def nothing_of_ledgers(file: Path, _: Office) -> None:
    members = read(file)
    members["state.db"] = b""
    write(file, members)


def foreign_name(file: Path, _: Office) -> None:
    members = read(file)
    members["spool/../../escaped"] = b"x"
    write(file, members)


def newer_queues(file: Path, _: Office) -> None:
    _with_database(file, "queue.db", "PRAGMA user_version = 99")


def newer_ledgers(file: Path, _: Office) -> None:
    _with_database(file, "state.db", "UPDATE schema_version SET version = 99")


def no_table(file: Path, _: Office) -> None:
    _with_database(file, "queue.db", "DROP TABLE waiting")


def without_ledgers(file: Path, _: Office) -> None:
    members = read(file)
    del members["state.db"]
    write(file, members)


def of_another_kind(_: Path, office: Office) -> None:
    with office.config.open("a") as config:
        config.write('[broker]\nurl = "amqp://localhost"\n')


def not_empty(_: Path, office: Office) -> None:
    office.data.mkdir()
    (office.data / "reserve").touch()


def _with_database(file: Path, name: str, statement: str) -> None:
    members, path = read(file), file.with_name(name)
    path.write_bytes(members[name])
    with closing(sqlite3.connect(path)) as db:
        db.execute(statement)
        db.commit()
    write(file, members | {name: path.read_bytes()})


def beside(name: str) -> Callable[[Path, Office], None]:
    """Return what leaves the log of a former file where a database of its own place belongs."""

    def leave(_: Path, office: Office) -> None:
        elsewhere = office.data.parent / "ledgers"
        elsewhere.mkdir()
        with office.config.open("a") as config:
            config.write(f'[state]\nurl = "sqlite:///{elsewhere}/state.db"\n')
        (elsewhere / name).write_bytes(b"a log of another file")

    return leave


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (cut, "it c"),
        (cut_between_members, "it was cut off"),
        (cut_in_a_member, "it cannot be read (unexpected end of data)"),
        (nested, "backup.json in it cannot be read"),
        (nothing_of_ledgers, "state.db in it is empty"),
        (altered, "what is in it is not what was written"),
        (another_thing, "cannot be read"),
        (no_blob, f"queues name 1 large messages that are not in it, such as {KEY}"),
        (foreign_name, "a file in it that no backup writes"),
        (newer_queues, "schema 99"),
        (newer_ledgers, "schema 99"),
        (no_table, "there is no table waiting"),
        (without_ledgers, "there is no state.db in it"),
        (of_another_kind, "this configuration keeps state.db and spool here"),
        (not_empty, "reserve is there: a backup is put back where nothing is"),
        (beside("state.db-wal"), "state.db-wal is there: a backup is put back where nothing is"),
        (beside("state.db-shm"), "state.db-shm is there: a backup is put back where nothing is"),
        (beside("state.db"), "state.db is there: a backup is put back where nothing is"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_changed(
    office: Office, saved: Path, harm: Callable[[Path, Office], None], said: str
) -> None:
    harm(saved, office)
    before = {path.name for path in office.data.rglob("*")} if office.data.exists() else set()
    done = office("restore", str(saved))
    assert done.status == 1
    assert said in done.err
    after = {path.name for path in office.data.rglob("*")} if office.data.exists() else set()
    assert after == before
    assert not (office.data.parent / "escaped").exists()


def test_no_backup_is_put_back_under_a_process_that_runs(office: Office, saved: Path) -> None:
    import asyncio

    async def run() -> None:
        broker = office.broker()
        await broker.open()
        done = office("restore", str(saved))
        assert done.status == 2
        assert "processes use these files; stop them first" in done.err
        await broker.close()

    asyncio.run(run())


def nothing(_: Path) -> None:
    pass


def a_folder(blob: Path) -> None:
    blob.mkdir(parents=True)


def a_loop(blob: Path) -> None:
    blob.parent.mkdir()
    blob.symlink_to(blob)


@pytest.mark.parametrize("lies_there", [nothing, a_folder, a_loop])
def test_a_blob_that_was_missing_before_the_backup_does_not_hinder_a_restore(
    office: Office, tmp_path: Path, lies_there: Callable[[Path], None]
) -> None:
    office.put(KEY, payload=replace(fetched(), raw=Spooled(KEY, len(RAW), RAW[:20])))
    office.spooled(ORPHAN, RAW)
    office.put(ORPHAN, payload=replace(fetched(), raw=Spooled(ORPHAN, len(RAW), RAW[:20])))
    lies_there(office.data / "spool" / KEY[:2] / KEY[2:])
    made_ledgers(office)
    done = office("backup", str(tmp_path / "saved.tar"))
    assert done.status == 0
    assert f"missing from the spool already, or cannot be read: {KEY}" in done.err
    shutil.rmtree(office.data)
    assert office("restore", str(tmp_path / "saved.tar")).status == 0
    assert len(office("failed", "list", "--json").json) == 2
    assert [blob["key"] for blob in office("spool", "list", "--json").json] == [ORPHAN]


def test_what_lies_at_servers_is_named(office: Office, tmp_path: Path) -> None:
    made_ledgers(office)
    of_another_kind(tmp_path, office)
    done = office("backup", str(tmp_path / "saved.tar"))
    assert done.status == 0
    assert "not in it: the queues, which are at RabbitMQ; see Backup in" in done.err


def test_a_damaged_file_is_not_saved_and_no_other_file_overwritten(
    office: Office, tmp_path: Path
) -> None:
    office.put("one")
    made_ledgers(office)
    refused = office("backup", str(office.config))
    assert refused.status == 1
    assert "is there, and is no backup" in refused.err
    queue = office.data / "queue.db"
    queue.write_bytes(queue.read_bytes()[:12_288])
    done = office("backup", str(tmp_path / "saved.tar"))
    assert done.status == 2
    assert f"nothing was saved: {queue}: the file is damaged" in done.err
    assert "state rebuild" in done.err
    assert not list(tmp_path.glob("saved.tar*"))
