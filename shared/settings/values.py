"""The values that the configuration is written in: durations, sizes, keep, URLs, paths of keys.

Pure text in, values out; a wrong one raises ValueError with a sentence that says what is expected,
and never repeats what was given, because it might be a secret in the wrong place.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import quote, urlsplit

from shared.disk.space import Floor
from shared.queues import Tier

KeyPath: TypeAlias = tuple[str | int, ...]
"""Where a value stands in the configuration, e.g. ``("account", 0, "port")``."""

_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_BYTES: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
_QUANTITY: Final = re.compile(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*([A-Za-z]*)\s*", re.ASCII)
_SHARE: Final = re.compile(r"\s*(\d{1,2}(?:\.\d{1,3})?)\s*%\s*", re.ASCII)
_SHARE_MOST: Final = 90
_PASSWORD_IN_URL: Final = re.compile(r"(?<=://)([^:/?#@]*):.*@", re.DOTALL)
_SECRET_IN_QUERY: Final = re.compile(r"(?i)([?&][^=&]*(?:password|secret|token)[^=&]*=)[^&]*")


def dotted(path: KeyPath) -> str:
    """Return the path of a key as a person writes it, e.g. ``account[0].port``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def duration(value: object) -> float:
    """Return the seconds that a text such as ``30s``, ``5m``, ``2h``, ``5d`` or ``500ms`` means.

    A bare number is refused: nobody remembers its unit.

    Raises:
        ValueError: it is no duration, or none at all.
    """
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    unit = match and _SECONDS.get(match[2].lower())
    if not match or not unit or not float(match[1]):
        raise ValueError('expected a duration with its unit, such as "30s", "5m", "2h" or "5d"')
    return float(match[1]) * unit


def size(value: object) -> int:
    """Return the bytes that ``4096``, ``128KiB`` (1,024 each) or ``1MB`` (1,000 squared) means.

    Raises:
        ValueError: it is no size.
    """
    text = str(value) if type(value) is int else value
    match = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
    unit = match and _BYTES.get(match[2].lower())
    if not match or not unit:
        raise ValueError('expected a size in bytes, such as 4096, "128KiB" or "1MB"')
    return int(float(match[1]) * unit)


def floor(value: object) -> Floor:
    """Return what has to be free on a disk: a size, or a share of the disk such as ``5%``.

    Raises:
        ValueError: it is neither.
    """
    share = _SHARE.fullmatch(value) if isinstance(value, str) else None
    if share and float(share[1]) <= _SHARE_MOST:
        return Floor(sys.maxsize, float(share[1]))
    with contextlib.suppress(ValueError):
        return Floor(size(value), 100.0)
    raise ValueError(
        f'expected a size, such as "200MiB", or a share of the disk up to {_SHARE_MOST}%'
    )


def tier(value: object) -> Tier:
    """Return the retry tier of this duration, with its text as the label in queue names."""
    seconds = duration(value)
    if seconds < 0.001 or seconds > 40 * 86400:
        raise ValueError("expected a wait of 1ms to 40d: RabbitMQ keeps no longer timers")
    return Tier(re.sub(r"\s", "", str(value)).lower(), seconds)


def tiers(value: object) -> tuple[Tier, ...]:
    """Return the retry tiers in a list of durations, or in a text with commas between them."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, Sequence) or not 1 <= len(items) <= 20:
        raise ValueError('expected a list of 1 to 20 durations, such as ["30s", "5m", "2h"]')
    found = tuple(map(tier, items))
    if len({t.label for t in found}) < len(found):
        raise ValueError("the same tier stands twice; the last one repeats by itself")
    return found


@dataclass(frozen=True, slots=True)
class Keep:
    """How long a message stays on the POP3 server once it is safe with us.

    Attributes:
        text: as it was written: ``delete``, ``forever`` or a duration.
        seconds: 0 for ``delete``, infinity for ``forever``.
    """

    text: str
    seconds: float

    @staticmethod
    def parse(value: object) -> Keep:
        """Return what ``delete``, ``forever`` or a duration such as ``7d`` means.

        Raises:
            ValueError: it is none of them.
        """
        text = value.strip().lower() if isinstance(value, str) else ""
        named = {"delete": 0.0, "forever": math.inf}
        try:
            return Keep(text, named[text] if text in named else duration(text))
        except ValueError:
            raise ValueError('expected "delete", "forever" or a duration such as "7d"') from None


def names_several(url: str) -> bool:
    """Return whether a text is several URLs, or several hosts, with ``;`` or ``,`` between them.

    Other programs take that; read as one URL, a password would be taken for part of a path.
    """
    if re.search(r"[;,]\s*[A-Za-z]+://", url):
        return True
    authority = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]
    user, _, host = authority.rpartition("@")
    return bool(re.search(r"[;,]", host) or ("@" in user and re.search(r"[;,]", user)))


@dataclass(frozen=True, slots=True, repr=False)
class Url:
    """A URL that may hold a password: as text it is masked, ``reveal`` gives the whole."""

    _text: str

    @staticmethod
    def parse(value: object) -> Url:
        """Return the URL in this text.

        Raises:
            ValueError: it is no URL.
        """
        if not isinstance(value, str) or not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", value):
            raise ValueError("expected a URL")
        if not value.isprintable() or " " in value:
            raise ValueError("a URL has no spaces or control characters (write %20 and the like)")
        try:
            urlsplit(value).port  # noqa: B018  it raises where the port is no number
        except ValueError:
            raise ValueError(
                "cannot read this URL; characters such as / @ : # in a password are written"
                " as %2F %40 %3A %23"
            ) from None
        return Url(value)

    def reveal(self) -> str:
        """Return the URL with its password."""
        return self._text

    @property
    def scheme(self) -> str:
        """What stands before the first colon, in lower case."""
        return urlsplit(self._text).scheme

    @property
    def username(self) -> str | None:
        """The user name in it, still percent-encoded."""
        return urlsplit(self._text).username

    @property
    def has_password(self) -> bool:
        """Whether a password stands in it."""
        return urlsplit(self._text).password is not None

    def with_credentials(self, username: str | None, password: str) -> Url:
        """Return the same URL with this password, and this user name (plain) if one is given."""
        parts = urlsplit(self._text)
        host = parts.netloc.rpartition("@")[2]
        user = parts.username or "" if username is None else quote(username, safe="")
        return Url(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}").geturl())

    def with_user(self, username: str) -> Url:
        """Return the same URL with this user name (plain), and without a password."""
        parts = urlsplit(self._text)
        host = parts.netloc.rpartition("@")[2]
        return Url(parts._replace(netloc=f"{quote(username, safe='')}@{host}").geturl())

    def __str__(self) -> str:
        masked = _PASSWORD_IN_URL.sub(r"\1:***@", self._text)
        return _SECRET_IN_QUERY.sub(r"\1***", masked)

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"


def path(value: object) -> Path:
    """Return the path in this text, with ``~`` replaced by the home directory.

    Raises:
        ValueError: it is no path.
    """
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("expected the path of a file or directory")
    found = expanded(value)
    if str(found).startswith("~"):
        raise ValueError("expected the path of a file or directory: nobody knows this home")
    return found


def expanded(text: str) -> Path:
    """Return the path in a text, with ``~`` replaced by the home directory, if there is one."""
    return Path(os.path.expanduser(text))  # noqa: PTH111  (that one raises)
