"""Marks: what lies beside queues and blobs to say which state database they were filled with.

A state database has an id, and a number that grows with each start of a fetcher and as mail comes.
The same two are written into marks elsewhere, the number there never greater than in the database.
So a mark of another id tells that the database is not the one that mail was fetched with, and a
greater number that it is older than it should be: an earlier one was put back. A mark is trusted as
it is; who can write to queues or spool can have accounts held, which costs time and no mail.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, NamedTuple

LONGEST: Final = 1_000
"""Bytes of a mark."""


class Mark(NamedTuple):
    """How far a state database had got.

    Attributes:
        state: its id.
        number: grows.
        at: when that was, in seconds since 1970 (UTC).
    """

    state: str
    number: int
    at: float

    def text(self) -> str:
        """Return it as it is written down."""
        return json.dumps({"state": self.state, "number": self.number, "at": self.at})


def read(text: str | bytes) -> Mark | None:
    """Return the mark that was written down as this text, None where it is none."""
    try:
        found = json.loads(text[:LONGEST])
        return Mark(str(found["state"]), int(found["number"]), float(found["at"]))
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def doubt(own: Mark | None, used: bool, found: Iterable[tuple[str, Mark]]) -> str | None:
    """Return why a state database is not the one that mail was fetched with; None where it may be.

    Args:
        own: how far it has got, None where it never wrote that down.
        used: whether it knows of any mail.
        found: marks, each with the words for where it lies.
    """
    for where, mark in found:
        if own is not None and mark.state == own.state and mark.number <= own.number:
            continue
        when = moment(mark.at)
        if own is not None and mark.state == own.state:
            return (
                f"the state database is as it was on {moment(own.at)}, and {where} were filled"
                f" with it until {when}: an earlier one was put back"
            )
        what = "has other mail in it" if used else "is new"
        return f"the state database {what}, and {where} were filled with another one until {when}"
    return None


def moment(at: float) -> str:
    """Return a moment (seconds since 1970) in words, whatever a mark says."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return "an unknown day"
