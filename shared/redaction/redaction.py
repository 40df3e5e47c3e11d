"""What a server says, less the password that it was sent: one filter for each connection.

Passwords of others, and former ones, are hidden as well as may be: see
shared.redaction.known_secrets.

Some servers repeat what they were sent, in a refusal, a line out of turn, a UIDL. What is hidden is
the password, wherever it stands and in whichever case: as it is; as UTF-8 read as Latin-1; in
percent, quoted-printable, HTML or backslash escapes of any of it; in hexadecimal; and in base64 at
any offset: then all of the base64 goes, so that what AUTH sends is found too. A password of less
than WORD characters would be found in every other word: it is hidden where it stands by itself. Of
one with blanks, words that are long enough are hidden as well, as servers split lines at these.

What has been answered to challenges (``learn``) is hidden likewise, as it is: from a hash of the
password others may find out the password.

It is no place to keep a password: it lives as long as the connection does. It trusts no server:
its cost grows with the length of a text, whatever that is.

Known limits: what a server tells in another encoding, or in pieces, is shown, and so is a short
password within a word. Mail is not filtered: a server that puts the password into a message puts it
into the user's mailbox.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import re
from collections.abc import Iterator
from typing import Final

from shared.redaction.escapes import MARKS, unescaped
from shared.redaction.known_secrets import HIDDEN, KnownSecrets

WORD: Final = 4
"""Characters of a secret below which it may well be a part of another word."""

LEARNT: Final = 16
"""Characters of an answer to a challenge below which it may well be a part of something else."""

PSEUDONYM: Final = "hidden-"
"""How the stand-in of a text begins that must work as a name."""

_TOKEN: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_")
_TOKEN_EDGES: Final = (r"(?<![A-Za-z0-9+/])", r"(?![A-Za-z0-9+/])")
_WORD_EDGES: Final = (r"(?<!\w)", r"(?!\w)")
_COST: Final = 2**13
"""Of a key (scrypt): what each guess costs, as for a password that was refused."""


class Redaction:
    """Hides the password of a connection, and those that the process knows besides.

    Args:
        password: "" where there is no login.
        user: whose it is.
        server: where, as ``host:port``.
        known: the others; it learns this one, for it may be a former one later.
    """

    def __init__(
        self,
        password: str = "",
        user: str = "",
        server: str = "",
        known: KnownSecrets | None = None,
    ) -> None:
        self._password = password
        self._user = user
        self._known = known
        self._salt = f"{server}\0{user}"
        if known is not None and password:
            known.learn(password, self._salt)
        self._learnt: list[str] = []
        self._key: bytes | None = None
        self._pattern: re.Pattern[str] | None = None
        self._plain = sorted({form.lower() for form in _plain(password)}) if password else []
        self._encoded = _encoded(password, user) if password else []

    def learn(self, *texts: str) -> None:
        """Hide these from now on, but for what is short enough to be a word."""
        if self._password:
            self._learnt += [text for text in texts if len(text) >= LEARNT]

    def holds(self, text: str) -> bool:
        """Return whether there is anything to hide in a text: of others, what is long enough."""
        if any(learnt in text for learnt in self._learnt):
            return True
        if self._may_hold(text) and self._forms().search(text) is not None:
            return True
        return self._known is not None and self._known.within(text)

    def hidden(self, text: str) -> str:
        """Return a text less all passwords; it is not yet fit to be shown (``printable``)."""
        for learnt in self._learnt:
            text = text.replace(learnt, HIDDEN)
        rest = self._less_its_own(text)
        return rest if self._known is None else self._known.hidden(rest, self._salt)

    def _less_its_own(self, text: str) -> str:
        if not self._may_hold(text):
            return text
        parts, done = [], 0
        for found in self._forms().finditer(text):
            start, end = found.span()
            if end <= done:
                continue  # within base64 that is hidden already
            start = max(start, done)
            if found.lastgroup is not None:
                start, end = _token(text, start, end, done)
            parts += [text[done:start], HIDDEN]
            done = end
        return "".join(parts) + text[done:]

    def _may_hold(self, text: str) -> bool:
        """Return whether to look with the pattern, which is far slower than this."""
        lower = text.lower()
        for form in self._plain:
            if form in lower:
                return True
        for form in self._encoded:
            if form in text:
                return True
        if not any(mark in text for mark in MARKS):
            return False
        plain = unescaped(lower)[0].lower()
        return any(form in plain for form in self._plain)

    def _forms(self) -> re.Pattern[str]:
        if self._pattern is None:
            self._pattern = re.compile("|".join(_patterns(self._password, self._user)))
        return self._pattern

    def pseudonym(self, text: str) -> str:
        """Return a stand-in for a text that holds the password: the same for the same text, always.

        The key is costly, here once, and for whoever guesses with each guess.
        """
        if self._key is None:
            self._key = hashlib.scrypt(
                _bytes(self._password), salt=_bytes(self._salt), n=_COST, r=8, p=1, dklen=32
            )
        digest = hmac.digest(self._key, _bytes(text), "sha256")
        return f"{PSEUDONYM}{digest[:16].hex()}"


NOTHING: Final = Redaction()
"""Hides nothing: there is no password."""


def _token(text: str, start: int, end: int, done: int) -> tuple[int, int]:
    """Return where the base64 begins and ends of which a part is the password."""
    while start > done and text[start - 1] in _TOKEN:
        start -= 1
    while end < len(text) and text[end] in _TOKEN:
        end += 1
    while end < len(text) and text[end] == "=":
        end += 1
    return start, end


def _patterns(password: str, user: str) -> Iterator[str]:
    """Yield the patterns of all forms in which a server may repeat a password."""
    short = len(password) < WORD
    before, after = _WORD_EDGES if short else ("", "")
    yield f"(?i:{before}{_escapable(password)}{after})"
    yield f"(?i:{before}{_bytes(password).hex()}{after})"
    for word in _words(password):
        yield f"(?i:{_WORD_EDGES[0]}{re.escape(word)}{_WORD_EDGES[1]})"
    before, after = _TOKEN_EDGES if short else ("", "")
    encoded = "|".join(re.escape(form) for form in _encoded(password, user))
    yield f"(?P<base64>{before}(?:{encoded}){after})"


def _words(password: str) -> list[str]:
    words = password.split()
    return [word for word in words if len(word) >= WORD] if words != [password] else []


def _plain(password: str) -> Iterator[str]:
    """Yield what a text has in it that holds the password, once escapes are undone."""
    encoded = _bytes(password)
    for form in (password, encoded.decode("latin-1")):
        yield form
        yield form.replace(" ", "+")  # as in a URL
    yield from (encoded.hex(), *_words(password))


def _escapable(password: str) -> str:
    """Return the pattern of a password of which any character may be escaped."""
    return "".join(f"(?:{'|'.join(_escapes(character))})" for character in password)


def _escapes(character: str) -> Iterator[str]:
    """Yield patterns of the ways to write a character."""
    yield re.escape(character)
    yield rf"\\{re.escape(character)}"
    yield from (rf"&#{ord(character)};", rf"&#x{ord(character):x};", rf"\\u{ord(character):04x}")
    if (named := html.escape(character)) != character:
        yield re.escape(named)
    if character == " ":
        yield r"\+"
    yield "".join(_escapes_of_byte(byte) for byte in _bytes(character))


def _escapes_of_byte(byte: int) -> str:
    return rf"(?:{re.escape(chr(byte))}|[%=]{byte:02x}|\\x{byte:02x}|\\{byte:03o})"


def _encoded(password: str, user: str) -> list[str]:
    """Return base64: what this alone determines, at each offset; of a short one, what is sent."""
    if len(password) < WORD:
        sent = (password, f"\0{user}\0{password}", f"{user}\0{password}", f"{user}:{password}")
        return [base64.b64encode(_bytes(text)).decode().rstrip("=") for text in sent]
    secret, cores = _bytes(password), set()
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + secret).decode()
        core = encoded[-(-offset * 8 // 6) : (offset + len(secret)) * 8 // 6]
        cores |= {core, core.replace("+", "-").replace("/", "_")}
    return sorted(cores)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
