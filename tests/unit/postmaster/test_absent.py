"""What is not there is not called empty: a wrong ``data_dir`` is no connector without mail."""

from pathlib import Path

import pytest

from shared.queues import plan
from tests.unit.postmaster.conftest import TIERS, Office


@pytest.mark.parametrize(
    "command",
    [
        ("failed", "list"),
        ("failed", "list", "--newest"),
        ("failed", "list", "--account", "sales", "--json"),
        ("failed", "show", "a1"),
        ("failed", "requeue", "--all"),
        ("failed", "requeue", "a1"),
        ("failed", "drop", "--all", "--yes"),
        ("quarantine", "list"),
        ("quarantine", "release", "--reason", "x", "--json"),
        ("quarantine", "export", "--all", "-o", "{folder}"),
        ("spool", "sweep"),
    ],
)
def test_a_queue_file_that_is_not_there_is_no_empty_one(
    office: Office, tmp_path: Path, command: tuple[str, ...]
) -> None:
    printed = office(*(word.format(folder=tmp_path) for word in command))
    assert (printed.status, printed.out) == (1, "")
    file = office.data / "queue.db"
    assert f"there is no {file}. Is data_dir right? If so: pop3-connector topology" in printed.err
    assert not file.exists()


def test_the_topology_says_so_below_its_table(office: Office) -> None:
    shown = office("topology", "show")
    assert shown.status == 1
    assert shown.out.count(" absent") == len(plan(TIERS))
    assert f"there is no {office.data / 'queue.db'}" in shown.err
    assert office("topology", "declare").status == 0
    assert office("topology", "show").status == 0
    with office.config.open("a") as config:
        config.write('[retry]\ntiers = ["7s"]\n')
    added = office("topology", "show", "--json")
    assert added.status == 1
    assert {row["queue"] for row in added.json if row["messages"] is None} == {
        f"{inbox}.retry.7s" for inbox in ("incoming", "parsed", "pickup")
    }
    assert "there is no queues" not in added.err
    assert "absent: there are no queues incoming.retry.7s, parsed.retry.7s" in added.err


def test_accounts_say_that_there_is_no_state_database(office: Office) -> None:
    for options in ((), ("--json",), ("sales",)):
        printed = office("accounts", *options)
        assert printed.status == 1
        assert "never polled" in printed.out
        assert f"there is no {office.data / 'state.db'}. Is data_dir right?" in printed.err
