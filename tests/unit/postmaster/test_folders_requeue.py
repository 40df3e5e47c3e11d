"""``failed requeue`` and ``quarantine release``: what is tried again, and what stays."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared import wire
from shared.message import Envelope, Fetched
from tests.ids import id_of
from tests.unit.postmaster.conftest import Office, addressed, fetched


def waiting(office: Office, queue: str = "incoming") -> list[Envelope[Fetched]]:
    """Return the messages that wait for the parser."""
    return [wire.decode(message.body, Fetched) for message in office.queue(queue)]


class TestRequeue:
    def test_sends_a_message_round_again_as_if_new(self, office: Office) -> None:
        office.put("abc123")
        office.put("def456")
        printed = office("failed", "requeue", "abc")
        assert (printed.status, printed.out) == (0, "requeued: 1\n")
        assert office.ids("pickup.failed") == ["def456"]
        (envelope,) = waiting(office)
        assert (envelope.id, envelope.attempt, envelope.first_failure) == (id_of("abc123"), 0, None)
        assert envelope.payload == replace(fetched(), summary=addressed().summary, released=True)

    def test_all_are_directed_anew_whatever_stage_gave_them_up(self, office: Office) -> None:
        office.put("a1")
        office.put("b2", inbox="nowhere")
        office.put("c3", queue="incoming.failed", payload=fetched())
        assert office("failed", "requeue", "--all", "--json").json == {"requeued": 3}
        assert sorted(office.ids("incoming")) == ["a1", "b2", "c3"]
        assert office("failed", "list", "--json").json == []

    def test_nothing_moves_if_one_id_is_wrong(self, office: Office) -> None:
        office.put("a1")
        assert office("failed", "requeue", "a1", "zz").status == 1
        assert office.ids("pickup.failed") == ["a1"]

    @pytest.mark.parametrize("verb", ["requeue", "drop", "export"])
    @pytest.mark.parametrize(
        "arguments", [(), ("--all", "a1"), ("a1", "--account", "sales"), ("a1", "--older", "1s")]
    )
    def test_takes_either_ids_or_all_or_filters(
        self, office: Office, verb: str, arguments: tuple[str, ...]
    ) -> None:
        office.put("a1")
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
        office.put("a1")
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
        office.put("a1", failed_at=lately)
        office.put("b2", reason="mailbox full", failed_at="2023-11-20T00:00:00+00:00")
        office.put("c3", queue="parsed.failed", stage="parser", reason="a loop", failed_at=lately)
        office.put("d4", account="info")
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
        office.put("a1", reason="mailbox full")
        office.put("a1", reason="no such user")
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
        office.put("a1")
        office.put("b2", queue="quarantine", body=b"\xc1junk", inbox="nowhere")
        office.put("c3", queue="quarantine", payload=fetched(), inbox="incoming")
        assert office("failed", "requeue", "--all").status == 0
        printed = office("quarantine", "release", "--all")
        assert (printed.status, printed.out) == (1, "released: 1\n")
        assert "1 of 2 messages stayed" in printed.err
        assert office.ids("quarantine") == ["b2"]

    def test_to_somebody_else(self, office: Office) -> None:
        office.put("a1")
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
        office.put("a1")
        printed = office("failed", "requeue", "a1", option, value)
        assert (printed.status, said in printed.err) == (2, True), printed
        assert office.ids("pickup.failed") == ["a1"]

    def test_its_past_is_shown_when_it_fails_again(self, office: Office) -> None:
        office.put("a1", failed_at="2023-11-14T22:20:00+00:00")
        office("failed", "requeue", "a1")
        (envelope,) = waiting(office)
        office.put("a1", body=wire.encode(envelope))
        shown = office("failed", "show", "a1").out
        assert "passed:         requeue at " in shown
        assert (
            "given up:       by the deliverer at 2023-11-14T22:20:00+00:00, after 3 tries"
            " since 2023-11-14T22:13:30+00:00: 550 5.1.1 no such user"
        ) in shown.splitlines()
        (found,) = office("failed", "show", "a1", "--json").json
        assert [past["attempts"] for past in found["envelope"]["given_up"]] == [3]

    def test_the_quarantine_releases(self, office: Office) -> None:
        office.put("a1", queue="quarantine", payload=fetched(), inbox="incoming")
        assert office("quarantine", "release", "a1").out == "released: 1\n"
        assert office.ids("quarantine") == []
        (envelope,) = waiting(office)
        assert envelope.payload == replace(fetched(), released=True)
        assert envelope.trail[-1].stage == "release"
