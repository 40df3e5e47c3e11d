"""Fuzzes every target guided by coverage: ``scripts/fuzz [--inputs N] [--seconds S] [TARGET ...]``.

Prints for each target how many inputs were run and what of our code they reached; where one makes
a finding, what it is and where the input is kept, and the status is 1.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
MEMORY = 512
"""Megabytes that a process may take, the fuzzer's own included."""

_DONE = re.compile(r"#(\d+)\s+DONE\s+cov: (\d+) ft: (\d+) corp: (\d+)")


@dataclass(frozen=True)
class Run:
    """What came of a target.

    Attributes:
        inputs: how many were run.
        coverage: how many edges of our code were reached.
        corpus: how many inputs reached something that the others did not.
        finding: the end of what was printed, None where all went well.
    """

    target: str
    inputs: int = 0
    coverage: int = 0
    corpus: int = 0
    finding: str | None = None


def fuzz(name: str, folder: Path, *, inputs: int = 0, seconds: int = 0, seed: int = 0) -> Run:
    """Fuzz one target until so many inputs are run, or so much time has passed.

    Args:
        name: of the target.
        folder: is made; takes the corpus, and the input that makes a finding.
        inputs: 0 for no limit.
        seconds: 0 for no limit.
        seed: another one makes other inputs; 0 for a random one.
    """
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    for number, data in enumerate(TARGETS[name].seeds()):
        (corpus / f"seed-{number}").write_bytes(data)
    command = [sys.executable, "-m", "tests.fuzz.guided", name, str(corpus), "-timeout=60"]
    command += [f"-artifact_prefix={folder}/", f"-rss_limit_mb={MEMORY}", "-max_len=8192"]
    command += [f"-runs={inputs or -1}", f"-max_total_time={seconds}", f"-seed={seed}"]
    # By a shell that forks: to a process that is started by a large one its peak is ascribed.
    command = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = _DONE.search(done.stderr)
    if done.returncode or found is None:
        return Run(name, finding=done.stdout[-4000:] + done.stderr[-2000:])
    count, coverage, _, kept = map(int, found.groups())
    return Run(name, count, coverage, kept)


def main() -> int:
    """Run the targets, and say how it went."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description="Fuzz what reads bytes.")
    parser.add_argument("--inputs", type=int, default=100_000, help="for each target; 0: no limit")
    parser.add_argument("--seconds", type=int, default=60, help="for each target; 0: no limit")
    parser.add_argument("--seed", type=int, default=0, help="makes the same inputs again")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    asked = parser.parse_args()
    kept = Path(tempfile.mkdtemp(prefix="pop3-connector-fuzz-"))
    status = 0
    for name in asked.targets or TARGETS:
        limits = {"inputs": asked.inputs, "seconds": asked.seconds, "seed": asked.seed}
        run = fuzz(name, kept / name, **limits)
        if run.finding is None:
            print(
                f"{name:9} {run.inputs:8} inputs, {run.coverage:5} edges reached,"
                f" {run.corpus:5} inputs kept, no finding",
                flush=True,
            )
        else:
            status = 1
            print(f"{run.finding}\n{name}: a finding; its input is in {kept / name}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
