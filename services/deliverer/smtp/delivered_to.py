"""Renames the Delivered-To lines for which a mail server would take a message to be in a loop.

Postfix (local(8), and pipe(8) with ``flags=D``), qmail, Courier and OpenSMTPD write Delivered-To
when they deliver to a mailbox, and bounce, after they have taken it, a message that has such a line
with the same address already. A provider writes one with the address of its own mailbox; where that
is the address of the local mailbox too, the line is renamed on its way. A line that a signature
covers stays: without it, the signature would be void (RFC 6376 section 5.4).

Known limits: only lines that name a recipient of this very delivery are renamed; what an alias at
the next server makes of the recipient is not known here. The size that MAIL gives is that before
the renaming: an estimate (RFC 1870 section 6), and a few bytes short then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Final

from services.deliverer.line_ends import Edit, unchanged

RENAMED: Final = b"X-Original-"
"""What the name of such a line then begins with, as in the X-Original-To of Postfix."""

_NAME: Final = b"delivered-to"
_END_OF_FIELD: Final = re.compile(rb"(?<=\n)(?![ \t])")
_DELIVERED_TO: Final = re.compile(rb"delivered-to[ \t]*:", re.IGNORECASE)
_SIGNATURE: Final = re.compile(rb"(?:dkim|arc-message)-signature[ \t]*:", re.IGNORECASE)
_SIGNED: Final = re.compile(rb"[:;]\s*h\s*=([^;]*)", re.IGNORECASE)
_AROUND: Final = re.compile(r'[\s<>(),;:"]+')

_OURS_BEFORE: Final = b"\r\nDelivered-To: "
_OURS: Final = b"\r\nX-POP3-Connector-For: "


def edit_for(recipients: Sequence[str], *, keep: bool) -> Edit:
    """Return what is done to the header of a message on its way to a mail server.

    Args:
        recipients: the envelope recipients.
        keep: leave it as it is.
    """
    return unchanged if keep else partial(renamed, recipients)


def renamed(recipients: Sequence[str], header: bytes) -> bytes:
    """Return a header block with those Delivered-To lines renamed that name a recipient.

    Args:
        recipients: the envelope recipients.
        header: lines that end in CRLF, folded ones too.

    Returns:
        The very same object where there is nothing to be done.
    """
    wanted = {recipient.casefold() for recipient in recipients}
    if not any(_names(field, wanted) for field in _candidates(header.lower())):
        return header
    fields = _END_OF_FIELD.split(header)
    found = [index for index, field in enumerate(fields) if _DELIVERED_TO.match(field)]
    # Of repeated fields a signature covers the lowest (RFC 6376 section 5.4.2).
    unsigned = found[: max(0, len(found) - _signed(fields))]
    changed = [index for index in unsigned if _names(fields[index], wanted)]
    for index in changed:
        fields[index] = RENAMED + fields[index]
    return b"".join(fields) if changed else header


def _candidates(header: bytes) -> Iterator[bytes]:
    """Yield what begins as the wanted fields do: found faster than by taking all fields apart."""
    at = 0 if header.startswith(_NAME) else _next(header, 0)
    while at is not None:
        end = _END_OF_FIELD.search(header, at + 1)
        yield header[at : len(header) if end is None else end.start()]
        at = _next(header, at)


def _next(header: bytes, start: int) -> int | None:
    found = header.find(b"\n" + _NAME, start)
    return None if found < 0 else found + 1


def _signed(fields: Iterable[bytes]) -> int:
    """Return how many Delivered-To lines the signatures cover."""
    return max((_covered(field) for field in fields if _SIGNATURE.match(field)), default=0)


def _covered(signature: bytes) -> int:
    found = _SIGNED.search(signature)
    names = found[1].split(b":") if found is not None else ()
    return sum(b"".join(name.split()).lower() == _NAME for name in names)


def _names(field: bytes, recipients: set[str]) -> bool:
    body = field.partition(b":")[2].decode("utf-8", "replace").casefold().strip()
    return body.strip("<>") in recipients or not recipients.isdisjoint(_AROUND.split(body))


def without_delivered_to(prefix: bytes) -> bytes:
    """Return our own lines as a mail server gets them.

    Up to version 0.1 they had Delivered-To where they have X-POP3-Connector-For now; such a message
    may have waited in a queue since.
    """
    return prefix.replace(_OURS_BEFORE, _OURS)
