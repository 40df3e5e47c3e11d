"""The soak's judgement of a message that arrived twice: only a fault in the gap is a reason."""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.soak.components import Struck
from tests.soak.crew import Death
from tests.soak.duplicates import TRIED, explained

NOW = 1_700_000_000.0
KILLED = Death(NOW + 2, "deliverer#2", "deliverer.replied#3", -9)
PARSER = Death(NOW + 2, "parser", "", -9)
EARLIER = Death(NOW - 60, "deliverer", "", -9)
FROZEN = Struck("deliverer", "deliverer frozen past the heartbeats", NOW - 5, NOW + 90)
LOST = "mail:25: EOF, after the message was sent and before the reply: it may have arrived"
GOING = "421 4.3.2 Shutting down (said by mail:24 to the end of DATA)"
FULL = "452 4.2.2 mailbox full (said by mail:24 to the end of DATA)"
CUT = Struck("SMTP", "SMTP connections cut", NOW + 1, NOW + 1)


def arrived(folder: Path, *times: float) -> list[Path]:
    paths = []
    for number, at in enumerate(times):
        path = folder / f"{number}.mail"
        path.write_bytes(b"Received: by us\nX-POP3-Connector-Id: 3f9a\nSubject: x\n\nbody\n")
        os.utime(path, (at, at))
        paths.append(path)
    return paths


def log(folder: Path, *said: tuple[float, str, str]) -> Path:
    path = folder / "deliverer.log"
    lines = [
        {
            "id": "3f9a",
            "event": event,
            "reason": reason,
            "timestamp": datetime.fromtimestamp(at, UTC).isoformat(),
        }
        for at, event, reason in said
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"id": "3f9a", "cut o')
    return path


@pytest.mark.parametrize(
    ("deaths", "struck", "said", "why"),
    [
        ([KILLED], [], [], "deliverer killed"),
        ([PARSER, EARLIER], [], [], None),
        ([], [FROZEN], [], "deliverer frozen"),
        ([], [CUT], [], None),  # heard of: or the cut was of another connection
        ([], [CUT], [(NOW + 1, "retrying", LOST)], "connection cut"),
        ([], [], [(NOW + 1, "retrying", GOING)], "server shut down"),
        ([], [], [(NOW + 1, "retrying", FULL)], None),
        ([], [], [(NOW + 2, TRIED, "")], "process with suspects killed"),
        ([], [], [(NOW - 60, TRIED, "")], None),
        ([KILLED], [], [(NOW + 1.5, "delivered", "250 taken")], None),  # the ledger knew
    ],
    ids=[
        "killed",
        "others killed",
        "frozen",
        "cut, and heard",
        "cut, and unheard",
        "going away",
        "refused",
        "tried",
        "tried earlier",
        "recorded",
    ],
)
def test_only_a_fault_in_the_gap_explains_a_second_copy(
    tmp_path: Path,
    deaths: Sequence[Death],
    struck: Sequence[Struck],
    said: Sequence[tuple[float, str, str]],
    why: str | None,
) -> None:
    files, logs = arrived(tmp_path, NOW + 30, NOW), [log(tmp_path, *said)]
    (copy,) = explained("smtp", files, logs, deaths, struck)
    assert (copy.id, copy.first, copy.again) == ("3f9a", NOW, NOW + 30)
    assert copy.why is None if why is None else (copy.why or "").startswith(why)


def test_what_arrived_once_needs_no_reason(tmp_path: Path) -> None:
    assert explained("smtp", arrived(tmp_path, NOW), [], [], []) == []
