"""The entries of a fetchmailrc: servers, their users, and the options of both (rcfile_y.y).

More is taken than fetchmail takes: options of a server may stand among those of its users. The
values of ``defaults`` are filled in where an entry has none of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from services.postmaster.moving.fetchmail.words import Word, words
from services.postmaster.moving.found import Option, Place, Wrong
from services.postmaster.moving.options import names

_ALIASES: Final = {
    "proto": "protocol",
    "port": "service",
    "local": "localdomains",
    "auth": "authenticate",
    "preauth": "authenticate",
    "preauthenticate": "authenticate",
    "pass": "password",
    "smtp": "smtphost",
    "pre": "preconnect",
    "post": "postconnect",
    "folders": "folder",
    "pass8": "pass8bits",
    "mimedec": "mimedecode",
}
_ONE: Final = names(
    """
    via protocol service interval authenticate timeout qvirtual interface monitor plugin
    plugout principal esmtpname esmtppassword bad-header smtpaddress smtpname mda bsmtp
    preconnect postconnect limit warnings batchlimit fetchlimit fetchsizelimit fastuidl
    expunge properties sslkey sslcert sslproto sslcertpath sslcertfile sslcommonname
    sslfingerprint password
    """
)
"""Options with a value."""

_MANY: Final = names("aka localdomains folder smtphost fetchdomains antispam")
"""Options with some values."""

_FLAGS: Final = names(
    """
    dns checkalias uidl tracepolls keep flush limitflush fetchall rewrite forcecr stripcr
    pass8bits dropstatus dropdelivered mimedecode idle lmtp ssl sslcertck sdps envelope
    """
)
"""Options that are there, or not, or denied by ``no``, also in one word with it."""

_OF_SERVERS: Final = names(
    """
    via aka localdomains protocol service interval authenticate timeout envelope qvirtual
    interface monitor plugin plugout principal esmtpname esmtppassword bad-header dns
    checkalias uidl tracepolls sdps
    """
)
_BEGIN: Final = ("poll", "server", "skip", "defaults", "set")
_OTHERS: Final = frozenset({*_BEGIN, *_ALIASES, "user", "username", "is", "to", "here", "there"})
_DENIED: Final = frozenset({"no", "nopass8", "nomimedec", *(f"no{flag}" for flag in _FLAGS)})
_KEYWORDS: Final = _ONE | _MANY | _FLAGS | _OTHERS | _DENIED
_GLOBAL_FLAGS: Final = names("syslog invisible showdots bouncemail spambounce softbounce")
NO: Final = "no"
"""The value of a flag that is denied; of one that is not, it is empty."""


@dataclass
class User:
    """A user of a server.

    Attributes:
        named: whether it begins with ``user``.
        remote: whom to log in as, there; empty where it is not said.
        local: who gets the mail here; with ``*`` or ``=`` in it where it depends on the mail.
    """

    line: int
    named: bool
    remote: str = ""
    local: list[str] = field(default_factory=list)
    options: dict[str, Option] = field(default_factory=dict)


@dataclass
class Entry:
    """A server.

    Attributes:
        name: as it is polled by.
        skip: whether it is polled only when it is named.
    """

    line: int
    name: str
    skip: bool = False
    options: dict[str, Option] = field(default_factory=dict)
    users: list[User] = field(default_factory=list)


def entries(text: str, file: str) -> tuple[list[Entry], dict[str, Option]]:
    """Return the entries of a file, and its global options.

    Args:
        text: all of it.
        file: its name, for places.

    Raises:
        Wrong: it is no fetchmailrc.
    """
    return _Reader(list(words(text)), file).read()


class _Reader:
    def __init__(self, found: Sequence[Word], file: str) -> None:
        self._words = found
        self._file = file
        self._at = 0
        self._entries: list[Entry] = []
        self._globals: dict[str, Option] = {}
        self._defaults: Entry | None = None

    def read(self) -> tuple[list[Entry], dict[str, Option]]:
        while (word := self._next()) is not None:
            if not word.is_keyword(*_BEGIN):
                raise self._wrong(word, "expected poll, skip, defaults or set")
            if word.text == "set":
                self._read_global()
            else:
                self._read_entry(word)
        for entry in self._entries:
            self._fill_in(entry)
        return self._entries, self._globals

    def _read_entry(self, word: Word) -> None:
        defaults = word.text == "defaults"
        name = word if defaults else self._value(word)
        entry = Entry(word.line, name.text, skip=word.text == "skip")
        while (following := self._peek()) is not None and not following.is_keyword(*_BEGIN):
            self._next()
            self._read_of_entry(entry, following)
        if defaults:
            self._defaults = entry
        else:
            self._entries.append(entry)

    def _read_of_entry(self, entry: Entry, word: Word) -> None:
        if word.is_keyword("user", "username"):
            if entry.users and not entry.users[-1].named:
                raise self._wrong(word, "expected the options of a user below it")
            entry.users.append(User(word.line, named=True))
            self._read_names(entry.users[-1], remote=True)
        elif word.is_keyword("is", "to"):
            self._read_names(self._user(entry, word), remote=False)
        elif word.is_keyword("here", "there"):
            return
        else:
            option = self._option(word)
            of_server = option.name in _OF_SERVERS
            into = entry.options if of_server else self._user(entry, word).options
            into[option.name] = option

    def _user(self, entry: Entry, word: Word) -> User:
        """Return the user that is described; the first one may be nameless."""
        if not entry.users:
            entry.users.append(User(word.line, named=False))
        return entry.users[-1]

    def _read_names(self, user: User, *, remote: bool) -> None:
        """Read who is meant: there, unless ``here`` says otherwise, or the other way round."""
        names = self._names()
        following = self._peek()
        if following is not None and following.is_keyword("here", "there"):
            self._next()
            remote = following.text == "there"
        if remote and names:
            user.remote = names[0]
        else:
            user.local += names

    def _names(self) -> list[str]:
        names: list[str] = []
        while (word := self._peek()) is not None and (word.name or word.text not in _KEYWORDS):
            self._next()
            if word.is_keyword("="):
                target = self._next()
                names[-1:] = [f"{names[-1] if names else ''}={target.text if target else ''}"]
            else:
                names.append(word.text)
        return names

    def _option(self, word: Word) -> Option:
        name, denied = _ALIASES.get(word.text, word.text), False
        if word.is_keyword("no") and (following := self._next()) is not None:
            name, denied = _ALIASES.get(following.text, following.text), True
        elif word.is_keyword(*_DENIED):
            name, denied = _ALIASES.get(word.text[2:], word.text[2:]), True
        place = Place(self._file, word.line)
        if word.name or name not in _ONE | _MANY | _FLAGS:
            raise self._wrong(word, "this is no option of fetchmail")
        if denied:
            return Option(place, name, NO)
        if name in _ONE:
            return Option(place, name, self._value(word).text)
        if name == "envelope" or name in _MANY:
            return Option(place, name, " ".join(self._names()))
        return Option(place, name, "")

    def _read_global(self) -> None:
        word = self._next()
        if word is None:
            return
        place, name = Place(self._file, word.line), word.text
        if word.is_keyword("no") and (following := self._next()) is not None:
            self._globals[following.text] = Option(place, following.text, NO)
        elif name in _GLOBAL_FLAGS:
            self._globals[name] = Option(place, name, "")
        else:
            self._globals[name] = Option(place, name, self._value(word).text)

    def _fill_in(self, entry: Entry) -> None:
        """Fill in what ``defaults`` says and the entry does not; what is left of a user, too."""
        if not entry.users:
            entry.users.append(User(entry.line, named=False))
        if self._defaults is None:
            return
        entry.options = {**self._defaults.options, **entry.options}
        for usual in self._defaults.users[:1]:
            for user in entry.users:
                user.options = {**usual.options, **user.options}
                user.remote = user.remote or usual.remote
                user.local = user.local or usual.local

    def _peek(self) -> Word | None:
        return self._words[self._at] if self._at < len(self._words) else None

    def _next(self) -> Word | None:
        word = self._peek()
        self._at += 1
        return word

    def _value(self, of: Word) -> Word:
        word = self._next()
        if word is not None and word.is_keyword("="):
            word = self._next()
        if word is None:
            raise self._wrong(of, "nothing follows")
        return word

    def _wrong(self, word: Word, what: str) -> Wrong:
        return Wrong(Place(self._file, word.line), what)  # the word might be a secret
