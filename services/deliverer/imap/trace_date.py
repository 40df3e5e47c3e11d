"""When a provider took a message: the date of the topmost Received line below our own.

A mail program sorts by the internal date, and what moves in is to lie where it lay. The Date line
is the sender's word, and junk lies in it. A Received line may be forged as well, below that of the
provider; so a date that is later than our own trace by more than a day is none, and what has no
usable one gets the date of our own line, which is when it was fetched. It does no I/O.

Known limit: a provider that writes no Received line of its own has that of the host before it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

HEADER: Final = 64 * 1024
"""Bytes of a message in which its topmost Received line is looked for."""

SKEW: Final = timedelta(days=1)
EARLIEST: Final = datetime(1970, 1, 2, tzinfo=UTC)

_RECEIVED: Final = re.compile(rb"(?:^|\n)Received[ \t]*:((?:[^\n]|\n[ \t])*)", re.IGNORECASE)
_BLANK: Final = re.compile(rb"\r?\n\r?\n")
_LONGEST: Final = 200


def taken_at(prefix: bytes, head: bytes) -> datetime | None:
    """Return when a message was taken by the provider it was fetched from; None if nobody says.

    Args:
        prefix: our own header lines.
        head: how the message begins.
    """
    ours = _first_date(prefix)
    header = _BLANK.split(head[:HEADER], 1)[0]
    theirs = _first_date(header)
    if theirs is None or (ours is not None and theirs > ours + SKEW):
        return ours
    return theirs


def _first_date(header: bytes) -> datetime | None:
    found = _RECEIVED.search(header)
    return None if found is None else _date(found[1])


def _date(value: bytes) -> datetime | None:
    """Return the date at the end of a Received line (RFC 5321 section 4.4)."""
    text = value.rpartition(b";")[2].decode("latin-1")
    try:
        moment = parsedate_to_datetime(" ".join(text.split())[:_LONGEST])
        if moment.tzinfo is None:  # "-0000": no zone is known, the time is UTC (RFC 5322)
            moment = moment.replace(tzinfo=UTC)
        early = moment < EARLIEST
    except (ValueError, TypeError, IndexError, OverflowError, AttributeError):
        return None
    return None if early else moment
