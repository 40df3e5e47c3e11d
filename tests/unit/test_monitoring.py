"""The alerts, the dashboard and their documentation, held against the metrics that there are."""

import json
import re
from pathlib import Path

import pytest

from shared.metrics import METRICS

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy/monitoring"
ALERTS = (MONITORING / "alerts.yml").read_text()
DASHBOARD = json.loads((MONITORING / "grafana/dashboards/pop3-connector.json").read_text())
DOCUMENTED = (ROOT / "docs/metrics.md").read_text()
EVENTS = {
    "fetched",
    "forwarded",
    "delivered",
    "suppressed",
    "retrying",
    "waiting",
    "failed",
    "quarantined",
} | {
    "removed",
    "polled",
    "accounts_failed",
    "left_undone",
    "crashed",
}


def queries() -> list[str]:
    """Return what the dashboard asks Prometheus."""
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def series() -> set[str]:
    """Return the names of all time series that our metrics make."""
    parts = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
    return {metric.name + part for metric in METRICS for part in parts[metric.kind]}


@pytest.mark.parametrize("text", [ALERTS, "\n".join(queries())], ids=["alerts", "dashboard"])
def test_every_metric_that_is_asked_for_exists(text: str) -> None:
    ours = set(re.findall(r"\bpop3_connector_\w+", text))
    assert ours
    assert ours <= series()
    theirs = set(re.findall(r"\brabbitmq_\w+", text))
    assert theirs <= set(re.findall(r"`(rabbitmq_\w+)`", DOCUMENTED))


def test_every_event_that_is_asked_for_exists() -> None:
    text = ALERTS + "\n".join(queries())
    asked = {name for names in re.findall(r'event=~?"([\w|]+)"', text) for name in names.split("|")}
    assert asked
    assert asked <= EVENTS
    (meaning,) = [metric.meaning for metric in METRICS if "event" in metric.labels]
    assert set(re.findall(r"\w+", meaning.partition(":")[2])) == EVENTS


def test_every_metric_is_on_the_dashboard() -> None:
    text = "\n".join(queries())
    assert [metric.name for metric in METRICS if metric.name not in text] == []


def test_every_metric_is_documented_and_no_other() -> None:
    rows = re.findall(r"^\| `(pop3_\w+)` \| (\w+) \| (.*?) ?\| (.+) \|$", DOCUMENTED, re.MULTILINE)
    labels = [tuple(re.findall(r"`(\w+)`", row[2])) for row in rows]
    documented = [(row[0], row[1], used, row[3]) for row, used in zip(rows, labels, strict=True)]
    assert documented == [(m.name, m.kind, m.labels, m.meaning) for m in METRICS]


def test_every_alert_is_documented_and_tested() -> None:
    alerts = re.findall(r"- alert: (\w+)\n", ALERTS)
    assert re.findall(r"^\| (\w+) \| (?:page|ticket) \|", DOCUMENTED, re.MULTILINE) == alerts
    tests = (MONITORING / "alerts.test.yml").read_text()
    named = {
        name
        for names in re.findall(r'alertname=~?"([\w|]+)[".]', tests)
        for name in names.split("|")
    }
    fired = set(re.findall(r'alertname="(\w+)"[^}]*}\', value: 1', tests))
    fired |= set(re.findall(r"alertname: (\w+)\n", tests))
    assert [alert for alert in alerts if alert not in fired] == []
    assert named <= {*alerts, "Broker"}


def test_the_severity_that_is_documented_holds() -> None:
    real = re.findall(r"alert: (\w+)\n.*?severity: (\w+)", ALERTS, re.DOTALL)
    assert re.findall(r"^\| (\w+) \| (page|ticket) \|", DOCUMENTED, re.MULTILINE) == real


def test_panels_have_titles_and_do_not_overlap() -> None:
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        assert panel["title"]
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not places & cells
        places |= cells
