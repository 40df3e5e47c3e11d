"""Makes header fields readable for people: decoded, without control characters, one short line.

It trusts nothing and raises nothing: what cannot be decoded is shown as it stands, escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from email.errors import HeaderParseError
from email.header import decode_header
from encodings import normalize_encoding
from encodings.aliases import aliases
from typing import Final

from services.parser.header import Fields
from shared.log import printable
from shared.message import Summary

SHOWN: Final = 200
"""Characters of a field that a person is shown."""

_READ: Final = 2000
"""Characters of a field that are decoded: enough for ``SHOWN``, however they are encoded."""


_CHARSETS: Final = frozenset((*aliases, *aliases.values(), "utf_8_sig"))
"""Charsets that Python may be asked for. It remembers all names that it was ever asked for in vain,
and mail can bring any number of them."""


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
    return printable(text.replace("\t", " "), SHOWN)


def _text(body: bytes) -> str:
    """Return raw bytes as text: they are UTF-8 (RFC 6532), or nobody knows what they are."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body.decode("latin-1")


def _decoded(text: str) -> str:
    """Return text with its encoded words decoded (RFC 2047)."""
    try:
        words = decode_header(text)
    except (HeaderParseError, ValueError):
        return text
    return "".join(_word(word, charset) for word, charset in words)


def _word(word: bytes | str, charset: str | None) -> str:
    if isinstance(word, str):
        return word
    if charset is None:
        return word.decode("raw-unicode-escape", "replace")
    name = normalize_encoding(charset.partition("*")[0]).lower()
    if name not in _CHARSETS:
        return word.decode("latin-1")
    try:
        return word.decode(name, "replace")
    except (LookupError, ValueError):
        return word.decode("latin-1")
