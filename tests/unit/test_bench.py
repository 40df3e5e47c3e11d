"""What the benchmark goes by: how many messages have arrived, and when the last of them did."""

import os
import smtplib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.bench_arrivals import Folders, last_arrival, last_departure
from scripts.bench_sink import Sink, smtp_sink
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
