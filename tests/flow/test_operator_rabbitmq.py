"""The operator's commands over a real RabbitMQ, as over the embedded broker."""

from pathlib import Path

import pytest

from tests.flow.office import Neighbour
from tests.unit.postmaster.conftest import RAW, Office, fetched


@pytest.fixture
def office(empty_vhost: tuple[Office, Neighbour]) -> Office:
    """The operator's commands, before the queues are declared."""
    return empty_vhost[0]


def test_a_message_from_failure_to_a_new_start(office: Office, tmp_path: Path) -> None:
    rows = office("topology", "show", "--json").json
    assert {row["messages"] for row in rows} == {None}
    assert office("topology", "declare").status == 0
    assert office("failed", "list", "--json").json == []

    office.put("abc123")
    office.put("abc456", queue="incoming.failed", payload=fetched())
    for _ in range(3):
        found = office("failed", "list", "--json").json
        assert [(m["id"], m["subject"], m["attempts"]) for m in found] == [
            ("abc456", "hello", 3),
            ("abc123", "hello", 3),
        ]
    assert office("failed", "show", "abc").status == 1
    assert "recipients:     sales@corp.example, info@corp.example" in (
        office("failed", "show", "abc1").out
    )
    assert office("failed", "export", "abc1", "-o", str(tmp_path / "x.eml")).status == 0
    assert (tmp_path / "x.eml").read_bytes() == RAW
    assert office("failed", "requeue", "--all").out == "requeued: 2\n"
    assert sorted(office.ids("incoming")) == ["abc123", "abc456"]
    assert office("failed", "list", "--json").json == []


def test_quarantined_mail_is_released_or_dropped(office: Office) -> None:
    office("topology", "declare")
    office.put("a1", queue="quarantine", payload=fetched(), inbox="incoming")
    office.put("b2", queue="quarantine", body=b"\xc1junk", inbox="incoming")
    assert office("quarantine", "release", "a1").out == "released: 1\n"
    assert office.ids("incoming") == ["a1"]
    assert office("quarantine", "drop", "b2", "--yes").out == "dropped: 1\n"
    assert office.ids("quarantine") == []
