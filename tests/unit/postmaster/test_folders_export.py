"""``export`` and ``drop`` of a folder: byte for byte, and for good."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.postmaster import folders
from shared.errors import SpoolMissing
from shared.message import Spooled
from tests.stewards import back
from tests.unit.postmaster.conftest import RAW, Office, addressed


class TestExport:
    def test_to_standard_output_byte_for_byte(self, office: Office) -> None:
        office.put("a1")
        command = [sys.executable, "-m", "services", "--config", str(office.config)]
        done = subprocess.run([*command, "failed", "export", "a1"], capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, RAW, b"")

    def test_to_a_file_that_only_its_owner_reads(self, office: Office, tmp_path: Path) -> None:
        office.put("a1")
        target = tmp_path / "a1.eml"
        printed = office("failed", "export", "a1", "-o", str(target), "--json")
        assert printed.json == {"bytes": len(RAW), "file": str(target)}
        assert target.read_bytes() == RAW
        assert target.stat().st_mode & 0o777 == 0o600

    def test_from_the_spool(self, office: Office, tmp_path: Path) -> None:
        data = RAW + b"x" * 1_000_000
        office.put("a1", payload=addressed(office.spooled("0a1b2c3d", data)))
        assert office("failed", "export", "a1", "-o", str(tmp_path / "x")).status == 0
        assert (tmp_path / "x").read_bytes() == data

    def test_what_is_no_envelope_is_exported_as_it_is(self, office: Office, tmp_path: Path) -> None:
        office.put("a1", queue="quarantine", body=b"\xc1junk")
        assert office("quarantine", "export", "a1", "-o", str(tmp_path / "x")).status == 0
        assert (tmp_path / "x").read_bytes() == b"\xc1junk"

    def test_never_overwrites(self, office: Office, tmp_path: Path) -> None:
        office.put("a1")
        target = tmp_path / "x"
        target.write_text("precious")
        printed = office("failed", "export", "a1", "-o", str(target))
        assert (printed.status, printed.err) == (1, f"Error: cannot write {target}: File exists\n")
        assert target.read_text() == "precious"

    def test_leaves_no_half_a_file(self, office: Office, tmp_path: Path) -> None:
        raw = office.spooled("0a1b2c3d", RAW)
        asyncio.run(office.spool.delete("0a1b2c3d"))
        office.put("a1", payload=addressed(raw))
        printed = office("failed", "export", "a1", "-o", str(tmp_path / "x"))
        assert printed.status == 1
        assert printed.err == (
            "pop3-connector: the spool has no blob '0a1b2c3d'."
            " Its raw message is gone from the spool; was the spool cleared or moved?\n"
        )
        assert not (tmp_path / "x").exists()

    def test_an_envelope_whose_key_no_blob_can_have(self, office: Office, tmp_path: Path) -> None:
        office.put("a1", payload=addressed(Spooled("../../\x1betc", 4, b"A: b\r\n\r\n")))
        printed = office("failed", "export", "a1", "-o", str(tmp_path / "x"))
        assert (printed.status, printed.out) == (1, "")
        assert printed.err == (
            "Error: nothing to export: its envelope refers to a blob '../../\\x1betc',"
            " and none can have such a key\n"
        )
        assert not (tmp_path / "x").exists()

    def test_into_a_folder_a_file_for_each(self, office: Office, tmp_path: Path) -> None:
        office.put("a1")
        office.put("a1", reason="another part of it")
        office.put("../x\n", reason="from a stranger")
        printed = office("failed", "export", "--all", "-o", str(tmp_path), "--json")
        assert printed.json == {"exported": 2, "bytes": 2 * len(RAW), "folder": str(tmp_path)}
        files = sorted(tmp_path.glob("*.eml"))
        assert [file.read_bytes() for file in files] == [RAW, RAW]
        assert tmp_path / "a1.eml" in files
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}

    def test_into_a_folder_what_can_be_written(self, office: Office, tmp_path: Path) -> None:
        office.spooled("ffff", RAW)
        office.put("a1")
        office.put("b2")
        office.put("c3", payload=addressed(Spooled("0a1b2c3d", 4, b"A: b\r\n\r\n")))
        (tmp_path / "a1.eml").write_text("precious")
        printed = office("failed", "export", "a1", "b2", "c3", "-o", str(tmp_path))
        assert (printed.status, printed.out) == (
            1, f"exported: 1, bytes: {len(RAW)}, folder: {tmp_path}\n",
        )  # fmt: skip
        assert "a1: cannot write" in printed.err
        assert "c3: the spool has no blob '0a1b2c3d'" in printed.err
        assert "2 of 3 not exported" in printed.err
        assert (tmp_path / "a1.eml").read_text() == "precious"

    def test_several_need_a_folder(self, office: Office, tmp_path: Path) -> None:
        office.put("a1")
        printed = office("failed", "export", "--all", "-o", str(tmp_path / "x"))
        assert printed.status == 2
        assert "pass -o FOLDER" in printed.err

    def test_json_needs_a_file_for_the_bytes(self, office: Office) -> None:
        office.put("a1")
        assert office("failed", "export", "a1", "--json").status == 2


class TestDrop:
    def test_deletes_a_message_and_its_blob(self, office: Office) -> None:
        office.put("a1", payload=addressed(office.spooled("0a1b2c3d", RAW)))
        office.put("b2")
        assert office("failed", "drop", "a1", "--yes").out == "dropped: 1\n"
        assert office.ids("pickup.failed") == ["b2"]

        async def read() -> list[bytes]:
            return [chunk async for chunk in office.spool.chunks("0a1b2c3d")]

        with pytest.raises(SpoolMissing):
            asyncio.run(read())

    def test_an_envelope_whose_key_no_blob_can_have(self, office: Office) -> None:
        office.put("a1", payload=addressed(Spooled("../../etc", 4, b"A: b\r\n\r\n")))
        printed = office("failed", "drop", "a1", "--yes")
        assert (printed.status, printed.out) == (0, "dropped: 1\n")
        assert printed.err == (
            "only the message in the queue can be dropped: its envelope refers to a blob"
            " '../../etc', and none can have such a key\n"
        )
        assert office.ids("pickup.failed") == []

    def test_a_spool_that_does_not_let_go(self, office: Office) -> None:
        office.put("a1", payload=addressed(office.spooled("0a1b2c3d", RAW)))
        blob = office.data / "spool/0a/1b2c3d"
        blob.unlink()
        blob.mkdir()
        printed = office("failed", "drop", "a1", "--yes", "--json")
        assert (printed.status, printed.json) == (1, {"dropped": 1})
        assert "the message is gone from its queue, but not from the spool: 0a1b2c3d" in printed.err
        assert printed.err.endswith("; spool sweep deletes it later\n")
        assert office.ids("pickup.failed") == []

    def test_asks_first_and_refuses_where_nobody_answers(self, office: Office) -> None:
        office.put("a1")
        command = [sys.executable, "-m", "services", "--config", str(office.config)]
        done = subprocess.run(
            [*command, "failed", "drop", "a1"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert "--yes" in done.stderr
        assert office.ids("pickup.failed") == ["a1"]

    def test_no_blob_goes_of_a_message_that_stays(
        self, office: Office, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While the person thinks, another one sends it round again."""
        office.put("a1", payload=addressed(office.spooled("0a1b2c3d", RAW)))

        def meanwhile(*_: object, **__: object) -> bool:
            steward = office.steward()
            assert steward.move("pickup.failed", ["a1"], back) == 1
            steward.close()
            return True

        monkeypatch.setattr(folders, "_confirm", meanwhile)
        printed = office("failed", "drop", "a1")
        assert (printed.status, printed.out) == (1, "dropped: 0\n")
        assert "1 of 1 messages had been moved or dropped meanwhile" in printed.err
        assert (office.data / "spool/0a/1b2c3d").read_bytes() == RAW
        assert office.ids("incoming") == ["a1"]

    @pytest.mark.parametrize(("answer", "left"), [("n", ["a1"]), ("y", [])])
    def test_does_what_the_person_answers(
        self, office: Office, answer: str, left: list[str]
    ) -> None:
        office.put("a1")
        primary, secondary = os.openpty()
        command = [sys.executable, "-m", "services", "--config", str(office.config)]
        with subprocess.Popen(
            [*command, "failed", "drop", "a1"],
            stdin=secondary,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            os.write(primary, answer.encode() + b"\n")
            process.wait(30)
        os.close(primary)
        os.close(secondary)
        assert office.ids("pickup.failed") == left

    def test_as_json(self, office: Office) -> None:
        office.put("a1")
        assert json.loads(office("failed", "drop", "a1", "--yes", "--json").out) == {"dropped": 1}
