"""Finds the header block of a message and picks out the fields that later stages need.

It trusts nothing and raises nothing: real mail has bare LF line ends, CR CR LF, NUL and 8-bit
bytes, mbox lines, blank lines above the header and junk among its fields, and all of that is read
over. Bytes are only looked at, never changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

Fields: TypeAlias = Mapping[bytes, Sequence[bytes]]
"""The bodies of the fields of each name in ``WANTED``, top first, unfolded."""

WANTED: Final = (
    b"return-path",
    b"x-pop3-connector-for",
    b"received",
    b"x-pop3-connector-account",
    b"from",
    b"subject",
    b"message-id",
    b"date",
)

TEXT_LIMIT: Final = 400
"""Characters of an address or name that are kept; RFC 5321 section 4.5.3.1 allows 320 octets."""

ABOVE_LIMIT: Final = 100
ABOVE_SIZE: Final = 64 * 1024
"""Lines above the first field, and their bytes, that are taken for strays. More of them are a text
without a header. They are copied, and an envelope has its limit."""

BOM: Final = b"\xef\xbb\xbf"
"""U+FEFF in UTF-8, which some programs write at the beginning of whatever they write."""

_FIELD: Final = re.compile(rb"^[!-9;-~]++[ \t]*+:", re.MULTILINE)
_FIELD_HERE: Final = re.compile(rb"[!-9;-~]++[ \t]*+:")
_BLANK_LINES: Final = re.compile(rb"(?:\r*\n)*")
_STRAY: Final = re.compile(rb"(?:\r*\n)+|[^\n]+\n?")
_DOUBLED: Final = re.compile(rb"\n\r\r+\n")
_LATER_HEADER: Final = re.compile(
    rb"(?:return-path|received|from|to|subject|date|message-id|delivered-to|mime-version)[ \t]*:",
    re.IGNORECASE,
)
"""What a header that stands below strays and a blank line begins with. Any word and a colon would
do in the first block; but the second paragraph of a text may well begin with that."""

_ACCOUNT: Final = b"X-POP3-Connector-Account:"
_DELIVERED_TO: Final = b"Delivered-To:"


def header_start(head: bytes) -> int | None:
    """Return where the header of a message begins, None if it has none.

    Above it may stand a BOM, blank lines, mbox lines and other lines that are no fields; if these
    are a paragraph of their own, the next one has to begin as headers do.

    Args:
        head: the beginning of a raw message.
    """
    at = len(BOM) if head.startswith(BOM) else 0
    if _FIELD_HERE.match(head, at):
        return at
    for can_begin in (_first_field, _later_header):
        at = _after_blank_lines(head, at)
        end = _end(head, at)
        found = can_begin(head, at, len(head) if end is None else end)
        if found is not None:
            many = found > ABOVE_SIZE or _strays(head, found) > ABOVE_LIMIT
            return None if many else found
        if end is None:
            return None
        at = end
    return None


def _first_field(head: bytes, start: int, end: int) -> int | None:
    found = _FIELD.search(head, start, end)
    return None if found is None else found.start()


def _later_header(head: bytes, start: int, end: int) -> int | None:
    return start if _LATER_HEADER.match(head, start, end) else None


def first_line(head: bytes) -> int:
    """Return where the first line begins that is not blank."""
    return _after_blank_lines(head, len(BOM) if head.startswith(BOM) else 0)


def _after_blank_lines(head: bytes, at: int) -> int:
    blank = _BLANK_LINES.match(head, at)
    return at if blank is None else blank.end()


def _strays(head: bytes, end: int) -> int:
    """Return how many lines stand above the header; blank ones in a row are one."""
    return len(_STRAY.findall(head, 0, end))


def header_block(head: bytes, start: int = 0) -> bytes | None:
    """Return the lines above the first blank line, or None if there is no blank line.

    Args:
        head: the beginning of a raw message, with CRLF, CR CR LF or LF line ends.
        start: where its header begins; not at a blank line.
    """
    end = _end(head, start)
    return None if end is None else head[start:end]


def _end(head: bytes, start: int) -> int | None:
    """Return where the first blank line begins that is not at ``start``, or None."""
    none = len(head)
    found = head.find(b"\n\r\n", start)
    end = none if found < 0 else found
    found = head.find(b"\n\n", start, end + 1)
    end = end if found < 0 else found
    found = head.find(b"\n\r\r", start, end)
    if found >= 0 and (doubled := _DOUBLED.search(head, found)) is not None:
        end = min(end, doubled.start())
    return None if end == none else end + 1


def fields(block: bytes) -> Fields:
    """Return the fields of a header block that are ``WANTED`` (RFC 5322 section 2.2).

    A folded line belongs to the line above it; white space before the colon is allowed
    (section 4.5); a line without a colon is no field and is passed over.
    """
    found: dict[bytes, list[bytes]] = {name: [] for name in WANTED}
    lines = block.replace(b"\r\n", b"\n").replace(b"\n ", b" ").replace(b"\n\t", b" ")
    for line in lines.split(b"\n"):
        name, colon, body = line.partition(b":")
        bodies = found.get(name.rstrip().lower())
        if bodies is not None and colon:
            bodies.append(body)
    return found


def has_field(block: bytes) -> bool:
    """Return whether any line of a header block is a header field, wanted or not."""
    return _FIELD.search(block) is not None


def text(body: bytes) -> str:
    """Return the body of a field as text; what is not UTF-8 becomes replacement characters."""
    return body.strip().decode("utf-8", "replace")[:TEXT_LIMIT]


def address(body: bytes) -> str:
    """Return the address in a field of ours, with or without angle brackets around it."""
    return text(body).strip("<>")


def marked_before(block: bytes) -> list[bytes]:
    """Return the bodies of the Delivered-To fields that an older version of this program wrote.

    Up to version 0.1 they stood right above X-POP3-Connector-Account. All others are not ours.

    Args:
        block: a header block.
    """
    found: list[bytes] = []
    run: list[bytes] = []
    for line in block.splitlines():
        if line.startswith(_DELIVERED_TO):
            run.append(line.removeprefix(_DELIVERED_TO))
            continue
        if line.startswith(_ACCOUNT):
            found += run
        run = []
    return found
