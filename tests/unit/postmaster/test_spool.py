"""``spool``: what lies there, and that only what nobody needs is deleted."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from shared import wire
from shared.broker import Send
from shared.message import Addressed, Envelope, Fetched, Poll, Spooled
from shared.spool import Spool
from tests.deliveries import singly
from tests.unit.postmaster.conftest import FIRST_SEEN, RAW, Office, addressed, fetched

DAY = 86_400.0


def blob(office: Office, key: str, days: float = 100) -> None:
    """Put a blob into the spool that was written so many days ago."""
    office.spooled(key, RAW)
    path = office.data / "spool" / key[:2] / key[2:]
    written = path.stat().st_mtime - days * DAY
    os.utime(path, (written, written))


def large(key: str, mail: Fetched | Addressed | None = None) -> Fetched | Addressed:
    """Return a payload of which the raw message is in the spool."""
    return replace(mail or fetched(), raw=Spooled(key, len(RAW), RAW[:20]))


def keys(office: Office) -> list[str]:
    return sorted(each["key"] for each in office("spool", "list", "--json").json)


def envelope(key: str) -> bytes:
    return wire.encode(Envelope("id", "sales", large(key), FIRST_SEEN))


@pytest.mark.parametrize("kind", ["file", "memory"])
async def test_the_spool_knows_size_and_age_of_its_blobs(kind: str, tmp_path: Path) -> None:
    url = {"file": str(tmp_path), "memory": f"memory://{tmp_path.name}"}[kind]
    spool = Spool(url)
    assert await spool.blobs() == []
    for key in ("0afirst", "0bsecond"):
        blob = await spool.create()
        await blob.write(key.encode())
        await blob.commit(key)
    begun = await spool.create()
    await begun.write(b"x" * 300_000)
    first, second = await spool.blobs()
    assert (first.key, first.size) == ("0afirst", 7)
    assert (second.key, second.size) == ("0bsecond", 8)
    assert FIRST_SEEN < first.written <= second.written
    await begun.abort()


class TestList:
    def test_of_nothing(self, office: Office) -> None:
        nothing = f"There is no {office.data / 'spool'} yet: the first large message makes it.\n"
        assert office("spool", "list").out == nothing
        assert office("spool", "list", "--json").json == []
        (office.data / "spool").mkdir(parents=True)
        assert office("spool", "list").out == "The spool is empty.\n"
        assert office("spool", "list", "--json").json == []

    def test_has_drafts_below(self, office: Office) -> None:
        blob(office, "0ablob", 1)
        draft = office.data / "spool" / "tmp" / "left"
        draft.write_bytes(b"x" * 2048)
        listed = office("spool", "list", "--json").json
        assert [(each["key"], each.get("draft")) for each in listed] == [
            ("0ablob", None),
            ("tmp/left", True),
        ]
        shown = office("spool", "list").out
        assert "tmp/left" in shown
        assert "drafts: 1 (2" in shown
        assert "left by a process that was killed" in shown

    def test_has_what_lies_there_oldest_first(self, office: Office) -> None:
        blob(office, "0ayoung", 1)
        blob(office, "0bold", 9)
        assert [each["key"] for each in office("spool", "list", "--json").json] == [
            "0bold",
            "0ayoung",
        ]
        lines = office("spool", "list").out.splitlines()
        assert lines[0].split() == ["key", "size", "written"]
        assert lines[2].split()[:2] == ["0bold", f"{len(RAW)}B"]
        assert office("spool", "list", "--json").json[0]["size"] == len(RAW)


class TestSweep:
    def test_keeps_what_any_queue_refers_to_and_deletes_the_rest(self, office: Office) -> None:
        office.put("a1", queue="pickup.failed", payload=large("0afailed", addressed()))
        office.put("a2", queue="quarantine", payload=large("0bquarantine"), inbox="incoming")
        office.put("a3", queue="incoming", payload=large("0cincoming"))
        office.put("a4", queue="incoming.retry.6h", payload=large("0dretry"))
        office.put("a5", queue="pickup", payload=addressed())
        for key in ("0afailed", "0bquarantine", "0cincoming", "0dretry", "0eorphan"):
            blob(office, key)
        blob(office, "0fyoung", 6.9)
        printed = office("spool", "sweep", "--json")
        assert (printed.status, printed.err) == (0, "")
        assert printed.json["deleted"] == 1
        assert [each["key"] for each in printed.json["orphans"]] == ["0eorphan"]
        assert keys(office) == ["0afailed", "0bquarantine", "0cincoming", "0dretry", "0fyoung"]
        assert office("spool", "sweep").out == "deleted: 0 (0B)\n"

    def test_keeps_what_a_running_stage_has_in_hand(self, office: Office) -> None:
        """Over the embedded broker; a stage that was killed has its messages in hand, too."""
        office.put("a1", queue="incoming", payload=large("0ainhand"))
        blob(office, "0ainhand")
        blob(office, "0borphan")

        async def sweep_meanwhile() -> None:
            broker = office.broker()
            await broker.open()
            deliveries = singly(broker.consume("incoming", 10))
            taken = await anext(deliveries)
            assert (await broker.depths(["incoming"]))["incoming"] == 0
            printed = await asyncio.to_thread(office, "spool", "sweep")
            assert printed.out.endswith(f"deleted: 1 ({len(RAW)}B)\n")
            await broker.settle(taken)
            await deliveries.aclose()
            await broker.close()

        asyncio.run(sweep_meanwhile())
        assert keys(office) == ["0ainhand"]
        assert office("spool", "sweep", "--json").json["deleted"] == 1

    def test_a_dry_run_shows_and_deletes_nothing(self, office: Office) -> None:
        assert office("topology", "declare").status == 0
        blob(office, "0aorphan")
        blob(office, "0byoung", 1)
        printed = office("spool", "sweep", "--dry-run")
        assert "0aorphan" in printed.out
        assert "0byoung" not in printed.out
        assert printed.out.endswith(f"to be deleted: 1 ({len(RAW)}B)\n")
        found = office("spool", "sweep", "--dry-run", "--json").json
        assert (found["deleted"], len(found["orphans"])) == (0, 1)
        assert keys(office) == ["0aorphan", "0byoung"]

    @pytest.mark.parametrize(
        ("id_", "body"),
        [
            ("junk", b"\xc1 damaged " + envelope("0akept")[:-20]),
            ("newer", b"\x99\x7f" + envelope("0akept")[2:]),
            ("bundle", wire.bundle([("other", envelope("0aother")), ("id", envelope("0akept"))])),
            ("0ake", b"\xc1nothing of it is left"),
            ("0ak", b""),
        ],
    )
    def test_what_cannot_be_read_keeps_every_blob_that_it_may_mean(
        self, office: Office, id_: str, body: bytes
    ) -> None:
        office.put(id_, queue="quarantine", body=body)
        blob(office, "0akept")
        blob(office, "0borphan")
        assert office("spool", "sweep", "--json").json["deleted"] == 1
        assert keys(office) == ["0akept"]

    def test_what_cannot_be_deleted_or_looked_at_keeps_no_other(self, office: Office) -> None:
        assert office("topology", "declare").status == 0
        for key in ("0aorphan", "0bfolder", "0corphan"):
            blob(office, key)
        folder, loop = office.data / "spool/0b/folder", office.data / "spool/0b/loop"
        folder.unlink()
        folder.mkdir()
        os.utime(folder, (0, 0))
        loop.symlink_to(loop)
        for command in (("spool", "sweep", "--dry-run"), ("spool", "list")):
            printed = office(*command)
            assert printed.status == 1
            assert "0aorphan" in printed.out
            assert "0bloop: the spool cannot be used: Too many levels" in printed.err
        printed = office("spool", "sweep", "--json")
        assert (printed.status, printed.json["deleted"]) == (1, 2)
        assert [line.partition(":")[0] for line in printed.err.splitlines()[:2]] == [
            "0bloop",
            "0bfolder",
        ]
        assert "2 could not be swept; all others were" in printed.err
        loop.unlink()
        assert keys(office) == ["0bfolder"]

    def test_a_draft_that_cannot_be_deleted_keeps_no_blob(self, office: Office) -> None:
        assert office("topology", "declare").status == 0
        blob(office, "0aorphan")
        (office.data / "spool/tmp/folder/x").mkdir(parents=True)
        os.utime(office.data / "spool/tmp/folder", (0, 0))
        printed = office("spool", "sweep")
        assert (printed.status, printed.out.splitlines()[-1]) == (1, f"deleted: 1 ({len(RAW)}B)")
        assert "tmp: the spool cannot be used: " in printed.err
        assert keys(office) == ["tmp/folder"]

    def test_poll_jobs_keep_nothing(self, office: Office) -> None:
        job = wire.encode(Envelope("", "sales", Poll(), FIRST_SEEN))

        async def publish() -> None:
            broker = office.broker()
            await broker.open()
            await broker.publish(Send("poll", job, ""))
            await broker.close()

        asyncio.run(publish())
        blob(office, "0aorphan")
        assert office("spool", "sweep", "--json").json["deleted"] == 1

    def test_refuses_where_not_all_queues_are_there(self, office: Office) -> None:
        blob(office, "0aorphan")
        printed = office("spool", "sweep", "--force")
        assert (printed.status, printed.out) == (1, "")
        assert f"there is no {office.data / 'queue.db'}" in printed.err
        assert keys(office) == ["0aorphan"]
        assert not (office.data / "queue.db").exists()

    @pytest.mark.parametrize(
        ("age", "said"),
        [
            ("5d", "expected 6d at least, which is retry.give_up_after and a day"),
            ("100", "expected a duration with its unit"),
        ],
    )
    def test_refuses_what_is_too_young(self, office: Office, age: str, said: str) -> None:
        printed = office("spool", "sweep", "--older-than", age)
        assert (printed.status, printed.out) == (2, "")
        assert said in printed.err

    def test_the_age_follows_from_how_long_messages_are_retried(self, office: Office) -> None:
        assert office("topology", "declare").status == 0
        text = office.config.read_text()
        office.config.write_text(text + '\n[retry]\ngive_up_after = "10d"\n')
        blob(office, "0ayoung", 11)
        blob(office, "0bold", 13)
        assert office("spool", "sweep", "--json").json["deleted"] == 1
        assert keys(office) == ["0ayoung"]
        assert office("spool", "sweep", "--older-than", "11d", "--json").json["deleted"] == 1
