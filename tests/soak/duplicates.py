"""Why a message arrived twice: the evidence for each copy, from the logs and the faults.

SMTP and LMTP leave one gap open (RFC 1047): the destination has taken a message, and we die, stand
still or lose the connection, or the ledger, before that is recorded. A second copy is explained by
nothing else: between the two arrivals there is such a fault, and no deliverer had said by then that
the message was delivered, which it does after the ledger has it.
"""

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tests.soak.components import Struck
from tests.soak.crew import Death, stage_of

SLACK = 1.0
"""Seconds between an arrival and its file's time, or an event and its line in a log."""
UNHEARD = {
    re.compile("before the reply: it may have arrived"): "connection cut before the reply",
    re.compile("^421 .*to the end of DATA"): "server shut down before the reply",
}
"""What the deliverer says of a message if it did not hear whether it was taken. A Dovecot that is
told to end when it has just stored a message says 421 (going away) in place of 250."""
TRIED = "a process that tried suspects has ended; they are tried again"
"""What a deliverer says when a process that delivered suspects for it was killed."""
FROZEN = "deliverer frozen"
"""Kinds of faults that look like a dead deliverer from outside."""
_ID = re.compile(rb"^X-POP3-Connector-Id: (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Line:
    """What a deliverer said of a message."""

    at: float
    event: str
    text: str


@dataclass(frozen=True)
class Copy:
    """A copy beyond the first.

    Attributes:
        id: of the message.
        destination: where it arrived.
        first: when the copy before it did (seconds since 1970).
        again: when this one did.
        why: the fault in the gap, None where there is none to explain it.
    """

    id: str
    destination: str
    first: float
    again: float
    why: str | None


def explained(
    destination: str,
    files: Iterable[Path],
    logs: Iterable[Path],
    deaths: Sequence[Death],
    struck: Sequence[Struck],
) -> list[Copy]:
    """Return the copies beyond the first at a destination, each with what explains it.

    Args:
        destination: its name.
        files: every message there.
        logs: of all deliverers.
        deaths: of all processes.
        struck: all faults.
    """
    arrivals: dict[str, list[float]] = {}
    for path in files:
        arrivals.setdefault(id_of(path), []).append(path.stat().st_mtime)
    twice = {id_: sorted(times) for id_, times in arrivals.items() if len(times) > 1}
    said = _said(logs, twice.keys())
    return [
        Copy(id_, destination, first, again, _why(first, again, said[id_], deaths, struck))
        for id_, times in sorted(twice.items())
        for first, again in itertools.pairwise(times)
    ]


def id_of(path: Path) -> str:
    """Return our id of a stored message."""
    with path.open("rb") as file:
        found = _ID.search(file.read(20_000))
    assert found is not None, path
    return found[1].decode()


def _why(
    first: float,
    again: float,
    said: Sequence[Line],
    deaths: Sequence[Death],
    struck: Sequence[Struck],
) -> str | None:
    begin, end = first - SLACK, again + SLACK
    meanwhile = [line for line in said if begin <= line.at <= again - SLACK]
    if any(line.event in ("delivered", "suppressed") for line in meanwhile):
        return None  # the ledger knew
    for sign, reason in UNHEARD.items():
        if any(sign.search(line.text) for line in said if begin <= line.at <= end):
            return reason
    if any(begin <= d.at <= end and stage_of(d.name) == "deliverer" for d in deaths):
        return "deliverer killed before the ledger"
    if any(begin <= line.at <= end and line.event == TRIED for line in said):
        return "process with suspects killed before the ledger"
    frozen = (f for f in struck if f.begin <= end and begin <= f.end and f.name.startswith(FROZEN))
    return next((f"{fault.name}, before the ledger" for fault in frozen), None)


def _said(logs: Iterable[Path], ids: Iterable[str]) -> dict[str, list[Line]]:
    said: dict[str, list[Line]] = {id_: [] for id_ in ids}
    for log in logs:
        for event in events(log):
            id_, what = event.get("id"), str(event.get("event"))
            concerned = said if what == TRIED else {str(id_)} & said.keys()
            for one in concerned:
                at = datetime.fromisoformat(str(event["timestamp"])).timestamp()
                said[one].append(Line(at, what, str(event.get("reason", ""))))
    return said


def events(log: Path) -> Iterator[dict[str, object]]:
    """Yield the lines of a log; what was cut off when its process died is left out."""
    with log.open(errors="replace") as lines:
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event
