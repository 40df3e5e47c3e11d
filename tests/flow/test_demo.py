"""The demo, run as a user runs it, less the making of .venv, and judged by what it leaves."""

import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.demonstration.mailbox import MAILBOXES, Sample, maildrops

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Demo:
    """One run: where it left everything, and what it printed."""

    directory: Path
    status: int
    printed: str

    def maildir(self, mailbox: str) -> list[bytes]:
        return [file.read_bytes() for file in (self.directory / "mail" / mailbox / "new").iterdir()]

    @property
    def commands(self) -> list[str]:
        """The command lines that it tells the user to try next."""
        after = self.printed.partition("To try next")[2].partition("Checked")[0]
        return [line.strip() for line in after.splitlines()[1:] if line and "  # " not in line]

    @property
    def events(self) -> Counter[str]:
        lines = (self.directory / "run.log").read_text().splitlines()
        return Counter(json.loads(line)["event"] for line in lines)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    parent = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-m", "scripts.demonstration"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(parent), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    print(done.stdout, done.stderr)
    (directory,) = parent.iterdir()
    return Demo(directory, done.returncode, done.stdout)


def below_the_prefix(message: bytes) -> bytes:
    """Return what is below the header lines that were put in front."""
    prefix = re.match(
        rb"Delivered-To: .*\nReceived: .*\n(?:\t.*\n)+(?:X-POP3-Connector-[^:]+: .*\n)+", message
    )
    assert prefix, message[:500]
    return message[prefix.end() :]


def expected(mail: list[Sample]) -> list[bytes]:
    return sorted(s.raw.replace(b"\r\n", b"\n") for s in mail if s.fate == "delivered")


def test_it_ends_well(demo: Demo) -> None:
    assert demo.status == 0, demo.printed


@pytest.mark.parametrize("mailbox", MAILBOXES.values())
def test_every_message_arrives_once_and_unchanged(demo: Demo, mailbox: str) -> None:
    arrived = sorted(map(below_the_prefix, demo.maildir(mailbox)))
    assert arrived == expected(maildrops()[mailbox])


def test_each_of_the_others_meets_its_fate(demo: Demo) -> None:
    fates = Counter(s.fate for mail in maildrops().values() for s in mail)
    assert {fate: demo.events[fate] for fate in fates} == fates
    assert [fates[fate] for fate in ("failed", "quarantined", "suppressed")] == [1, 1, 1]
    assert demo.events["removed"] == fates.total()


def test_a_message_without_a_header_is_shown_as_one(demo: Demo) -> None:
    kept = re.findall(r"^  [0-9a-f]{12}  (.*)", demo.printed, re.MULTILINE)
    assert "sales: without a subject, without a sender" in kept
    assert len(kept) == 2


def test_large_messages_leave_nothing_in_the_spool(demo: Demo) -> None:
    spool = demo.directory / "data/spool"
    assert spool.is_dir()  # so one was large enough to be in it
    assert [p for p in spool.rglob("*") if p.is_file() and p.parent != spool] == []


def test_the_commands_to_try_next_work_as_they_are_printed(demo: Demo) -> None:
    *commands, tidy_up = demo.commands
    for command in commands:
        done = subprocess.run(
            shlex.split(command), cwd=ROOT, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    corrupt = next(s for mail in maildrops().values() for s in mail if s.fate == "quarantined")
    assert (demo.directory / "corrupt.eml").read_bytes() == corrupt.raw
    looped = next(s for mail in maildrops().values() for s in mail if s.fate == "failed")
    assert (demo.directory / "failed.eml").read_bytes() == looped.raw
    assert tidy_up == f"rm -r {demo.directory}"
