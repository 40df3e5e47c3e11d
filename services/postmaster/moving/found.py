"""What was found in the configuration of another program, in terms of ours.

Plain data. What stands in it was checked by the program it was written for, if by anybody: it is
checked as ours when it is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Place(NamedTuple):
    """Where something stands, for the user."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Left(NamedTuple):
    """Something that cannot be carried over.

    Attributes:
        place: where it stands.
        what: as it stands there; no secret.
        advice: what to do.
    """

    place: Place
    what: str
    advice: str


class FoundDestination(NamedTuple):
    """A destination.

    Attributes:
        url: of it.
        login: the keys ``username`` and ``password`` of its table, where there are any.
    """

    url: str
    login: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Maildrop:
    """What another program calls a maildrop in its records.

    Attributes:
        hosts: names that it may have for the server, the likeliest first.
        port: of the server.
        user: who logs in.
        records: files in which it may be remembered, the likeliest first.
    """

    hosts: tuple[str, ...]
    port: int
    user: str
    records: tuple[Path, ...] = ()

    @property
    def key(self) -> tuple[str, int, str]:
        """What it is, as far as that can be told: the server, and who logs in."""
        return self.hosts[0].lower(), self.port, self.user


@dataclass
class FoundAccount:
    """An account of another program.

    Attributes:
        place: where it begins.
        maildrop: what the program calls it.
        keys: the keys of our table, less ``name`` and ``destination``.
        delivery: where its mail goes; None where that cannot be carried over.
        note: what is said of it in the configuration that is written.
    """

    place: Place
    maildrop: Maildrop
    keys: dict[str, object] = field(default_factory=dict)
    delivery: FoundDestination | None = None
    note: str = ""

    @property
    def usable(self) -> bool:
        """Whether it would be polled as it stands."""
        return not self.lacks and self.keys.get("enabled", True) is True

    @property
    def lacks(self) -> str:
        """What has to be written by hand before it can be polled, in words; else nothing."""
        there = {
            "a host": bool(self.keys.get("host")),
            "a username": bool(self.keys.get("username")),
            "a password": any(key.startswith("password") for key in self.keys),
            "a destination": self.delivery is not None,
        }
        return " and ".join(what for what in there if not there[what])


@dataclass
class Found:
    """All that was found.

    Attributes:
        accounts: in the order in which they stand.
        left: what cannot be carried over.
    """

    accounts: list[FoundAccount] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    def leave(self, place: Place, what: str, advice: str) -> None:
        """Note something that cannot be carried over."""
        self.left.append(Left(place, what, advice))

    def poll_each_once(self) -> None:
        """Leave those accounts that are a second one for a maildrop: each would fetch all mail.

        Other programs have them (mpop: ``account default : other``), and remember by maildrop what
        was fetched; we do by account. Of several, the first stays that can be polled.
        """
        stay: dict[tuple[str, int, str], FoundAccount] = {}
        usable = [account for account in self.accounts if account.usable]
        for account in [*usable, *self.accounts]:
            stay.setdefault(account.maildrop.key, account)
        for account in self.accounts:
            other = stay[account.maildrop.key]
            if other is not account:
                what = f"another account of {account.maildrop.user}"
                self.leave(
                    account.place,
                    f"{what} at {account.maildrop.hosts[0]}",
                    f"two would fetch each message twice: see that of {other.place}",
                )
        self.accounts = [a for a in self.accounts if stay[a.maildrop.key] is a]


class Wrong(Exception):
    """A file is not what it is taken for.

    Args:
        place: where.
        what: is wrong there.
    """

    def __init__(self, place: Place, what: str) -> None:
        super().__init__(f"{place}: {what}")


class Home(NamedTuple):
    """Whose files they are.

    Attributes:
        path: the home directory.
        user: the name of the user.
        password: tells the user name and the password that netrc has for a server.
    """

    path: Path
    user: str
    password: Callable[[str], tuple[str, str] | None]

    def expanded(self, text: str) -> Path:
        """Return a path with ``~`` at its beginning replaced."""
        return self.path / text[2:] if text.startswith("~/") else Path(text)


class Option(NamedTuple):
    """An option of another program as it stands.

    Attributes:
        value: an empty text where there is none.
    """

    place: Place
    name: str
    value: str


def text_of(options: Mapping[str, Option], name: str) -> str:
    """Return the value of an option, an empty text where it is not there."""
    option = options.get(name)
    return "" if option is None else option.value
