"""Ids of messages, as the fetcher gives them, by names that a test can be read with."""

import re

from services.fetcher.identity import identify_with_head


def id_of(name: str) -> str:
    """Return the id that stands for a name of 16 characters at the most, or for itself."""
    if re.fullmatch("[0-9a-f]{32}", name):
        return name
    return name.encode().hex().rjust(32, "0")


def name_of(id_: str) -> str:
    """Return the name that an id stands for."""
    return bytes.fromhex(id_).lstrip(b"\0").decode()


def identify(account: str, raw: bytes) -> str:
    """Return the id of a message."""
    return identify_with_head(account, raw)[0]
