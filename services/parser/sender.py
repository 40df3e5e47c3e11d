"""Reads the envelope sender out of a Return-Path field, in whichever way it was written there.

By RFC 5321 section 4.4 it is an address in angle brackets; real ones stand beside display names and
comments, in quotes, after a BOM, among blanks. It trusts nothing and raises nothing. What cannot be
an address on an envelope is for the rewriter to find out, and what a server does not take as sender
for the deliverer.
"""

from __future__ import annotations

import re
from typing import Final

from services.parser.header import TEXT_LIMIT

_READ: Final = 998
"""Bytes of a field that may be read: a line of mail (RFC 5322 section 2.1.1)."""

_UNDECODABLE: Final = "\N{REPLACEMENT CHARACTER}"
_UNSEEN: Final = dict.fromkeys(map(ord, "\ufeff\u200b\u200e\u200f\u2060"))
"""BOM and other characters that take no room: they stand around an address unseen."""

_AROUND: Final = " \t'"
_PLAIN: Final = re.compile(r"<(?:@[^<>:\s]*:)?((?!')[^<>\s\"]*)>|([^<>\s()\"']+)")
_COMMENT: Final = re.compile(r'("(?:\\.|[^"\\])*")|\((?:\\.|[^()\\])*\)')
_NESTED: Final = 10
_ANGLE: Final = re.compile(r'"(?:\\.|[^"\\])*"|(<+[^<>]*)')
_ROUTE: Final = re.compile(r"\A@[^:\s]*:")
_MAILBOX: Final = re.compile(r'(?:"(?:\\.|[^"\\])*"|[^\s"<>@]+(?:@[^\s"<>@]+)*)@[^\s"<>@,;]+')


def reverse_path(body: bytes) -> str | None:
    """Return the address of a Return-Path field, "" for ``<>``, None where none can be read.

    A source route is dropped (RFC 5321 section 4.4 and appendix C).
    """
    path = body[:_READ].strip().decode("utf-8", "replace")
    if len(body) > _READ:
        return None
    if not path.isprintable():
        path = path.translate(_UNSEEN).strip()
    plain = _PLAIN.fullmatch(path)
    found = (plain[2] or plain[1]) if plain is not None else _read(_without_comments(path))
    if found is None or len(found) >= TEXT_LIMIT or _UNDECODABLE in found:
        return None
    return found if found.isprintable() else None


def _without_comments(path: str) -> str:
    """Return a path without comments, nested ones too (RFC 5322 section 3.2.2)."""
    for _ in range(_NESTED):
        shorter = _COMMENT.sub(lambda found: found[1] or " ", path)
        if shorter == path:
            break
        path = shorter
    return path


def _read(path: str) -> str | None:
    """Return the address in the first angle brackets; where there are none, the first there is."""
    bracketed: list[str] = list(filter(None, _ANGLE.findall(path)))
    if not bracketed:
        first = _MAILBOX.search(path)
        return None if first is None else first[0].strip("'")
    inside = _ROUTE.sub("", bracketed[0].lstrip("<").strip(_AROUND))
    if not _MAILBOX.fullmatch(inside):
        inside = inside.strip(_AROUND + '"')
    return inside if " " not in inside or _MAILBOX.fullmatch(inside) else None
