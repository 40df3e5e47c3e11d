"""A process as monitoring and supervisors see it: over HTTP, and by signals."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.health import get
from tests.servers.process import accepts, free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def port() -> int:
    return free_port()


def heed_hangups() -> None:
    """Undo what ``nohup`` does to whoever runs the tests."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def start(
    tmp_path: Path, port: int, broker: str = "", command: str = "run"
) -> "subprocess.Popen[bytes]":
    config = tmp_path / "connector.toml"
    config.write_text(
        f"data_dir = {json.dumps(str(tmp_path / 'data'))}\n"
        f'[delivery]\nurl = "maildir://{tmp_path}/mail/{{local}}"\n'
        f'[monitor]\nlisten = "127.0.0.1:{port}"\n{broker}'
    )
    whole = [sys.executable, "-m", "services", "--config", str(config), command]
    with (tmp_path / "log").open("wb") as log:
        return subprocess.Popen(whole, cwd=ROOT, stdout=log, stderr=log, preexec_fn=heed_hangups)


def test_a_working_process_is_healthy_and_ready_and_shows_its_metrics(
    tmp_path: Path, port: int
) -> None:
    process = start(tmp_path, port)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: accepts(port), "the monitor")
        assert get(f"{url}/healthz") == (200, "ok\n")
        wait_until(lambda: get(f"{url}/readyz") == (200, "ok\n"), "all to be open")
        status, metrics = get(f"{url}/metrics")
        assert status == 200
        assert "pop3_connector_broker_connected 1.0" in metrics
        assert get(f"{url}/other")[0] == 404
        wait_until(lambda: 'in_hand{stage="parser"} 0.0' in get(f"{url}/metrics")[1], "stages")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, (tmp_path / "log").read_text()
    assert sqlite3.connect(tmp_path / "data" / "state.db").execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("command", ["run", "fetcher", "parser"])
def test_a_process_without_its_broker_is_alive_and_not_ready(
    tmp_path: Path, port: int, command: str
) -> None:
    """To start it anew would not bring the broker back: it waits for it, and ends when told to."""
    broker = f'[broker]\nurl = "amqp://u:hunter2@127.0.0.1:{free_port()}"\n'
    process = start(tmp_path, port, broker, command)
    try:
        wait_until(lambda: accepts(port), "the monitor")
        url = f"http://127.0.0.1:{port}"
        assert get(f"{url}/healthz") == (200, "ok\n")
        assert get(f"{url}/readyz") == (503, "not connected to the broker\n")
        assert "pop3_connector_broker_connected 0.0" in get(f"{url}/metrics")[1]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, (tmp_path / "log").read_text()
    assert "hunter2" not in (tmp_path / "log").read_text()


def test_a_process_is_ready_when_all_is_open(tmp_path: Path, port: int) -> None:
    """A database that is away is waited for as well."""
    state = f'[state]\nurl = "postgresql://u@127.0.0.1:{free_port()}/x"\n'
    process = start(tmp_path, port, state)
    try:
        wait_until(lambda: accepts(port), "the monitor")
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: "not everything" in get(f"{url}/readyz")[1], "the broker")
        assert get(f"{url}/healthz") == (200, "ok\n")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, (tmp_path / "log").read_text()


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", ["run", "parser"])
def test_a_process_that_is_told_to_end_while_it_loads_ends_with_0(
    tmp_path: Path, name: signal.Signals, command: str
) -> None:
    config = tmp_path / "connector.toml"
    os.mkfifo(config)  # whoever reads it waits for somebody who writes it
    process = subprocess.Popen(
        [sys.executable, "-m", "services", "--config", str(config), command],
        cwd=ROOT,
        preexec_fn=heed_hangups,
    )

    def minds() -> bool:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        return bool(caught & 1 << (name - 1))

    wait_until(minds, "it to mind signals")
    process.send_signal(name)
    assert process.wait(30) == 0


def test_sighup_ends_a_process_as_sigterm_does(tmp_path: Path, port: int) -> None:
    process = start(tmp_path, port)
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: accepts(port), "the monitor")
    wait_until(lambda: get(f"{url}/readyz") == (200, "ok\n"), "all to be open")
    process.send_signal(signal.SIGHUP)
    assert process.wait(30) == 0, (tmp_path / "log").read_text()
