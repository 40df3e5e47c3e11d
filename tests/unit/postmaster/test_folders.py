"""``failed`` and ``quarantine``: what an operator sees there, and does about it."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared import wire
from shared.errors import SpoolMissing
from shared.message import Addressed, Fetched, Spooled
from tests.unit.postmaster.conftest import RAW, Office, addressed, fetched

HOSTILE = "[red]sale[/red] \x1b[2J\u202e\r\nX: y"


class TestList:
    def test_of_nothing(self, office: Office) -> None:
        printed = office("failed", "list")
        assert (printed.status, printed.out) == (0, "Failed Mail is empty.\n")
        assert office("quarantine", "list").out == "Quarantine is empty.\n"
        assert office("failed", "list", "--json").json == []

    def test_has_all_failed_queues_and_no_others(self, office: Office) -> None:
        for queue in ("pickup.failed", "incoming.failed", "parsed.failed", "quarantine", "pickup"):
            office.park(f"in-{queue}", queue=queue)
        found = office("failed", "list", "--json").json
        assert [(m["id"], m["queue"]) for m in found] == [
            (f"in-{queue}", queue)
            for queue in ("incoming.failed", "parsed.failed", "pickup.failed")
        ]
        assert [m["id"] for m in office("quarantine", "list", "--json").json] == ["in-quarantine"]

    def test_says_what_a_message_is_and_why_it_is_there(self, office: Office) -> None:
        office.park("0123456789abcdef")
        lines = office("failed", "list").out.splitlines()
        assert lines[0].split() == [
            "id",
            "account",
            "from",
            "subject",
            "reason",
            "since",
            "attempts",
        ]
        row = lines[2]
        for cell in (
            "0123456789ab ",
            "sales",
            "ann@example.net",
            "hello",
            "550 5.1.1 no such user",
        ):
            assert cell in row
        assert "2023-11-14 22:13Z" in row
        assert "0123456789abc" not in row

    def test_is_a_line_for_each_message_where_no_terminal_is(self, office: Office) -> None:
        for id_ in ("a1", "b2"):
            office.park(id_, reason="x" * 500)
        assert len(office("failed", "list").out.splitlines()) == 4

    def test_hostile_text_is_escaped_for_a_terminal_and_kept_for_programs(
        self, office: Office
    ) -> None:
        office.park("a1", subject=HOSTILE)
        for command in (("list",), ("show", "a1")):
            shown = office("failed", *command).out
            assert "[red]sale[/red]" in shown
            assert "\\x1b[2J" in shown
            for control in "\x1b\u202e\r":
                assert control not in shown
        assert office("failed", "list", "--json").json[0]["subject"] == HOSTILE

    def test_looking_takes_nothing_away(self, office: Office) -> None:
        office.park("a1")
        for _ in range(30):
            office("failed", "list")
        assert office.ids("pickup.failed") == ["a1"]

    def test_a_reader_that_has_seen_enough(self, office: Office) -> None:
        office.park("a1")
        read, write = os.pipe()
        os.close(read)
        command = [sys.executable, "-m", "services", "--config", str(office.config)]
        done = subprocess.run(
            [*command, "failed", "list"], stdout=write, stderr=subprocess.PIPE, text=True
        )
        os.close(write)
        assert (done.returncode, done.stderr) == (1, "")


class TestShow:
    def test_by_the_beginning_of_the_id(self, office: Office) -> None:
        office.park("abc123")
        office.park("abd456", reason="quota")
        printed = office("failed", "show", "abc")
        assert printed.status == 0
        for line in (
            "id:             abc123",
            "reason:         550 5.1.1 no such user",
            "attempts:       3",
            "recipients:     sales@corp.example, info@corp.example",
            "uidl:           uidl-1",
            "passed:         fetcher at 2023-11-14T22:13:20+00:00",
            "From: Ann <ann@example.net>",
            "Subject: hello",
        ):
            assert line in printed.out.splitlines()
        assert "body" not in printed.out

    def test_its_header_cannot_reach_the_terminal(self, office: Office) -> None:
        raw = b"Subject: \x1b]0;owned\x07 \xff\rX: y\n\nbody"
        office.park("abc", queue="incoming.failed", payload=fetched(raw))
        lines = office("failed", "show", "abc").out.splitlines()
        assert lines[-2:] == ["Subject: \\x1b]0;owned\\x07 \ufffd", "X: y"]

    def test_as_json(self, office: Office) -> None:
        office.park("abc123")
        (found,) = office("failed", "show", "abc123", "--json").json
        assert found["header"] == "From: Ann <ann@example.net>\nSubject: hello"
        assert found["envelope"]["recipients"] == ["sales@corp.example", "info@corp.example"]
        assert [hop["stage"] for hop in found["envelope"]["trail"]] == ["fetcher", "parser"]

    def test_a_whole_id_wins_over_longer_ones(self, office: Office) -> None:
        office.park("abc")
        office.park("abcd")
        assert [m["id"] for m in office("failed", "show", "abc", "--json").json] == ["abc"]

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (
                "zz",
                "pop3-connector: no message 'zz' in Failed Mail; see: pop3-connector failed list",
            ),
            (
                "ab",
                "pop3-connector: 2 messages in Failed Mail begin with 'ab'; give more of the id",
            ),
        ],
    )
    def test_an_id_that_names_no_one_message(self, office: Office, given: str, said: str) -> None:
        office.park("abc")
        office.park("abd")
        printed = office("failed", "show", given)
        assert (printed.status, printed.out, printed.err) == (1, "", said + "\n")

    def test_bytes_that_are_no_envelope(self, office: Office) -> None:
        office.park("junk", queue="quarantine", body=b"\xc1junk", reason="not msgpack of ours")
        printed = office("quarantine", "show", "junk")
        assert "reason:         not msgpack of ours" in printed.out
        assert "no envelope of this version" in printed.out

    def test_parts_for_different_recipients_have_one_id(self, office: Office) -> None:
        office.park("abc")
        office.park("abc", reason="another reason")
        reasons = [m["reason"] for m in office("failed", "show", "abc", "--json").json]
        assert reasons == ["550 5.1.1 no such user", "another reason"]


class TestRequeue:
    def test_sends_a_message_round_again_as_if_new(self, office: Office) -> None:
        office.park("abc123")
        office.park("def456")
        printed = office("failed", "requeue", "abc")
        assert (printed.status, printed.out) == (0, "requeued: 1\n")
        assert office.ids("pickup.failed") == ["def456"]
        (message,) = office.queue("pickup")
        envelope = wire.decode(message.body, Addressed)
        assert (envelope.id, envelope.attempt, envelope.first_failure) == ("abc123", 0, None)
        assert envelope.payload == addressed()

    def test_all_go_where_they_came_from(self, office: Office) -> None:
        office.park("a1")
        office.park("b2")
        office.park("c3", queue="incoming.failed", payload=fetched())
        assert office("failed", "requeue", "--all", "--json").json == {"requeued": 3}
        assert (office.ids("pickup"), office.ids("incoming")) == (["a1", "b2"], ["c3"])
        assert office("failed", "list", "--json").json == []

    def test_the_queue_says_where_to_if_the_message_does_not(self, office: Office) -> None:
        office.park("a1", inbox="nowhere")
        assert office("failed", "requeue", "a1").status == 0
        assert office.ids("pickup") == ["a1"]

    def test_nothing_moves_if_one_id_is_wrong(self, office: Office) -> None:
        office.park("a1")
        assert office("failed", "requeue", "a1", "zz").status == 1
        assert office.ids("pickup.failed") == ["a1"]

    @pytest.mark.parametrize("arguments", [(), ("--all", "a1")])
    def test_takes_either_ids_or_all(self, office: Office, arguments: tuple[str, ...]) -> None:
        office.park("a1")
        printed = office("failed", "requeue", *arguments)
        assert printed.status == 2
        assert "expected either IDs or --all" in printed.err
        assert office.ids("pickup.failed") == ["a1"]

    def test_the_quarantine_releases(self, office: Office) -> None:
        office.park("a1", queue="quarantine", payload=fetched(), inbox="incoming")
        assert office("quarantine", "release", "a1").out == "released: 1\n"
        assert office.ids("quarantine") == []
        (message,) = office.queue("incoming")
        assert wire.decode(message.body, Fetched).payload == fetched()


class TestExport:
    def test_to_standard_output_byte_for_byte(self, office: Office) -> None:
        office.park("a1")
        command = [sys.executable, "-m", "services", "--config", str(office.config)]
        done = subprocess.run([*command, "failed", "export", "a1"], capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, RAW, b"")

    def test_to_a_file_that_only_its_owner_reads(self, office: Office, tmp_path: Path) -> None:
        office.park("a1")
        target = tmp_path / "a1.eml"
        printed = office("failed", "export", "a1", "-o", str(target), "--json")
        assert printed.json == {"bytes": len(RAW), "file": str(target)}
        assert target.read_bytes() == RAW
        assert target.stat().st_mode & 0o777 == 0o600

    def test_from_the_spool(self, office: Office, tmp_path: Path) -> None:
        data = RAW + b"x" * 1_000_000
        office.park("a1", payload=addressed(office.spooled("0a1b2c3d", data)))
        assert office("failed", "export", "a1", "-o", str(tmp_path / "x")).status == 0
        assert (tmp_path / "x").read_bytes() == data

    def test_what_is_no_envelope_is_exported_as_it_is(self, office: Office, tmp_path: Path) -> None:
        office.park("a1", queue="quarantine", body=b"\xc1junk")
        assert office("quarantine", "export", "a1", "-o", str(tmp_path / "x")).status == 0
        assert (tmp_path / "x").read_bytes() == b"\xc1junk"

    def test_never_overwrites(self, office: Office, tmp_path: Path) -> None:
        office.park("a1")
        target = tmp_path / "x"
        target.write_text("precious")
        printed = office("failed", "export", "a1", "-o", str(target))
        assert (printed.status, printed.err) == (1, f"Error: cannot write {target}: File exists\n")
        assert target.read_text() == "precious"

    def test_leaves_no_half_a_file(self, office: Office, tmp_path: Path) -> None:
        raw = office.spooled("0a1b2c3d", RAW)
        asyncio.run(office.spool.delete("0a1b2c3d"))
        office.park("a1", payload=addressed(raw))
        printed = office("failed", "export", "a1", "-o", str(tmp_path / "x"))
        assert printed.status == 1
        assert printed.err == (
            "pop3-connector: the spool has no blob '0a1b2c3d'."
            " Its raw message is gone from the spool; was the spool cleared or moved?\n"
        )
        assert not (tmp_path / "x").exists()

    def test_an_envelope_whose_key_no_blob_can_have(self, office: Office, tmp_path: Path) -> None:
        office.park("a1", payload=addressed(Spooled("../../\x1betc", 4, b"A: b\r\n\r\n")))
        printed = office("failed", "export", "a1", "-o", str(tmp_path / "x"))
        assert (printed.status, printed.out) == (1, "")
        assert printed.err == (
            "Error: nothing to export: its envelope refers to a blob '../../\\x1betc',"
            " and none can have such a key\n"
        )
        assert not (tmp_path / "x").exists()

    def test_json_needs_a_file_for_the_bytes(self, office: Office) -> None:
        office.park("a1")
        assert office("failed", "export", "a1", "--json").status == 2


class TestDrop:
    def test_deletes_a_message_and_its_blob(self, office: Office) -> None:
        office.park("a1", payload=addressed(office.spooled("0a1b2c3d", RAW)))
        office.park("b2")
        assert office("failed", "drop", "a1", "--yes").out == "dropped: 1\n"
        assert office.ids("pickup.failed") == ["b2"]

        async def read() -> list[bytes]:
            return [chunk async for chunk in office.spool.chunks("0a1b2c3d")]

        with pytest.raises(SpoolMissing):
            asyncio.run(read())

    def test_an_envelope_whose_key_no_blob_can_have(self, office: Office) -> None:
        office.park("a1", payload=addressed(Spooled("../../etc", 4, b"A: b\r\n\r\n")))
        printed = office("failed", "drop", "a1", "--yes")
        assert (printed.status, printed.out) == (0, "dropped: 1\n")
        assert printed.err == (
            "only the message in the queue can be dropped: its envelope refers to a blob"
            " '../../etc', and none can have such a key\n"
        )
        assert office.ids("pickup.failed") == []

    def test_a_spool_that_does_not_let_go(self, office: Office) -> None:
        office.park("a1", payload=addressed(office.spooled("0a1b2c3d", RAW)))
        blob = office.data / "spool/0a/1b2c3d"
        blob.unlink()
        blob.mkdir()
        printed = office("failed", "drop", "a1", "--yes", "--json")
        assert (printed.status, printed.json) == (1, {"dropped": 1})
        assert "the message is gone from its queue, but not from the spool: 0a1b2c3d" in printed.err
        assert printed.err.endswith("; spool sweep deletes it later\n")
        assert office.ids("pickup.failed") == []

    def test_asks_first_and_refuses_where_nobody_answers(self, office: Office) -> None:
        office.park("a1")
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

    @pytest.mark.parametrize(("answer", "left"), [("n", ["a1"]), ("y", [])])
    def test_does_what_the_person_answers(
        self, office: Office, answer: str, left: list[str]
    ) -> None:
        office.park("a1")
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
        office.park("a1")
        assert json.loads(office("failed", "drop", "a1", "--yes", "--json").out) == {"dropped": 1}
