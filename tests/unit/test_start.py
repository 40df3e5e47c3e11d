"""What a process loads before its first work: what this run needs, and nothing else.

Loading is most of what a short run costs, and each of these is 2 to 25 % of it.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUN = "from services.command_line import main; import sys; assert main(sys.argv[1:]) == 0"
TELL = "; print(*sys.modules, file=sys.stderr)"

NOT_FOR_A_RUN = {
    "authlib",
    "cryptography",
    "fsspec",
    "http.server",
    "httpx2",
    "kombu",
    "pika",
    "prometheus_client",
    "rich",
    "services.postmaster.folders",
    "services.postmaster.show",
    "sqlalchemy.dialects.postgresql",
}


def loaded(code: str, *arguments: str) -> set[str]:
    """Return the modules that a process has loaded when it has run this code.

    What a library is about to take away would be an error there.
    """
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", code + TELL, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.splitlines()[-1].split())


def test_a_run_over_the_embedded_broker_loads_what_it_needs(tmp_path: Path) -> None:
    config = tmp_path / "connector.toml"
    config.write_text(
        f'data_dir = "{tmp_path}/data"\n[delivery]\nurl = "maildir://{tmp_path}/mail"\n'
    )
    modules = loaded(RUN, "--config", str(config), "run", "--once")
    assert {
        "services.run",
        "shared.broker.embedded.broker",
        "sqlalchemy.dialects.sqlite",
    } <= modules
    assert not modules & NOT_FOR_A_RUN


def test_a_stage_without_state_does_not_load_what_reaches_the_database() -> None:
    modules = loaded(
        "import sys, services.process, services.parser.wiring, services.rewriter.wiring"
    )
    assert "services.process" in modules
    assert not modules & (NOT_FOR_A_RUN | {"sqlalchemy"})
