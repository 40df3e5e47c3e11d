"""Tables of the options of other programs: what each of them becomes.

A row is a function of the option's text. It returns keys of our account, which may be none (what
means nothing here, or is so anyway); or it raises ``NotCarried`` with what to do. So a setting that
we get is one row in each table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from services.postmaster.moving.found import Found, FoundAccount, Option
from shared.log import printable
from shared.settings.values import expanded

Keys: TypeAlias = Mapping[str, object]
Row: TypeAlias = Callable[[str], Keys]

_OF_TLS: Final[Mapping[str, str | None]] = {
    "tls_fingerprint": None,
    "client_cert": None,
    "client_key": "client_cert",
}
"""Keys that go with TLS alone, each with the one that it needs beside it."""

_SECRET: Final = re.compile("pass|eval")


class NotCarried(Exception):
    """An option cannot be carried over; its text says what to do."""


def apply(rows: Mapping[str, Row], option: Option, account: FoundAccount, found: Found) -> None:
    """Carry an option over into an account, or note that it cannot be.

    Args:
        rows: the table of the program.
        option: as it stands; one that the table does not have cannot be carried over.
        account: gets its keys.
        found: is told of what is left.
    """
    row = rows.get(option.name, _unknown)
    try:
        account.keys.update(row(option.value))
    except NotCarried as why:
        found.leave(option.place, shown(option), str(why))


def shown(option: Option) -> str:
    """Return an option as it stands, for the user: of a command its name, it may hold secrets."""
    first, *more = option.value.split() or [""]
    if not first or _SECRET.search(option.name):
        return option.name
    return f"{option.name} {printable(first, 80)}{' ...' if more else ''}"


def without_tls(keys: dict[str, object]) -> None:
    """Take away what means nothing without TLS, or without the certificate that goes with it."""
    secured = keys["tls"] != "none"
    for name, needs in _OF_TLS.items():
        if not (secured and (needs is None or needs in keys)):
            keys.pop(name, None)


def names(text: str) -> frozenset[str]:
    """Return the words of a text, which are names of options."""
    return frozenset(text.split())


def key(name: str, make: Callable[[str], object] = str) -> Row:
    """Return the row of an option that is this key of ours.

    Args:
        name: the key.
        make: its value; raises ValueError where the text means none.
    """

    def carry(text: str) -> Keys:
        try:
            return {name: make(text)}
        except ValueError as why:
            raise NotCarried(f"this is not understood ({why}): see {name}") from None

    return carry


def lost(advice: str) -> Row:
    """Return the row of an option that we have nothing for.

    Args:
        advice: what to do.
    """

    def refuse(_: str) -> Keys:
        raise NotCarried(advice)

    return refuse


def nothing(_: str) -> Keys:
    """Carry over an option that means nothing here, or is so anyway."""
    return {}


def unless(usual: str, row: Row) -> Row:
    """Return a row for an option that means nothing where it has its usual value.

    Args:
        usual: that value.
        row: for the others.
    """
    return lambda text: {} if text == usual else row(text)


TOKEN: Final = lost("a token is no password: give the account a table [account.oauth]")
"""The row of a login by OAuth, whose tokens another program got from a script."""

_unknown: Final = lost("the connector does not know this option: leave it out if it works without")


def number(text: str) -> int:
    """Return a number that is not negative."""
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError("expected a number")
    return int(text)


def seconds(text: str) -> str:
    """Return a duration of ours for a number of seconds, not none."""
    if not (count := number(text)):
        raise ValueError("expected some seconds")
    return f"{count}s"


def file_at(text: str) -> str:
    """Return an absolute path, ``~`` expanded."""
    path = expanded(text)
    if not path.is_absolute():
        raise ValueError("expected an absolute path")
    return str(path)


def fingerprint(text: str) -> str:
    """Return the SHA-256 fingerprint of a certificate as we write it.

    Raises:
        ValueError: it is of MD5 or SHA-1.
    """
    digits = re.sub(r"(?i)^sha256[:=]?|[: ]", "", text).lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError("only SHA-256 is safe: openssl x509 -noout -fingerprint -sha256 shows it")
    return f"sha256:{digits}"
