"""``list`` and ``show`` of ``failed`` and ``quarantine``: what an operator sees there."""

import json
import os
import subprocess
import sys

import pytest

from services.postmaster import folders
from tests.unit.postmaster.conftest import Office, fetched

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
            office.put(f"in-{queue}", queue=queue)
        found = office("failed", "list", "--json").json
        assert [(m["id"], m["queue"]) for m in found] == [
            (f"in-{queue}", queue)
            for queue in ("incoming.failed", "parsed.failed", "pickup.failed")
        ]
        assert [m["id"] for m in office("quarantine", "list", "--json").json] == ["in-quarantine"]

    def test_says_what_a_message_is_and_why_it_is_there(self, office: Office) -> None:
        office.put("0123456789abcdef")
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
            office.put(id_, reason="x" * 500)
        assert len(office("failed", "list").out.splitlines()) == 4

    def test_hostile_text_is_escaped_for_a_terminal_and_kept_for_programs(
        self, office: Office
    ) -> None:
        office.put("a1", subject=HOSTILE)
        for command in (("list",), ("show", "a1")):
            shown = office("failed", *command).out
            assert "[red]sale[/red]" in shown
            assert "\\x1b[2J" in shown
            for control in "\x1b\u202e\r":
                assert control not in shown
        assert office("failed", "list", "--json").json[0]["subject"] == HOSTILE

    def test_no_more_than_the_first_or_the_last(self, office: Office) -> None:
        for day, queue in enumerate(("parsed.failed", "pickup.failed", "parsed.failed"), 10):
            office.put(f"{day}", queue=queue, failed_at=f"2023-11-{day}T00:00:00+00:00")
        office.put("old", queue="pickup.failed")

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
            office.put(f"{day}", failed_at=f"2023-11-{day}T00:00:00+00:00")
        printed = office("failed", "list", "--newest", "--json")
        assert [m["id"] for m in printed.json] == ["12", "11"]

    def test_json_is_one_array_whose_elements_come_one_by_one(self, office: Office) -> None:
        office.put("a1")
        office.put("b2", subject="two\nlines")
        printed = office("failed", "list", "--json")
        assert printed.out == json.dumps(printed.json, indent=2) + "\n"

    def test_looking_takes_nothing_away(self, office: Office) -> None:
        office.put("a1")
        for _ in range(30):
            office("failed", "list")
        assert office.ids("pickup.failed") == ["a1"]

    def test_a_reader_that_has_seen_enough(self, office: Office) -> None:
        office.put("a1")
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
        office.put("abc123")
        office.put("abd456", reason="quota")
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
        office.put("abc", queue="incoming.failed", payload=fetched(raw))
        lines = office("failed", "show", "abc").out.splitlines()
        assert lines[-1] == "Subject: \\x1b]0;owned\\x07 \ufffd\\rX: y"

    def test_its_header_is_found_below_blank_lines_and_past_doubled_cr(
        self, office: Office
    ) -> None:
        raw = b"\r\n\r\nFrom: a@b\r\r\nSubject: hello\r\n\r\nbody"
        office.put("abc", queue="incoming.failed", payload=fetched(raw))
        (found,) = office("failed", "show", "abc", "--json").json
        assert found["header"] == "From: a@b\nSubject: hello"

    def test_as_json(self, office: Office) -> None:
        office.put("abc123")
        (found,) = office("failed", "show", "abc123", "--json").json
        assert found["header"] == "From: Ann <ann@example.net>\nSubject: hello"
        assert found["envelope"]["recipients"] == ["sales@corp.example", "info@corp.example"]
        assert [hop["stage"] for hop in found["envelope"]["trail"]] == ["fetcher", "parser"]

    def test_a_whole_id_wins_over_longer_ones(self, office: Office) -> None:
        office.put("abc")
        office.put("abcd")
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
        office.put("abc")
        office.put("abd")
        printed = office("failed", "show", given)
        assert (printed.status, printed.out, printed.err) == (1, "", said + "\n")

    def test_bytes_that_are_no_envelope(self, office: Office) -> None:
        office.put("junk", queue="quarantine", body=b"\xc1junk", reason="not msgpack of ours")
        printed = office("quarantine", "show", "junk")
        assert "reason:         not msgpack of ours" in printed.out
        assert "no envelope of this version" in printed.out

    def test_parts_for_different_recipients_have_one_id(self, office: Office) -> None:
        office.put("abc")
        office.put("abc", reason="another reason")
        reasons = [m["reason"] for m in office("failed", "show", "abc", "--json").json]
        assert reasons == ["550 5.1.1 no such user", "another reason"]
