"""Passwords are in the memory of processes: none of it is written to a core file."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ("docker-compose.yml", "deploy/compose.cluster.yml", "deploy/compose.tls.yml")


def test_no_process_of_ours_leaves_its_memory_in_a_core_file(tmp_path: Path) -> None:
    limit, script = tmp_path / "limit", tmp_path / "script"
    script.write_text(f"(ulimit -Sc; ulimit -Hc) > {limit}; echo x")
    config = tmp_path / "connector.toml"
    config.write_text(
        f'data_dir = "{tmp_path}/data"\n[delivery]\nurl = "maildir://{tmp_path}/mail"\n'
        '[[account]]\nname = "sales"\nhost = "127.0.0.1"\nport = 1\ntls = "none"\n'
        'username = "sales"\nmailbox = "sales@corp.example"\n'
        f'password_command = "sh {script}"\n'
    )
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    done = subprocess.run(
        [sys.executable, "-m", "services", "--config", str(config), "run", "--once"],
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (hard, hard)),
        capture_output=True,
        text=True,
    )
    assert "nothing listens" in done.stdout + done.stderr
    assert limit.read_text().split() == ["0", "0"]


@pytest.mark.parametrize("name", COMPOSE)
def test_no_confined_container_does(name: str) -> None:
    text = (ROOT / name).read_text()
    confined = re.findall(r"\n( *)security_opt: .*\n( *.*)", text)
    assert confined
    assert all(after == f"{indent}ulimits: {{core: 0}}" for indent, after in confined)
