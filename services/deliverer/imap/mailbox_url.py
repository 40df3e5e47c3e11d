"""The parts of a destination's URL that IMAP has of its own: folder, flags, labels, TLS.

Nothing in a URL is trusted. ``wrong`` makes the error that tells what is, of a sentence about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias
from urllib.parse import unquote

from services.deliverer.imap.commands import KEYWORD, flag
from services.deliverer.placeholders import PLACEHOLDERS, unknown_placeholders
from shared.errors import ConfigError
from shared.network.same_host import same_host

Wrong: TypeAlias = Callable[[str], ConfigError]


def folder(path: str, wrong: Wrong) -> str:
    """Return the path of the folder, "" for INBOX."""
    names = unquote(path, errors="surrogateescape").strip("/")
    if unknown := unknown_placeholders(names):
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise wrong(f"unknown placeholder {unknown[0]}; expected one of {known}")
    if not names.isprintable() or (names and "" in names.split("/")):
        raise wrong(f"{names!a} is no folder: expected names, with / between them")
    return names


def tls(options: Mapping[str, str], host: str, wrong: Wrong) -> Literal["none", "required"]:
    """Return how TLS begins where it does not with the first byte."""
    asked = options.get("tls", "required")
    if asked == "required":
        return "required"
    if asked != "none":
        raise wrong(f"tls={asked!a}: expected required or none")
    if same_host(host) != same_host("localhost"):
        raise wrong("tls=none: the password would go over the network in clear")
    return "none"


def flags(options: Mapping[str, str], wrong: Wrong) -> tuple[bytes, ...]:
    """Return what messages are marked with."""
    words = _words(options, "flags", wrong)
    for word in words:
        if KEYWORD.fullmatch(word) is None:
            raise wrong(f"flags={word!a}: expected unseen, seen, flagged, or a keyword")
    return tuple(found for word in words if (found := flag(word)) is not None)


def labels(options: Mapping[str, str], wrong: Wrong) -> tuple[str, ...]:
    """Return the labels that messages get at Gmail."""
    return tuple(_words(options, "labels", wrong))


def _words(options: Mapping[str, str], name: str, wrong: Wrong) -> list[str]:
    words = [word.strip() for word in options.get(name, "").split(",")]
    for word in words:
        if not word.isprintable():
            raise wrong(f"{name}={word!a}: expected names, with commas between them")
    return [word for word in words if word]
