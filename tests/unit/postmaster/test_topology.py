"""``topology``: queues that were removed are shown for as long as they hold messages."""

import json
import subprocess
import sys

from tests.unit.postmaster.conftest import Office


def test_a_removed_tier_is_shown_and_told_at_the_start(office: Office) -> None:
    office.put("one", queue="pickup.retry.5m")
    assert "removed" not in office("topology", "show").out
    with office.config.open("a") as config:
        config.write('[retry]\ntiers = ["30s"]\n')
    shown = office("topology", "show", "--json").json
    assert shown[-1] == {
        "queue": "pickup.retry.5m",
        "kind": "removed",
        "wait": None,
        "back_to": None,
        "messages": 1,
    }
    table = office("topology", "show").out
    assert table.splitlines()[-1].split() == ["pickup.retry.5m", "removed", "1"]
    assert "holds 1 message;" in office("topology", "declare").err
    office.config.write_text(
        office.config.read_text().replace('"sales"', '"sales"\nenabled = false', 1)
    )
    started = subprocess.run(
        [sys.executable, "-m", "services", "--config", str(office.config), "run", "--once"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    events = [json.loads(line) for line in started.stderr.splitlines()]
    told = [e for e in events if e["event"] == "a queue that was removed holds messages"]
    assert [(e["queue"], e["messages"]) for e in told] == [("pickup.retry.5m", "1")]


def test_where_nothing_is_there_is_no_stray(office: Office) -> None:
    steward = office.steward()
    assert steward.strays() == {}
    steward.close()
