"""What an IMAP client writes: strings, names, flags and dates, safe to stand in a command.

It does no I/O. What comes from mail or from a configuration never ends a command: text that cannot
stand in a quoted string (RFC 3501 section 4.3) is refused here, whoever wrote it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Final

_MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)
_UNQUOTABLE: Final = re.compile(rb"[\x00\r\n]")
_OUTSIDE: Final = re.compile("[^\x20-\x7e]+|&")
KEYWORD: Final = re.compile(r"[A-Za-z0-9$_.-]{1,64}")
"""What a keyword, or a word for a system flag, looks like in a URL."""

SYSTEM_FLAGS: Final = {
    "seen": b"\\Seen",
    "flagged": b"\\Flagged",
    "answered": b"\\Answered",
    "draft": b"\\Draft",
}


def quoted(text: bytes) -> bytes:
    """Return a text as a quoted string.

    Raises:
        ValueError: it has NUL, CR or LF in it.
    """
    if _UNQUOTABLE.search(text):
        raise ValueError("NUL, CR and LF stand in no quoted string")
    return b'"%s"' % text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def utf7(name: str) -> bytes:
    """Return the name of a folder in modified UTF-7 (RFC 3501 section 5.1.3)."""
    return "".join(_utf7(name)).encode("ascii")


def _utf7(name: str) -> Iterator[str]:
    done = 0
    for found in _OUTSIDE.finditer(name):
        yield name[done : found.start()]
        done = found.end()
        if found[0] == "&":
            yield "&-"
        else:
            encoded = base64.b64encode(found[0].encode("utf-16-be")).decode("ascii")
            yield f"&{encoded.rstrip('=').replace('/', ',')}-"
    yield name[done:]


def folder_name(name: str, *, utf8: bool) -> bytes:
    """Return the name of a folder as it stands in a command.

    Args:
        name: with the server's own hierarchy delimiter.
        utf8: the server takes UTF-8 (RFC 6855, RFC 9051); else it is modified UTF-7.
    """
    return quoted(name.encode() if utf8 else utf7(name))


def flag(word: str) -> bytes | None:
    """Return the flag that a word of a URL means; None for ``unseen``, which is no flag."""
    if word.lower() == "unseen":
        return None
    return SYSTEM_FLAGS.get(word.lower(), word.encode("ascii"))


def date_time(moment: datetime) -> bytes:
    """Return a moment as the internal date of a message (RFC 3501 section 9, ``date-time``)."""
    month = _MONTHS[moment.month - 1]
    zone = moment.strftime("%z")[:5]
    clock = f"{moment.hour:02}:{moment.minute:02}:{moment.second:02}"
    return f'"{moment.day:2}-{month}-{moment.year:04} {clock} {zone}"'.encode("ascii")


def count_of(uids: bytes) -> int:
    """Return how many messages a set of UIDs means (RFC 4315 section 4, ``uid-set``)."""
    ranges = (part.partition(b":") for part in uids.split(b","))
    return sum(abs(int(last or first) - int(first)) + 1 for first, _, last in ranges)
