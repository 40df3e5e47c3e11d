"""Makes header fields readable for people: decoded, without control characters, one short line.

It trusts nothing and raises nothing: what cannot be decoded is shown as it stands, escaped.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Sequence
from typing import Final

from services.parser.charset import codec_of
from services.parser.header import Fields
from shared.log import printable
from shared.message import Summary

SHOWN: Final = 200
"""Characters of a field that a person is shown."""

_READ: Final = 2000
"""Characters of a field that are decoded: enough for ``SHOWN``, however they are encoded."""

_WORD: Final = re.compile(r"=\?([^?\s]*)\?([bq])\?(.*?)\?=", re.IGNORECASE)
_SHOWN_AS: Final[dict[int, str | None]] = {
    **dict.fromkeys((0x09, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000), " "),
    **dict.fromkeys((0xAD, *range(0x200B, 0x2010), 0x2060, 0xFEFF)),
}
"""Tab, NBSP, and what else Unicode has of spaces (category Zs), are spaces; what takes no room (a
soft hyphen, joiners, marks of direction, BOM) is left out. What turns text round is escaped."""

_REPLACED: Final = "\N{REPLACEMENT CHARACTER}"


def summary(fields: Fields) -> Summary:
    """Return what a person recognises a message by; of repeated fields the first counts."""
    return Summary(
        _first(fields[b"from"]),
        _first(fields[b"subject"]),
        _first(fields[b"message-id"]),
        _first(fields[b"date"]),
    )


def _first(bodies: Sequence[bytes]) -> str:
    return readable(bodies[0]) if bodies else ""


def readable(body: bytes) -> str:
    """Return the body of a field as one line of text that is safe to show."""
    text = _text(body.strip())[:_READ]
    if "=?" in text:
        text = _decoded(text)
    if len(text) <= SHOWN and text.isprintable():
        return text
    return printable(text.translate(_SHOWN_AS).strip(), SHOWN)


def _text(body: bytes) -> str:
    """Return bytes as text of which nobody says what they are: mostly UTF-8 (RFC 6532)."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        pass
    text = body.decode("utf-8", "replace")
    wrong = text.count(_REPLACED)
    right = sum(character > "\x7f" for character in text) - wrong
    return text if right >= wrong else body.decode("cp1252", "replace")


def _decoded(text: str) -> str:
    """Return text with its encoded words decoded (RFC 2047).

    Words in a row are decoded together where they are of one charset: many a sender cuts between
    the bytes of a character. What is no encoded word, or a damaged one, stays as it is.
    """
    parts: list[tuple[str | None, bytes]] = []
    between, *words = _WORD.split(text)
    for charset, encoding, payload, behind in zip(*[iter(words)] * 4, strict=True):
        raw = _raw(encoding, payload)
        if raw is None:
            between += f"=?{charset}?{encoding}?{payload}?={behind}"
            continue
        if between.strip() or not parts:
            parts.append((None, between.encode()))
        _add(parts, charset.lower(), raw)
        between = behind
    return "".join(_part(charset, raw) for charset, raw in parts) + between


def _add(parts: list[tuple[str | None, bytes]], charset: str, raw: bytes) -> None:
    if parts[-1][0] == charset:
        parts[-1] = charset, parts[-1][1] + raw
    else:
        parts.append((charset, raw))


def _raw(encoding: str, payload: str) -> bytes | None:
    """Return the bytes that an encoded word stands for, None if it cannot be decoded."""
    if encoding in "qQ":
        return binascii.a2b_qp(payload.encode(), header=True)
    padded = payload.rstrip("=")
    try:
        return binascii.a2b_base64(padded.encode() + b"=" * (-len(padded) % 4))
    except binascii.Error:
        return None


def _part(charset: str | None, raw: bytes) -> str:
    if charset is None:
        return raw.decode()
    codec = codec_of(charset)
    if codec is None:
        return _text(raw)
    try:
        return raw.decode(codec, "replace")
    except (LookupError, ValueError):
        return _text(raw)
