"""Tells whether a text can be an address on an envelope (RFC 5321 section 4.1.2, RFC 6531)."""

from __future__ import annotations

import re
from typing import Final

_MAILBOX: Final = re.compile(r"[^\s<>]+@[^\s<>@]+")
_LIMIT: Final = 320


def is_mailbox(text: str) -> bool:
    """Return whether text has the shape of a mailbox: local part, "@" and domain.

    Read loosely: what is deliverable is for the next server to say. But white space, control
    characters and angle brackets, with which SMTP commands are forged, are never let through.
    """
    return len(text) <= _LIMIT and text.isprintable() and _MAILBOX.fullmatch(text) is not None
