"""Writes down what stands above the header of a message: mbox lines, blank lines, a BOM, junk.

Left as they are below our lines, they would end the header block for many a mail server, and From
and Subject would be text. Each becomes the value of a field of ours. The last of them does so where
it is: our lines stop at the name of that field, and the message is not touched. Those above it are
copied, and the message is delivered without them.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

FIRST_LINE: Final = b"X-POP3-Connector-First-Line: "

_FIELD_OR_END: Final = re.compile(rb"[!-9;-~]++[ \t]*+:|\r*\n|\Z")
_GROUP: Final = re.compile(rb"(?:\r*\n)+|[^\n]*\n?")
_BLANK_LINE: Final = re.compile(rb"\r*\n")


class LeadingLines(NamedTuple):
    """How our lines go over into the message.

    Attributes:
        lines: what to put below our other lines.
        skip: bytes at the beginning of the message that stand in ``lines``.
    """

    lines: bytes
    skip: int


_NOTHING: Final = LeadingLines(b"", 0)
_BODY_ALONE: Final = LeadingLines(b"\r\n", 0)
_FIRST_LINE_ALONE: Final = LeadingLines(FIRST_LINE, 0)


def leading_lines(head: bytes, above: int | None) -> LeadingLines:
    """Return how to go over from our lines into a message.

    Args:
        head: the beginning of the raw message.
        above: bytes above its header, None where there is no header: all of it is body then. 0 also
            where that was never found out, by an older version: one line at most stands above it.
    """
    if above is None:
        return _BODY_ALONE
    if above == 0:
        return _NOTHING if _FIELD_OR_END.match(head) else _FIRST_LINE_ALONE
    *groups, last = filter(None, _GROUP.findall(head, 0, above))
    lines = b"".join(map(_field, groups))
    if _is_one_line(last):
        return LeadingLines(lines + FIRST_LINE, above - len(last))
    return LeadingLines(lines + _field(last), above)


def _is_one_line(group: bytes) -> bool:
    return group.count(b"\n") == 1


def _field(group: bytes) -> bytes:
    """Return a line, or blank lines in a row, as a field."""
    if _BLANK_LINE.match(group) and not _is_one_line(group):
        return b"%s(%d blank lines)\r\n" % (FIRST_LINE, group.count(b"\n"))
    return FIRST_LINE + group.rstrip(b"\r\n") + b"\r\n"
