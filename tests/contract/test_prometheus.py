"""What Prometheus itself makes of its configuration, the alerts and the dashboard."""

import json
import subprocess
from pathlib import Path

from tests.servers.process import require
from tests.unit.test_monitoring import MONITORING, queries


def promtool(*arguments: str | Path) -> None:
    require("promtool")
    command = ["promtool", *map(str, arguments)]
    done = subprocess.run(command, cwd=MONITORING, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_understands_its_configuration() -> None:
    promtool("check", "config", "--syntax-only", "prometheus.yml")


def test_each_alert_fires_when_it_should() -> None:
    promtool("test", "rules", "alerts.test.yml")


def test_prometheus_understands_what_the_dashboard_asks(tmp_path: Path) -> None:
    """As recording rules; Grafana puts an interval in place of its variable, and so do we."""
    rules = [
        {"record": f"panel:{i}", "expr": query.replace("$__rate_interval", "5m")}
        for i, query in enumerate(queries())
    ]
    assert not any("$" in rule["expr"] for rule in rules)
    file = tmp_path / "dashboard.json"  # which is YAML, too
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", file)
