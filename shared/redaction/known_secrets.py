"""The passwords that a process has used or read, to be hidden in whatever a server says.

A server may answer with the password of somebody else (one database for all of its accounts), or
with one that was changed since. So every process has one collection, which only grows, and every
connection hides what is in it, beside its own password (``shared.redaction.redaction``). It holds
hashes that mean nothing outside of this process, no text. To look through a text takes the same
time for one password as for 100,000.

A hoster has 50,000 accounts, and some of their passwords are words that servers say. What is hidden
therefore depends on what a password looks like:

- eight characters or more, of more than one kind: wherever it stands, whichever case;
- a shorter one: where it stands by itself, as a word does;
- a word or a number such as "sunshine" or "123456", of less than 16 characters: in quotes, or right
  behind ``=`` or ``:``; on connections of whose login it was, wherever it stands by itself;
- less than four characters: not at all.

As it is, or in escapes, in hexadecimal, and in base64 at any offset, of which all is hidden.

Known limits: a process forgets when it ends, and all at once beyond MOST. A password that it has
never read (in a file of an account that was not polled yet) is shown. See also
shared.redaction.redaction.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Final

from shared.redaction.escapes import MARKS, unescaped

HIDDEN: Final = "***"
"""What stands in place of a secret."""

LEAST: Final = 4
"""Characters below which a password is not looked for: it would be found everywhere."""

MOST: Final = 200_000
"""Passwords that are known at a time; beyond that, those in use are learnt anew when used."""

LONGEST: Final = 8 * 1024
"""Characters of a text that are looked at: far more than is ever shown."""

_GRAM: Final = 6
_STEP: Final = 3
_PART: Final = _GRAM + _STEP - 1
"""Characters from which on a secret is found within words: so many that a look at every third place
meets with one of its beginnings."""

_LONG: Final = 16
"""Characters from which on a word is none that anybody says."""

_EVERYDAY: Final = re.compile(r"\d+|[^\W\d_]+")
_CHUNK: Final = re.compile(r"[^\s\0-\x20]+")
_WORD: Final = re.compile(r"[^\s\0-\x20\"'`<>()\[\]{}=:,;]+")
_CODES: Final = frozenset(("in-use", "sys/temp", "sys/perm", "login-delay"))
"""What servers say to be understood (RFC 2449 section 8, RFC 3206), in small letters."""

_EDGES: Final = "\"'`<>()[]{},;.!?"
_BEFORE: Final = "\"'`<=:"
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{8,}={0,2}")
_HEX: Final = re.compile(r"[0-9A-Fa-f]{8,}")
_GLUED: Final = 12
"""Characters of base64 from which on it may have begun behind something that looks like it."""

_STANDARD: Final = str.maketrans("-_", "+/")


class KnownSecrets:
    """What a process has used or read. Any thread may use it."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._grams: set[int] = set()
        self._parts: set[int] = set()
        self._lengths: tuple[int, ...] = ()
        self._words: set[int] = set()
        self._everyday: set[int] = set()
        self._own: set[int] = set()

    def learn(self, secret: str, owner: str = "") -> None:
        """Hide a password from now on.

        Args:
            secret: the password.
            owner: whose it is: the connections with this one hide it even if it is a plain word.
        """
        if len(self._parts) + len(self._words) + len(self._everyday) >= MOST:
            self._forget()
        for form in _forms(secret):
            self._add(form, owner)

    def _add(self, form: str, owner: str) -> None:
        key = hash(form)
        if len(form) < LEAST or form in _CODES:
            return
        if len(form) < _LONG and _EVERYDAY.fullmatch(form):
            self._everyday.add(key)
            self._own.add(hash((owner, form)))
        elif len(form) < _PART:
            self._words.update((key, hash(form.strip(_EDGES))))
        elif key not in self._parts:
            self._grams.update(hash(form[at : at + _GRAM]) for at in range(_STEP))
            if len(form) not in self._lengths:
                self._lengths = tuple(sorted({*self._lengths, len(form)}, reverse=True))
            self._parts.add(key)

    def within(self, text: str) -> bool:
        """Return whether one that is long enough stands in a text, as it is; for long texts."""
        if not self._parts:
            return False
        return next(self._parts_in(_lower(text)), None) is not None

    def hidden(self, text: str, owner: str = "") -> str:
        """Return a text less all that is known; what is beyond LONGEST is left out.

        Args:
            text: of a server.
            owner: whose connection it came over.
        """
        if len(text) > LONGEST:
            text = text[:LONGEST].rpartition(" ")[0]
        parts, done = [], 0
        for start, end in sorted(self._spans(text, owner)):
            if end > done:
                parts += [text[done : max(start, done)], HIDDEN if start >= done else ""]
                done = end
        return "".join(parts) + text[done:]

    def _spans(self, text: str, owner: str) -> Iterator[tuple[int, int]]:
        if not (self._parts or self._words or self._everyday):
            return
        yield from self._found(_lower(text), owner)
        if any(mark in text for mark in MARKS):
            plain, places = unescaped(text)
            yield from ((places[s], places[e]) for s, e in self._found(_lower(plain), owner))
        for token in (*_BASE64.finditer(text), *_HEX.finditer(text)):
            for decoded in _decoded(token[0]):
                if next(self._found(_lower(decoded), owner), None) is not None:
                    yield token.span()
                    break

    def _found(self, lower: str, owner: str) -> Iterator[tuple[int, int]]:
        yield from self._parts_in(lower)
        if not (self._words or self._everyday):
            return
        for chunk in _CHUNK.finditer(lower):
            yield from self._word_in(lower, *chunk.span(), owner)
            for word in _WORD.finditer(lower, *chunk.span()):
                if word.span() != chunk.span():
                    yield from self._word_in(lower, *word.span(), owner)

    def _word_in(self, lower: str, start: int, end: int, owner: str) -> Iterator[tuple[int, int]]:
        """Yield where a word stands, less what surrounds it, if it is a secret."""
        whole = lower[start:end]
        if hash(whole) in self._words:
            yield start, end
            return
        bare = whole.lstrip(_EDGES)
        start += len(whole) - len(bare)
        bare = bare.rstrip(_EDGES)
        key = hash(bare)
        if len(bare) < LEAST or (key not in self._words and key not in self._everyday):
            return
        pointed = start > 0 and lower[start - 1] in _BEFORE
        if key in self._words or pointed or hash((owner, bare)) in self._own:
            yield start, start + len(bare)

    def _parts_in(self, lower: str) -> Iterator[tuple[int, int]]:
        """Yield where secrets stand, the longest first of those with one beginning."""
        grams, parts = self._grams, self._parts
        for at in range(0, len(lower) - _GRAM + 1, _STEP):
            if hash(lower[at : at + _GRAM]) not in grams:
                continue
            for start in range(max(0, at - _STEP + 1), at + 1):
                for length in self._lengths:
                    if hash(lower[start : start + length]) in parts:
                        yield start, min(start + length, len(lower))
                        break


