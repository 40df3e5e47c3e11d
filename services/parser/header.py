"""Finds the header block of a message and picks out the fields that later stages need.

It trusts nothing and raises nothing: real mail has bare LF line ends, 8-bit bytes, mbox lines and
junk among its fields, and all of that is read over. Bytes are only looked at, never changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

Fields: TypeAlias = Mapping[bytes, Sequence[bytes]]
"""The bodies of the fields of each name in ``WANTED``, top first, unfolded."""

WANTED: Final = (
    b"return-path",
    b"delivered-to",
    b"received",
    b"x-pop3-connector-account",
    b"from",
    b"subject",
    b"message-id",
    b"date",
)

TEXT_LIMIT: Final = 400
"""Characters of an address or name that are kept; RFC 5321 section 4.5.3.1 allows 320 octets."""

_FIELD: Final = re.compile(rb"^[!-9;-~]++[ \t]*+:", re.MULTILINE)
_PATH: Final = re.compile(r"<(?:@[^<>:\s]*:)?([^<>\s]*)>|([^<>\s]+)")
_UNDECODABLE: Final = "\N{REPLACEMENT CHARACTER}"


def header_block(head: bytes) -> bytes | None:
    """Return the lines above the first blank line, or None if there is no blank line.

    Args:
        head: the beginning of a raw message, with CRLF or LF line ends.
    """
    if head.startswith((b"\r\n", b"\n")):
        return b""
    crlf = head.find(b"\n\r\n")
    lf = head.find(b"\n\n", 0, crlf if crlf >= 0 else len(head))
    end = crlf if lf < 0 else lf
    return None if end < 0 else head[: end + 1]


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
    """Return the address of a Delivered-To field, with or without angle brackets around it."""
    return text(body).strip("<>")


def reverse_path(body: bytes) -> str | None:
    """Return the address of a Return-Path field, "" for ``<>``, None for what is neither.

    A source route is dropped (RFC 5321 section 4.4 and appendix C).
    """
    path = text(body)
    if len(path) == TEXT_LIMIT or not path.isprintable() or _UNDECODABLE in path:
        return None
    match = _PATH.fullmatch(path)
    return match and (match[2] or match[1])
