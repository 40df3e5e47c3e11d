"""The command line of the soak: ``scripts/soak``."""

import argparse
import logging
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.flow.forked import ForkedConnector
from tests.servers.postgresql import installed
from tests.soak.report import report
from tests.soak.soak import Plan, soak


def main() -> int:
    """Soak, print the result, and return 0 if all is well."""
    asked = _arguments()
    os.environ["CI"] = "true"  # a server that is missing is an error here, nothing to skip
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of each write to a cut network
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    plan = Plan(
        seed=random.randrange(1_000_000) if asked.seed is None else asked.seed,
        seconds=asked.minutes * 60,
        rate=asked.rate,
        sqlite=asked.state == "sqlite",
        pace=asked.pace,
    )
    if asked.folder is not None:
        Path(asked.folder).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="pop3-soak-", dir=asked.folder))
    folder.chmod(0o755)
    print(f"{_command(plan)}\n{_machine()}\nlogs and files in {folder}", flush=True)
    # Forked, they write a line for each event however many there are: a copy is explained by these.
    verdict = soak(folder, plan, ForkedConnector)
    print(f"\n{report(verdict)}")
    if verdict.wrong:
        print(f"\nKept for a closer look: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        description="Continuous mail, and randomly chosen faults; then counts what came out.",
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="with faults (30)")
    parser.add_argument("--seed", type=int, help="breaks the same things again; random if none")
    parser.add_argument("--rate", type=float, default=10.0, help="messages a second (10)")
    parser.add_argument(
        "--pace", type=float, default=1.0, help="factor on the times between faults (1)"
    )
    parser.add_argument(
        "--state",
        choices=("postgresql", "sqlite"),
        default="postgresql" if installed() else "sqlite",
        help="where the state is (postgresql, if it is installed)",
    )
    parser.add_argument("--folder", help="for logs and files; the system's temporary one if none")
    return parser.parse_args()


def _command(plan: Plan) -> str:
    state = "sqlite" if plan.sqlite else "postgresql"
    return (
        f"scripts/soak --minutes {plan.seconds / 60:g} --seed {plan.seed} --rate {plan.rate:g}"
        f" --pace {plan.pace:g} --state {state}"
    )


def _machine() -> str:
    now = time.strftime("%Y-%m-%d %H:%M")
    return (
        f"{now}, {os.cpu_count()} CPUs, {platform.platform()}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    sys.exit(main())
