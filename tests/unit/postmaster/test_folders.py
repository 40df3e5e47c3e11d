"""``failed`` and ``quarantine``: what an operator sees there, and does about it."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.postmaster import folders
from shared import wire
from shared.errors import SpoolMissing
from shared.message import Envelope, Fetched, Spooled
from tests.ids import id_of
from tests.stewards import back
from tests.unit.postmaster.conftest import RAW, Office, addressed, fetched

HOSTILE = "[red]sale[/red] \x1b[2J\u202e\r\nX: y"


class TestList:
    def test_of_nothing(self, office: Office) -> None:
        assert office("topology", "declare").status == 0
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

    def test_no_more_than_the_first_or_the_last(self, office: Office) -> None:
        for day, queue in enumerate(("parsed.failed", "pickup.failed", "parsed.failed"), 10):
            office.park(f"{day}", queue=queue, failed_at=f"2023-11-{day}T00:00:00+00:00")
        office.park("old", queue="pickup.failed")

        def listed(*options: str) -> list[str]:
            return [m["id"] for m in office("failed", "list", *options, "--json").json]

        assert listed() == ["10", "12", "11", "old"]
        assert listed("--limit", "3") == ["10", "12", "11"]
        assert listed("--newest") == ["12", "11", "10", "old"]
        assert listed("--newest", "--limit", "2") == ["12", "11"]
        assert listed("--limit", "1", "--reason", "no such") == ["10"]
        assert len(office("failed", "list", "--limit", "1").out.splitlines()) == 3
        refused = office("failed", "list", "--limit", "0")
        assert (refused.status, "Invalid value for '--limit'" in refused.err) == (2, True)

    def test_newest_are_no_more_than_fit(
        self, office: Office, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(folders, "NEWEST", 2)
        for day in (10, 11, 12):
            office.park(f"{day}", failed_at=f"2023-11-{day}T00:00:00+00:00")
        printed = office("failed", "list", "--newest", "--json")
        assert [m["id"] for m in printed.json] == ["12", "11"]

    def test_json_is_one_array_whose_elements_come_one_by_one(self, office: Office) -> None:
        office.park("a1")
        office.park("b2", subject="two\nlines")
        printed = office("failed", "list", "--json")
        assert printed.out == json.dumps(printed.json, indent=2) + "\n"

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
        assert lines[-1] == "Subject: \\x1b]0;owned\\x07 \ufffd\\rX: y"

    def test_its_header_is_found_below_blank_lines_and_past_doubled_cr(
        self, office: Office
    ) -> None:
        raw = b"\r\n\r\nFrom: a@b\r\r\nSubject: hello\r\n\r\nbody"
        office.park("abc", queue="incoming.failed", payload=fetched(raw))
        (found,) = office("failed", "show", "abc", "--json").json
        assert found["header"] == "From: a@b\nSubject: hello"

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


def waiting(office: Office, queue: str = "incoming") -> list[Envelope[Fetched]]:
    """Return the messages that wait for the parser."""
    return [wire.decode(message.body, Fetched) for message in office.queue(queue)]


class TestRequeue:
    def test_sends_a_message_round_again_as_if_new(self, office: Office) -> None:
        office.park("abc123")
        office.park("def456")
        printed = office("failed", "requeue", "abc")
        assert (printed.status, printed.out) == (0, "requeued: 1\n")
        assert office.ids("pickup.failed") == ["def456"]
        (envelope,) = waiting(office)
        assert (envelope.id, envelope.attempt, envelope.first_failure) == (id_of("abc123"), 0, None)
        assert envelope.payload == replace(fetched(), summary=addressed().summary, released=True)

    def test_all_are_directed_anew_whatever_stage_gave_them_up(self, office: Office) -> None:
        office.park("a1")
        office.park("b2", inbox="nowhere")
        office.park("c3", queue="incoming.failed", payload=fetched())
        assert office("failed", "requeue", "--all", "--json").json == {"requeued": 3}
        assert sorted(office.ids("incoming")) == ["a1", "b2", "c3"]
        assert office("failed", "list", "--json").json == []

    def test_nothing_moves_if_one_id_is_wrong(self, office: Office) -> None:
        office.park("a1")
        assert office("failed", "requeue", "a1", "zz").status == 1
        assert office.ids("pickup.failed") == ["a1"]

    @pytest.mark.parametrize("verb", ["requeue", "drop", "export"])
    @pytest.mark.parametrize(
        "arguments", [(), ("--all", "a1"), ("a1", "--account", "sales"), ("a1", "--older", "1s")]
    )
    def test_takes_either_ids_or_all_or_filters(
        self, office: Office, verb: str, arguments: tuple[str, ...]
    ) -> None:
        office.park("a1")
        printed = office("failed", verb, *arguments)
        assert printed.status == 2
        assert "expected either IDs or --all, or filters" in printed.err
        assert office.ids("pickup.failed") == ["a1"]

    @pytest.mark.parametrize(
        ("option", "value", "said"),
        [
            ("--account", "", "an empty one would mean all"),
            ("--reason", " ", "an empty one would mean all"),
            ("--stage", "postmaster", "is not one of"),
            ("--older", "2", "expected a duration with its unit"),
        ],
    )
    def test_a_filter_that_says_nothing_is_refused(
        self, office: Office, option: str, value: str, said: str
    ) -> None:
        office.park("a1")
        for verb in ("requeue", "drop", "export", "list"):
            printed = office("failed", verb, option, value)
            assert (printed.status, said in printed.err) == (2, True), printed
        assert office.ids("pickup.failed") == ["a1"]

    @pytest.mark.parametrize(
        ("filters", "chosen"),
        [
            (("--account", "sales"), ["a1", "b2", "c3"]),
            (("--account", "info"), ["d4"]),
            (("--account", "sal"), []),
            (("--reason", "NO SUCH"), ["a1", "d4"]),
            (("--reason", "5.1.1"), ["a1", "d4"]),
            (("--stage", "parser"), ["c3"]),
            (("--older", "2d"), ["b2"]),
            (("--account", "sales", "--reason", "user"), ["a1"]),
            (("--account", "sales", "--all"), ["a1", "b2", "c3"]),
        ],
    )
    @pytest.mark.parametrize("verb", ["list", "requeue", "drop", "export"])
    def test_filters_say_which(
        self, office: Office, tmp_path: Path, verb: str, filters: tuple[str, ...], chosen: list[str]
    ) -> None:
        lately = datetime.now(UTC).isoformat()
        office.park("a1", failed_at=lately)
        office.park("b2", reason="mailbox full", failed_at="2023-11-20T00:00:00+00:00")
        office.park("c3", queue="parsed.failed", stage="parser", reason="a loop", failed_at=lately)
        office.park("d4", account="info")
        if verb == "list":
            given = [f for f in filters if f != "--all"]
            found = [m["id"] for m in office("failed", "list", *given, "--json").json]
            assert sorted(found) == chosen
            return
        more = {"requeue": (), "drop": ("--yes",), "export": ("-o", str(tmp_path))}[verb]
        done = office("failed", verb, *filters, *more)
        none = (
            "pop3-connector: no message in Failed Mail matches; see: pop3-connector failed list\n"
        )
        assert (done.status, done.err) == ((0, "") if chosen else (1, none))
        if verb == "export":
            assert sorted(path.stem for path in tmp_path.glob("*.eml")) == chosen
        else:
            left = office("failed", "list", "--json").json
            assert sorted(m["id"] for m in left) == sorted({"a1", "b2", "c3", "d4"} - {*chosen})
            assert sorted(office.ids("incoming")) == (chosen if verb == "requeue" else [])

    @pytest.mark.parametrize(
        ("verb", "said"), [(("requeue",), "requeued: 1\n"), (("drop", "--yes"), "dropped: 1\n")]
    )
    def test_of_the_parts_of_a_message_a_filter_means_those_it_says(
        self, office: Office, verb: tuple[str, ...], said: str
    ) -> None:
        office.park("a1", reason="mailbox full")
        office.park("a1", reason="no such user")
        assert office("failed", *verb, "--reason", "no such").out == said
        assert [m["reason"] for m in office("failed", "list", "--json").json] == ["mailbox full"]

    @pytest.mark.parametrize("folder", ["failed", "quarantine"])
    def test_all_of_nothing_is_done_and_a_filter_of_nothing_is_not(
        self, office: Office, tmp_path: Path, folder: str
    ) -> None:
        again = "requeue" if folder == "failed" else "release"
        assert office("topology", "declare").status == 0
        for verb in ((again,), ("drop",), ("export", "-o", str(tmp_path))):
            assert office(folder, *verb, "--all").status == 0
            for options in (("--account", "nobody"), ("--account", "nobody", "--all")):
                printed = office(folder, *verb, *options)
                assert (printed.status, printed.out) == (1, "")
                assert "matches" in printed.err

    def test_says_which_it_could_not_send(self, office: Office) -> None:
        office.park("a1")
        office.park("b2", queue="quarantine", body=b"\xc1junk", inbox="nowhere")
        office.park("c3", queue="quarantine", payload=fetched(), inbox="incoming")
        assert office("failed", "requeue", "--all").status == 0
        printed = office("quarantine", "release", "--all")
        assert (printed.status, printed.out) == (1, "released: 1\n")
        assert "1 of 2 messages stayed" in printed.err
        assert office.ids("quarantine") == ["b2"]

    def test_to_somebody_else(self, office: Office) -> None:
        office.park("a1")
        more = ("--recipient", "ann@corp.example", "--destination", "default")
        assert office("failed", "requeue", "a1", *more).out == "requeued: 1\n"
        (envelope,) = waiting(office)
        assert envelope.requeue is not None
        assert envelope.requeue.recipients == ("ann@corp.example",)
        assert envelope.requeue.destination == "default"

    @pytest.mark.parametrize(
        ("option", "value", "said"),
        [
            ("--recipient", "ann corp", "expected a mailbox"),
            ("--recipient", "<ann@corp.example>", "expected a mailbox"),
            ("--recipient", "", "expected a mailbox"),
            ("--destination", "archive", "no such destination; there are: default"),
        ],
    )
    def test_to_nobody(self, office: Office, option: str, value: str, said: str) -> None:
        office.park("a1")
        printed = office("failed", "requeue", "a1", option, value)
        assert (printed.status, said in printed.err) == (2, True), printed
        assert office.ids("pickup.failed") == ["a1"]

    def test_its_past_is_shown_when_it_fails_again(self, office: Office) -> None:
        office.park("a1", failed_at="2023-11-14T22:20:00+00:00")
        office("failed", "requeue", "a1")
        (envelope,) = waiting(office)
        office.park("a1", body=wire.encode(envelope))
        shown = office("failed", "show", "a1").out
        assert "passed:         requeue at " in shown
        assert (
            "given up:       by the deliverer at 2023-11-14T22:20:00+00:00, after 3 tries"
            " since 2023-11-14T22:13:30+00:00: 550 5.1.1 no such user"
        ) in shown.splitlines()
        (found,) = office("failed", "show", "a1", "--json").json
        assert [past["attempts"] for past in found["envelope"]["given_up"]] == [3]

    def test_the_quarantine_releases(self, office: Office) -> None:
        office.park("a1", queue="quarantine", payload=fetched(), inbox="incoming")
        assert office("quarantine", "release", "a1").out == "released: 1\n"
        assert office.ids("quarantine") == []
        (envelope,) = waiting(office)
        assert envelope.payload == replace(fetched(), released=True)
        assert envelope.trail[-1].stage == "release"


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

    def test_into_a_folder_a_file_for_each(self, office: Office, tmp_path: Path) -> None:
        office.park("a1")
        office.park("a1", reason="another part of it")
        office.park("../x\n", reason="from a stranger")
        printed = office("failed", "export", "--all", "-o", str(tmp_path), "--json")
        assert printed.json == {"exported": 2, "bytes": 2 * len(RAW), "folder": str(tmp_path)}
        files = sorted(tmp_path.glob("*.eml"))
        assert [file.read_bytes() for file in files] == [RAW, RAW]
        assert tmp_path / "a1.eml" in files
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}

    def test_into_a_folder_what_can_be_written(self, office: Office, tmp_path: Path) -> None:
        office.spooled("ffff", RAW)
        office.park("a1")
        office.park("b2")
        office.park("c3", payload=addressed(Spooled("0a1b2c3d", 4, b"A: b\r\n\r\n")))
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
        office.park("a1")
        printed = office("failed", "export", "--all", "-o", str(tmp_path / "x"))
        assert printed.status == 2
        assert "pass -o FOLDER" in printed.err

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

    def test_no_blob_goes_of_a_message_that_stays(
        self, office: Office, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While the person thinks, another one sends it round again."""
        office.park("a1", payload=addressed(office.spooled("0a1b2c3d", RAW)))

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