def _forms(secret: str) -> set[str]:
    """Return what a text has in it that holds a secret, once it is decoded, in small letters."""
    encoded = secret.encode("utf-8", "surrogatepass")
    words = secret.split()
    forms = {secret, encoded.decode("latin-1"), secret.replace(" ", "+")}
    if len(words) > 1:
        forms.update(word for word in words if not _EVERYDAY.fullmatch(word))
    return {_lower(form) for form in forms}


def _lower(text: str) -> str:
    """Return a text in small letters, each where it was."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(low if len(low := each.lower()) == 1 else each for each in text)


def _decoded(token: str) -> Iterator[str]:
    """Yield what a text may stand for, read as base64 or as hexadecimal."""
    bare = token.rstrip("=").translate(_STANDARD)
    for start in range(4 if len(bare) >= _GLUED else 1):
        piece = bare[start:]
        piece = piece[: len(piece) - (len(piece) % 4 == 1)]
        yield base64.b64decode(piece + "=" * (-len(piece) % 4)).decode(errors="ignore")
    if _HEX.fullmatch(token):
        for start in (0, 1):
            piece = token[start:]
            with_whole_bytes = piece[: len(piece) - len(piece) % 2]
            yield binascii.unhexlify(with_whole_bytes).decode(errors="ignore")
