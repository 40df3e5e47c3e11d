"""Escapes in the text of a server undone: percent, quoted-printable, HTML, backslashes."""

from __future__ import annotations

import html
import re
from typing import Final

MARKS: Final = ("%", "=", "\\", "&")
"""What escapes begin with: a text without any of these has none."""

_ESCAPE: Final = re.compile(
    r"(?:[%=]|\\x)(?P<byte>[0-9a-f]{2})|\\u(?P<code>[0-9a-f]{4})|\\(?P<octal>[0-3][0-7]{2})"
    r"|(?P<html>&(?:#[0-9]{1,7}|#x[0-9a-f]{1,6}|amp|lt|gt|quot);)|\\(?P<itself>.)",
    re.DOTALL | re.IGNORECASE,
)


def unescaped(text: str) -> tuple[str, list[int]]:
    """Return a text with its escapes undone, bytes as Latin-1; and where each character was.

    Args:
        text: as a server says it.

    Returns:
        The text; and for each of its characters, and for its end, the place in what was given.
    """
    parts: list[str] = []
    places: list[int] = []
    done = 0
    for found in _ESCAPE.finditer(text):
        start, end = found.span()
        meant = _meaning(found)
        parts += [text[done:start], meant]
        places += range(done, start)
        places += [start] * len(meant)
        done = end
    places += range(done, len(text) + 1)
    return "".join(parts) + text[done:], places


def _meaning(found: re.Match[str]) -> str:
    kind = found.lastgroup or ""
    text = found[kind]
    if kind == "html":
        return html.unescape(text.lower())
    return text if kind == "itself" else chr(int(text, 8 if kind == "octal" else 16))
