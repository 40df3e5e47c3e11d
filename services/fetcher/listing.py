"""Reads the multi-line listings of a POP3 server: CAPA, UIDL and LIST.

A maildrop may hold 100,000 messages, so the listings that servers really send are split in one go,
and only others are read line by line. No line is trusted: a UIDL that cannot be one is "", and a
line without a number that a message can have, such as a blank one, is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

UIDL_LIMIT: Final = 1000
"""Characters of a UIDL; RFC 1939 allows 70, some servers give more."""

_CONTROLS: Final = bytes(set(range(0x20)) - {0x0D, 0x0A, 0x20} | {0x7F})
_UIDL_LINE: Final = re.compile(r"0*(\d{1,7})(?:[ \t]+(.*))?", re.DOTALL)
_UIDL: Final = re.compile(rf"[!-~\xa0-\xff]{{1,{UIDL_LIMIT}}}")
_SECONDS: Final = re.compile(r"[0-9]{1,6}")
_LIST_LINE: Final = re.compile(r"[ \t]*0*(\d{1,7})[ \t]+0*(\d{1,18})\b")


def capabilities(body: bytes) -> Mapping[str, tuple[str, ...]]:
    """Return the parameters of each capability in a CAPA response (RFC 2449 section 3)."""
    lines = (line.split() for line in _lines(body.decode("utf-8", "replace")))
    return {words[0].upper(): tuple(words[1:]) for words in lines if words}


def login_delay(offered: Mapping[str, tuple[str, ...]]) -> float:
    """Return the seconds between logins that CAPA asks for (RFC 2449 section 6.5), 0 for none.

    With the parameter USER each user may have a delay of his own: the number is the longest, or
    after the login his.
    """
    seconds = offered.get("LOGIN-DELAY", ("0",))[:1]
    return float(seconds[0]) if seconds and _SECONDS.fullmatch(seconds[0]) else 0.0


def uidls(body: bytes) -> list[tuple[int, str]] | None:
    """Return message numbers and UIDLs in the order of a UIDL response (RFC 1939 section 7).

    A UIDL that is missing, too long, or not made of printable characters is given as "". Bytes
    beyond ASCII are read as Latin-1, which keeps different UIDLs different.

    Returns:
        None where there are lines and none of them has a message number.
    """
    pairs = _regular(body)
    if pairs is not None and max(map(len, pairs[1]), default=0) <= UIDL_LIMIT:
        return list(zip(*pairs, strict=True))
    return _irregular_uidls(body)


def sizes(body: bytes) -> dict[int, int]:
    """Return the sizes by message number in a LIST response; lines that make no sense are left out.

    They are what the server claims (RFC 1939 section 11), never a fact.
    """
    pairs = _regular(body)
    if pairs is not None and "".join(pairs[1]).isdigit() and max(map(len, pairs[1])) < 19:
        return dict(zip(pairs[0], map(int, pairs[1]), strict=True))
    found = map(_LIST_LINE.match, _lines(body.decode("latin-1")))
    return {int(line[1]): int(line[2]) for line in found if line}


def _regular(body: bytes) -> tuple[range, list[str]] | None:
    """Split a listing of two plain words a line, numbered from 1 on; None if it is not that."""
    if not body.isascii() or len(body.translate(None, _CONTROLS)) != len(body):
        return None
    words = body.decode("ascii").split()
    numbers = range(1, body.count(b"\n") + 1)
    if len(words) != 2 * len(numbers) or words[::2] != list(map(str, numbers)):
        return None
    return numbers, words[1::2]


def _irregular_uidls(body: bytes) -> list[tuple[int, str]] | None:
    found = []
    text = body.decode("latin-1")
    for line in _lines(text):
        # Stripped beforehand: a pattern that does it takes quadratic time on a long run of blanks.
        match = _UIDL_LINE.fullmatch(line.strip(" \t"))
        if match is not None:
            uidl = match[2] or ""
            found.append((int(match[1]), uidl if _UIDL.fullmatch(uidl) else ""))
    return found if found or not text.strip() else None


def _lines(text: str) -> list[str]:
    """Split a listing at the ends of its lines: CRLF, or LF where there is no CRLF."""
    return text.split("\r\n" if "\r\n" in text else "\n")
