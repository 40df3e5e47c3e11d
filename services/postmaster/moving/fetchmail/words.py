"""The words of a fetchmailrc, as fetchmail's own scanner (rcfile_l.l) finds them.

A word is a keyword only where one may stand: after ``user``, ``is``, ``to``, ``=`` and ``password``
anything is a name. Noise words and ``: ; ,`` mean nothing. Backslashes are not C's: ``\\\\123`` is
decimal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

NOISE: Final = frozenset({"with", "and", "has", "wants", "options"})
_NAME_FOLLOWS: Final = frozenset({"user", "username", "pass", "password", "is", "to"})
_AUTH_FOLLOWS: Final = frozenset({"auth", "authenticate", "preauth", "preauthenticate"})
_TOKEN: Final = re.compile(
    r"(?P<skipped>(?:[ \t\r\n;:,]|\\\n)+|#[^\n]*)"
    r"|(?P<map>=)"
    # The longer match counts: what goes on after the second quotation mark was no quotation.
    r"|(?P<quoted>(?!(?:\"[^\"=;:, \t\r\n]*\"|'[^'=;:, \t\r\n]*')[^=;:, \t\r\n])"
    r"(?:\"[^\"]*\"|'[^']*'))"
    r"|(?P<word>[^=;:, \t\r\n]+)"
)
"""Any character begins one of them."""

_ESCAPE: Final = re.compile(
    r"\\(?:[xX]([0-9A-Fa-f]{0,2})|0([0-7]{0,2})|([1-9][0-9]{0,2})|(\n)|(.?))", re.DOTALL
)
_NAMED: Final = {"n": "\n", "t": "\t", "b": "\b", "r": "\r"}


class Word(NamedTuple):
    """A word.

    Attributes:
        text: its escapes undone.
        line: where it begins, from 1.
        name: whether it can be no keyword.
    """

    text: str
    line: int
    name: bool = False

    def is_keyword(self, *keywords: str) -> bool:
        """Return whether it is one of these keywords."""
        return not self.name and self.text in keywords


def words(text: str) -> Iterator[Word]:
    """Yield the words of a file."""
    line = 1
    name_follows = auth_follows = False
    for token in _TOKEN.finditer(text):
        raw = token[0]
        match token.lastgroup:
            case "map":
                yield Word(raw, line)
                name_follows = True
            case "quoted":
                yield Word(unescaped(raw[1:-1]), line, name=True)
                name_follows = auth_follows = False
            case "word" if name_follows:
                yield Word(unescaped(raw), line, name=raw != "*")
                name_follows = auth_follows = False
            case "word" if raw not in NOISE:
                yield Word(unescaped(raw), line)
                # Of "auth password", the second is no password.
                name_follows = raw in _NAME_FOLLOWS and not auth_follows
                auth_follows = raw in _AUTH_FOLLOWS
        line += raw.count("\n")


def unescaped(text: str) -> str:
    """Return a text with its backslash sequences undone."""
    return _ESCAPE.sub(_meaning, text)


def _meaning(found: re.Match[str]) -> str:
    hexadecimal, octal, decimal, line_end, plain = found.groups()
    if hexadecimal is not None:
        return chr(int(hexadecimal or "0", 16))
    if octal is not None:
        return chr(int(octal or "0", 8))
    if decimal is not None:
        return chr(int(decimal) % 256)
    if line_end is not None:
        return ""
    return _NAMED.get(plain, plain)
