"""The command line of the benchmark: which scenarios, how much of each, and where results go.

What is measured, and from when: mpop, getmail6, fetchmail and "pop3-connector, embedded" (which is
"run --once") from the start of the program to its end. "embedded, running" and "RabbitMQ" are
services: started before, every maildrop polled once while it was empty. Then the mail is put there,
and clock and CPU time count from the moment when a poll job for each account is put into the queue,
as the schedule does, until the last message is in its place.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Final

from scripts.benchmarks.connector import LIMITS
from scripts.benchmarks.report import Result, machine, markdown, picture, plot
from scripts.benchmarks.scale import Scale
from scripts.benchmarks.scenarios import SCENARIOS

ROOT: Final = Path(__file__).resolve().parents[2]


def main() -> int:
    """Run what was asked for; print the results, and keep them if that was asked for too."""
    asked = _arguments()
    os.environ["CI"] = "true"  # a server that is missing is an error here, nothing to skip
    scale = Scale(
        asked.messages or (500 if asked.quick else 5_000),
        asked.rounds or (1 if asked.quick else 3),
        not asked.quick,
    )
    limit = LIMITS["connections_per_host"]
    sections = [f"Measured with connections_per_host = {limit}, on {machine()}\n"]
    for name in asked.scenario or list(SCENARIOS):
        print(f"{name} ...", flush=True)
        with tempfile.TemporaryDirectory(prefix="pop3-bench-", dir=asked.folder) as folder:
            Path(folder).chmod(0o755)
            result = SCENARIOS[name](Path(folder), scale)
        sections.append(markdown(result, _command(name, scale, asked.quick)))
        print(sections[-1], flush=True)
        if asked.write is not None:
            _write(asked.write, result, sections)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenario", nargs="*", metavar=f"SCENARIO ({', '.join(SCENARIOS)})")
    parser.add_argument("--quick", action="store_true", help="little of everything, one round")
    parser.add_argument("--messages", type=int, help="in a maildrop (5000; quick: 500)")
    parser.add_argument("--rounds", type=int, help="of which the medians are shown (3; quick: 1)")
    parser.add_argument("--folder", help="on the disk that is to be measured; the system's if none")
    parser.add_argument("--write", type=Path, metavar="FILE", help="keep results: FILE and images/")
    asked = parser.parse_args()
    if unknown := set(asked.scenario).difference(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    return asked


def _command(name: str, scale: Scale, quick: bool) -> str:
    options = " --quick" if quick else ""
    return f"scripts/bench {name}{options} --messages {scale.messages} --rounds {scale.rounds}"


def _write(path: Path, result: Result, sections: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(sections))
    images = path.parent / "images"
    images.mkdir(exist_ok=True)
    for chart in result.charts:
        (images / picture(chart)).write_text(plot(result.title, chart))


if __name__ == "__main__":
    sys.exit(main())
