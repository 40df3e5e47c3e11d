"""Which envelope addresses may be put into a protocol line, a header line or a file name.

An address comes from mail or from a rule; neither is trusted: one that could end its line or
its brackets is never sent (command injection), and no name leaves its directory.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from services.deliverer.courier import Result

_UNSENDABLE: Final = re.compile("[\x00-\x20<>\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_UNSTORABLE: Final = re.compile("[\x00-\x1f/\x7f-\x9f\ud800-\udfff]")
ADDRESS_LIMIT: Final = 900
"""Bytes of an address; a command line may have 1000 or so at many servers, 512 by RFC 5321."""
NAME_LIMIT: Final = 255
"""Bytes of a file name on every common file system."""


@lru_cache(4096)  # mail comes to the same few mailboxes again and again
def unsendable(address: str) -> str | None:
    """Return why an address cannot be sent, or None if it can. It may be without a domain.

    Args:
        address: an envelope address, not the null sender.
    """
    if not address:
        return "an empty address"
    found = _UNSENDABLE.search(address)
    if found is not None:
        return f"an address with {found[0]!a} in it is never sent: {address!a}"
    if len(address.encode()) > ADDRESS_LIMIT:
        return f"an address of more than {ADDRESS_LIMIT} bytes: {address[:80]!a}"
    return None


def sendable(sender: str) -> str:
    """Return an envelope sender, or "", the null sender, where it cannot be sent."""
    return "" if sender and unsendable(sender) else sender


def refusals(recipients: Sequence[str]) -> dict[str, Result]:
    """Return the permanent results for recipients to whom nothing can be sent."""
    return {
        recipient: Result("permanent", why)
        for recipient in recipients
        if (why := unsendable(recipient)) is not None
    }


def unstorable(name: str) -> str | None:
    """Return why a part of an address cannot be (part of) a file name, or None if it can."""
    if not name:
        return "it is empty"
    found = _UNSTORABLE.search(name)
    if found is not None:
        return f"it has {found[0]!a} in it"
    if name.startswith("."):
        return "it begins with a dot"
    if len(name.encode()) > NAME_LIMIT:
        return f"it has more than {NAME_LIMIT} bytes"
    return None
