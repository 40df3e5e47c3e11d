"""The identity of a message: a hash of its account and its content.

Headers that a POP3 server adds or changes between two looks at the same message do not count. So
the id is the same when a message is fetched again, when UIDLs are renumbered, and for two copies.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from services.fetcher.header_capture import HeaderCapture, header_end

HEAD_LIMIT: Final = 256 * 1024
"""Bytes of a header block in which volatile fields are looked for. What it is, ids depend on."""

VOLATILE: Final = (
    "Status",
    "X-Status",
    "X-UID",
    "X-UIDL",
    "X-Keywords",
    "X-IMAP",
    "X-IMAPbase",
    "X-Mozilla-Status",
    "X-Mozilla-Status2",
    "Content-Length",
    "Lines",
)
"""Header fields that mailbox formats keep their own state in."""

_FIELDS: Final = re.compile(
    rb"^(?:"
    + b"|".join(name.encode() for name in VOLATILE)
    + rb")[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*",
    re.IGNORECASE | re.MULTILINE,
)
_SUSPECT: Final = re.compile(
    rb"\n(?:" + b"|".join(name.lower().encode() for name in VOLATILE) + rb")"
)
"""What a header block in lower case, after a line feed, has where ``_FIELDS`` finds anything. It
takes a fifth of the time, and most messages have nothing of the kind."""

_HEAD_END_LENGTH: Final = 3
_DIGEST_SIZE: Final = 16


class Identity:
    """Takes a message in pieces and tells its id.

    Args:
        account: the name of the account; equal messages of two accounts are two messages.
    """

    def __init__(self, account: str) -> None:
        self._hash = _new_hash(account)
        self._pending: bytearray | None = bytearray()
        self._head = HeaderCapture()

    @property
    def head(self) -> bytes:
        """What has been seen of the header block, at most ``HEADER_LIMIT`` bytes."""
        return bytes(self._head)

    def feed(self, chunk: bytes) -> None:
        """Take the next piece.

        Args:
            chunk: bytes of the raw message, in order.
        """
        self._head.feed(chunk)
        if self._pending is None:
            self._hash.update(chunk)
            return
        searched = max(0, len(self._pending) - _HEAD_END_LENGTH + 1)
        self._pending += chunk
        end = header_end(self._pending, searched)
        if end is not None:
            self._end_head(end)
        elif len(self._pending) >= HEAD_LIMIT:
            self._end_head(HEAD_LIMIT)

    def _end_head(self, end: int) -> None:
        pending = self._pending or b""
        self._pending = None
        end = min(end, HEAD_LIMIT)
        self._hash.update(_lasting(bytes(pending[:end])))
        self._hash.update(pending[end:])

    def id(self) -> str:
        """Return the id, 32 hexadecimal digits, after the last piece was fed."""
        if self._pending is not None:
            self._end_head(len(self._pending))
        return self._hash.hexdigest()


def identify_with_head(account: str, raw: bytes) -> tuple[str, str]:
    """Return the id of a message that is at hand as a whole, and the hash of its header block.

    Args:
        account: the name of the account it came from.
        raw: the message as the server sent it.
    """
    hash_ = _new_hash(account)
    end = header_end(raw[:HEAD_LIMIT])
    head = raw[: HEAD_LIMIT if end is None else end]
    lasting = _lasting(head)
    if lasting is head:
        hash_.update(raw)
    else:
        hash_.update(lasting)
        hash_.update(raw[len(head) :])
    return hash_.hexdigest(), _hash(lasting)


def head_hash(top: bytes) -> str:
    """Return the hash of a header block, by which a message is known again without its body.

    What is volatile does not count, nor does a blank line at the end: some servers leave it out.

    Args:
        top: the header block as TOP shows it, or more of the message.
    """
    end = header_end(top[:HEAD_LIMIT])
    return _hash(_lasting(top[: HEAD_LIMIT if end is None else end]))


def _hash(lasting: bytes) -> str:
    return hashlib.blake2b(lasting.rstrip(b"\r\n"), digest_size=_DIGEST_SIZE).hexdigest()


def _new_hash(account: str) -> hashlib.blake2b:
    return hashlib.blake2b(account.encode() + b"\0", digest_size=_DIGEST_SIZE)


def _lasting(head: bytes) -> bytes:
    """Return a header block less what is volatile in it; itself where there is nothing."""
    return _FIELDS.sub(b"", head) if _SUSPECT.search(b"\n" + head.lower()) else head
