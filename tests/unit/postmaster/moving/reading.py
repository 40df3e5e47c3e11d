"""What the tests of other programs' configurations share."""

from collections.abc import Callable, Mapping
from pathlib import Path

from services.postmaster.moving.found import Found, FoundAccount, Home

Reader = Callable[[Path, str, Home], Found]
NETRC: Mapping[str, tuple[str, str]] = {"pop.example.net": ("sales", "of netrc")}


def read(reader: Reader, text: str, name: str = "rc") -> Found:
    home = Home(Path("/home/ann"), "ann", NETRC.get)
    return reader(Path(f"/home/ann/{name}"), text, home)


def only(found: Found) -> FoundAccount:
    (account,) = found.accounts
    return account


def url(found: Found) -> str | None:
    delivery = only(found).delivery
    return None if delivery is None else delivery.url


def left(found: Found) -> list[str]:
    """Return where what was left stands, and what."""
    return [f"{one.place}: {one.what}" for one in found.left]
