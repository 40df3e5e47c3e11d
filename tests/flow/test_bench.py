"""What the benchmark goes by: what has arrived and when, and who is in the race."""

import os
import smtplib
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.benchmarks.arrivals import Folders, last_arrival, last_departure
from scripts.benchmarks.race import Race
from scripts.benchmarks.sink import Sink, smtp_sink
from tests.servers.process import require


def deliver(maildir: Path, *names: str) -> None:
    for name in names:
        (maildir / "tmp" / name).write_bytes(b"\r\n")
        (maildir / "tmp" / name).rename(maildir / "new" / name)


@pytest.fixture
def mail(tmp_path: Path) -> Folders:
    """The Maildirs of two users."""
    for user in ("ann", "bob"):
        for folder in ("tmp", "new", "cur"):
            (tmp_path / user / folder).mkdir(parents=True)
    return Folders(tmp_path, ("*/new",))


def test_the_end_is_when_the_last_name_was_added_however_late_somebody_looks(mail: Folders) -> None:
    deliver(mail.root / "ann", "1", "2")
    deliver(mail.root / "bob", "1")
    os.utime(mail.root / "ann/new", ns=(9_000, 7_000))
    os.utime(mail.root / "bob/new", ns=(9_000, 5_000))
    assert last_arrival(mail, 3, 10) == 7_000


def test_messages_that_still_come_are_waited_for(mail: Folders) -> None:
    ann = mail.root / "ann"
    courier = threading.Thread(target=deliver, args=(ann, *map(str, range(500))))
    courier.start()
    end = last_arrival(mail, 500, 30)
    courier.join()
    assert end == (ann / "new").stat().st_mtime_ns


def test_the_end_is_not_before_the_last_message_has_gone_from_the_server(mail: Folders) -> None:
    new = mail.root / "ann" / "new"
    deliver(mail.root / "ann", *map(str, range(500)))

    def empty() -> None:
        for path in sorted(new.iterdir()):
            path.unlink()

    server = threading.Thread(target=empty)
    server.start()
    end = last_departure(mail, 30)
    server.join()
    assert end == new.stat().st_mtime_ns
    deliver(mail.root / "bob", "1")
    with pytest.raises(RuntimeError, match="1 messages are still on the server"):
        last_departure(mail, 0)


@dataclass
class Coming:
    """Messages of which one comes between any two looks."""

    messages: int
    come: int = 0

    def count(self) -> int:
        assert self.come > self.messages, "counted while they still come"
        return self.messages

    def latest(self) -> int:
        self.come += 1
        return min(self.come, self.messages)


def test_nothing_is_counted_while_messages_come() -> None:
    assert last_arrival(Coming(3), 3, 30) == 3


def test_nothing_has_come_to_a_place_that_is_not_there(tmp_path: Path) -> None:
    assert last_arrival(Folders(tmp_path / "mail", ("*/new",)), 0, 10) == 0


@pytest.mark.parametrize("expected", [2, 4])
def test_another_number_of_messages_is_an_error(mail: Folders, expected: int) -> None:
    deliver(mail.root / "ann", "1", "2", "3")
    with pytest.raises(RuntimeError, match=f"3 messages arrived, not {expected}"):
        last_arrival(mail, expected, 0)


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Sink]:
    require("smtp-sink")
    with smtp_sink(tmp_path) as server:
        yield server


def test_a_sink_tells_what_it_has_taken_from_now_on(sink: Sink) -> None:
    with smtplib.LMTP(sink.host, sink.port) as line:
        assert last_arrival(sink.arrivals(), 0, 10)
        for round_of in (12, 3):  # a count of two digits, then one that goes on from it
            arrivals = sink.arrivals()
            for _ in range(round_of):
                line.sendmail("ann@example.net", ["sales"], b"Subject: x\r\n\r\n")
            assert last_arrival(arrivals, round_of, 10) == sink.printed.stat().st_mtime_ns


def fails(why: str) -> int:
    raise RuntimeError(why)


def test_a_rival_that_fails_is_out_of_the_race_and_the_others_go_on() -> None:
    race: Race[int] = Race()
    for turn in (1, 2):
        assert race.turn("ours", lambda turn=turn: turn, ours=True) == turn  # type: ignore[misc]
        race.turn("late", lambda turn=turn: turn if turn == 1 else fails("no end"), ours=False)  # type: ignore[misc]
        assert race.turn("mpop", lambda: fails("mpop ended with 69:\nno route"), ours=False) is None
    assert race.samples == {"ours": [1, 2]}
    assert race.failed == {"mpop": "mpop ended with 69: no route", "late": "no end"}
    with pytest.raises(RuntimeError, match="a defect"):
        race.turn("ours", lambda: fails("a defect"), ours=True)


REPORT = """
import os, sys
from pathlib import Path
from scripts.benchmarks.measure import row, run
from scripts.benchmarks.race import Race
from scripts.benchmarks.report import Result, markdown, rates
race, log = Race(), Path(sys.argv[1])
for name, command in {"ours": ["true"], "mpop": ["false"], "getmail6": ["sleep", "60"]}.items():
    race.turn(name, lambda: run(command, 10, log, os.environ, patience=0.1), ours=name == "ours")
rows = [row(*item) for item in race.samples.items()]
print(markdown(Result("x", [rates("x", rows)], rows, failed=race.failed), "scripts/bench x"))
"""


def test_its_row_says_so_whether_it_ended_badly_or_not_at_all(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    environ = {**os.environ, "PYTHONPATH": f"{root}/scripts:{root}"}
    command = [sys.executable, "-c", REPORT, str(tmp_path / "log")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert any(line.startswith("| ours | ") and "failed" not in line for line in lines)
    assert "| mpop | failed | | | | | |" in lines
    assert "| getmail6 | failed | | | | | |" in lines
    assert any(line.startswith("- mpop failed: false ended with 1") for line in lines)
