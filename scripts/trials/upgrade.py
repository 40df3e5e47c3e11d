"""The trial of a rolling update, called by scripts/test-upgrade: old and new workers side by side.

Three images. ``first`` is an old revision of this repository, ``now`` its working tree, ``next``
that tree with what a later version may bring: a further field in every message under a higher
schema version, and a further column in the state database. Under load, containers of the newer
image come beside those of the older one, work with them for a while, and stay alone. The older
workers have to put off what the newer ones write, and to go on with the database that these have
migrated.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Final

from scripts.trials.deployment import ROOT, STAGES, Deployment, check, main, run, say, wait_until

COUNT: Final = 500
RATE: Final = 10
BEGUN: Final = 20
"""Messages that are delivered when the update begins."""
FIRST: Final = "tests/flow/compose.first-version.yml"
SCHEMA: Final = 4
"""Of the messages of ``next``; its state database has one step more, too."""
DONE: Final = re.compile(r'mail_events_total{event="(?:fetched|forwarded|delivered)".*} (\d+)')
"""In the metrics of a container: how many messages it has passed on."""
PUT_OFF: Final = re.compile(
    rf'has schema {SCHEMA}, this version reads up to \d+".*"event": "retrying"'
)
"""In the log of a container: it has passed on a message that was too new for it, as it was."""

NEWER: Final = re.compile(r"the database has schema \d+, this version knows \d+ at most")
"""What a version says of a database that a later one has migrated."""

PYTHON: Final = ("python", "-ISc")
_END: Final = ')\n"""Statements that lead from each schema version'
LATER: Final = (
    ("pyproject.toml", 'version = "0.1.0"', 'version = "0.2.0"'),
    ("shared/wire.py", "SCHEMA: Final = 1", f"SCHEMA: Final = {SCHEMA}"),
    ("shared/wire.py", " pack(payload),\n", ' pack(payload), None, "later",\n'),
    (
        "shared/state/schema.py",
        _END,
        f'    "ALTER TABLE account ADD COLUMN later {{text}}",\n{_END}',
    ),
)
"""What makes a later version of this one: file, text, text in its place. Behind the payload stands
the operator's word, of which there is none here."""


def story(revision: str) -> None:
    """Two updates, and what does not go."""
    images = build(revision)
    plain = Deployment()
    os.environ["POP3_CONNECTOR_IMAGE"] = images["first"]
    say(f"starting the first version, {revision}")
    Deployment(("docker-compose.yml", FIRST)).compose("up", "--detach", "--no-build")
    plain.log_in()
    wait_until(lambda: plain.ended("demo"), "the samples of the demo")
    update(plain, images["now"], "now")
    update(plain, images["next"], "next")
    check(plain.depths()["quarantine"] == 1, "nothing but the sample is in quarantine")
    no_way_back(plain, images["now"])


def build(revision: str) -> dict[str, str]:
    """Build the three images; return them by name."""
    name = os.environ["POP3_CONNECTOR_IMAGE"]
    images = {version: f"{name}-{version}" for version in ("first", "now", "next")}
    with tempfile.TemporaryDirectory() as place:
        first, later = Path(place, "first"), Path(place, "next")
        first.mkdir()
        archive = subprocess.run(
            ["git", "archive", revision], cwd=ROOT, check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", first], input=archive.stdout, check=True)
        shutil.copytree(ROOT, later, ignore=shutil.ignore_patterns(".git", ".venv", "*cache*"))
        for file, before, after in LATER:
            text = (later / file).read_text()
            check(text.count(before) == 1, f"{file} can be made a later version's")
            (later / file).write_text(text.replace(before, after))
        for version, folder in (("first", first), ("now", ROOT), ("next", later)):
            say(f"building {images[version]}")
            base = f"PYTHON_IMAGE={os.environ['PYTHON_IMAGE']}"
            dockerfile = f"{folder}/deploy/Dockerfile"
            build = ("docker", "build", "-q", "--build-arg", base, "-f", dockerfile)
            run(*build, "-t", images[version], str(folder))
    run("docker", "compose", "--profile", "demo", "build", "--quiet", "provider")
    return images


def update(plain: Deployment, image: str, tag: str) -> None:
    """Bring another version beside the one that runs and then in its place, while mail comes in."""
    seeding = plain.begin("provider", "seed", str(COUNT), tag, str(RATE))
    wait_until(lambda: plain.tagged(tag) >= BEGUN, f"{BEGUN} messages delivered")
    os.environ["POP3_CONNECTOR_IMAGE"] = image
    beside = [part for stage in STAGES for part in ("--scale", f"{stage}=2")]
    for one in ("declare", "schema", "roles"):
        plain.compose("run", "--rm", one)
    plain.compose("up", "--detach", "--no-build", "--no-recreate", *beside, *STAGES)
    plain.wait_for_health("healthy", dict.fromkeys(STAGES, 2))
    check(len(versions(plain)) == 2, f"{plain.tagged(tag)} of {COUNT} delivered; two versions run")
    before = passed_on(plain)
    wait_until(
        lambda: all(count > before[name] for name, count in passed_on(plain).items()),
        "mail through every container",
    )
    say(f"all {len(before)} containers have passed on messages; {plain.tagged(tag)} delivered")
    put_off = len(PUT_OFF.findall(plain.compose("logs", "--no-color", *STAGES)))
    # Bundles are too new for the first version, if it happens to get one.
    check(put_off > 0 or tag == "now", f"{put_off} times a message was put off as too new")
    lasting = {c["Id"] for c in plain.containers("rabbitmq", "postgres")}
    plain.compose("up", "--detach", "--no-build", *STAGES)
    check(
        {c["Id"] for c in plain.containers("rabbitmq", "postgres")} == lasting,
        "RabbitMQ and PostgreSQL have stayed",
    )
    check(versions(plain) == [image], f"{image} runs alone; {plain.tagged(tag)} delivered")
    check(seeding.wait() == 0, f"{COUNT} messages have come in")
    wait_until(lambda: plain.tagged(tag) >= COUNT, "all of them in the mailboxes")
    wait_until(plain.idle, "empty queues")
    counts = Counter(i for i in plain.delivered() if i.endswith(f".{tag}@example.net>"))
    twice = counts.total() - len(counts)
    say(f"{COUNT} messages: {len(counts)} delivered, {COUNT - len(counts)} lost, {twice} twice")
    check(len(counts) == COUNT and not twice, "each of them once")


def versions(plain: Deployment) -> list[str]:
    """Return the images that stages run as."""
    return sorted({c["Config"]["Image"] for c in plain.containers(*STAGES)})


def passed_on(plain: Deployment) -> dict[str, int]:
    """Return how many messages each container has passed on, by its name."""
    ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9108/metrics').read().decode())"
    return {
        c["Name"]: sum(map(int, DONE.findall(run("docker", "exec", c["Id"], *PYTHON, ask))))
        for c in plain.containers(*STAGES)
    }


def no_way_back(plain: Deployment, image: str) -> None:
    """The older version does not start on the newer database, and says why."""
    os.environ["POP3_CONNECTOR_IMAGE"] = image
    command = ["docker", "compose", "--profile", "demo", "run", "--rm", "--no-deps", "-T"]
    said = subprocess.run(
        [*command, "postmaster", "accounts"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    check(
        said.returncode != 0 and NEWER.search(said.stderr) is not None,
        f"the older version refuses the newer database: {said.stderr.strip().splitlines()[-1]}",
    )


if __name__ == "__main__":
    sys.exit(main(partial(story, sys.argv[1])))
