"""The identity of a message: a hash of its account and its content; and what its header block is.

Headers that a POP3 server adds or changes between two looks at the same message do not count. So
the id is the same when a message is fetched again, when UIDLs are renumbered, and for two copies.
Of a large message the header block is kept while it is streamed into the spool: it travels in the
envelope, so that the later stages need not read the spool for it.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from shared.message import HEADER_LIMIT

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
"""What a header block in lower case, after a line feed, has where ``_FIELDS`` finds anything. It is
quicker to look for, and most messages have nothing of the kind."""

_BOM: Final = re.compile(rb"(?:\xef\xbb\xbf)?")
_STRAYS: Final = re.compile(rb"(?:\r*\n|>?From [^\n]*\n)*")
"""What may stand above a header, is kept with it, and does not end it: blank lines, mbox lines, and
a BOM above these."""

_TEXT_COMPARED: Final = 1024
"""Bytes of a text that count for the looser fingerprint, beside how long it is."""

_LASTING_NAMES: Final = (b"\nmessage-id:", b"\ndate:", b"\nfrom:")
_VALUE: Final = re.compile(rb"[^\n]*(?:\n[ \t][^\n]*)*")

_HEAD_END_LENGTH: Final = 3
_DIGEST_SIZE: Final = 16


def header_end(data: bytes | bytearray, start: int = 0) -> int | None:
    """Return where the first blank line ends that begins at or after ``start``, None without one.

    What this returns, ids depend on. It counts as blank after CRLF and after a bare line feed.
    """
    # The two ways to end a line and have an empty one after it; a regular expression for both at
    # once goes byte by byte.
    crlf = data.find(b"\n\r\n", start)
    bare = data.find(b"\n\n", start, len(data) if crlf < 0 else crlf + 1)
    if bare >= 0:
        return bare + 2
    return crlf + 3 if crlf >= 0 else None


class HeaderCapture:
    """Takes a message in pieces and keeps its header block, at most ``HEADER_LIMIT`` bytes."""

    def __init__(self) -> None:
        self._seen = bytearray()
        self._above = 0  # where the lines end that stand above the header, as far as they have come
        self._begun = False  # the header, below these
        self._whole = False

    def feed(self, chunk: bytes) -> None:
        """Take the next piece."""
        if self._whole:
            return
        searched = max(0, len(self._seen) - 2)
        self._seen += chunk[: HEADER_LIMIT - len(self._seen)]
        # A line ends with its line feed: without one nothing is to be found yet.
        if not self._begun and b"\n" in chunk:
            self._pass_over_strays()
        end = header_end(self._seen, max(searched, self._above))
        if end is not None:
            del self._seen[end:]
        self._whole = end is not None or len(self._seen) >= HEADER_LIMIT

    def _pass_over_strays(self) -> None:
        """Go on from the last of them: all that came before is not looked at again."""
        bom = _BOM.match(self._seen) if not self._above else None
        found = _STRAYS.match(self._seen, bom.end() if bom else self._above)
        self._above = found.end() if found else self._above
        self._begun = self._seen.find(b"\n", self._above) >= 0

    def __bytes__(self) -> bytes:
        """Return what there is of the header block, with the blank line below it."""
        return bytes(self._seen)


class Identity:
    """Takes a message in pieces and tells its id.

    Args:
        account: the name of the account; equal messages of two accounts are two messages.
    """

    def __init__(self, account: str) -> None:
        self._hash = _new_hash(account)
        self._account = account
        self._begin = b""  # of the message, as far as the id takes it for its header block
        self._text = b""  # the beginning of the rest
        self._size = 0  # of the rest
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
            self._note_text(chunk)
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
        self._begin = bytes(pending[:end])
        self._hash.update(_lasting(self._begin))
        self._hash.update(pending[end:])
        self._note_text(bytes(pending[end:]))

    def _note_text(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if (room := _TEXT_COMPARED - len(self._text)) > 0:
            self._text += chunk[:room]

    def id(self) -> str:
        """Return the id, 32 hexadecimal digits, after the last piece was fed."""
        if self._pending is not None:
            self._end_head(len(self._pending))
        return self._hash.hexdigest()

    def loose(self) -> int | None:
        """Return the looser fingerprint, after ``id``."""
        return loose_fingerprint(self._account, self._begin, self._text, self._size)


def identify_with_head(account: str, raw: bytes) -> tuple[str, str, int | None]:
    """Return the id of a message that is at hand, the hash of its header block, and what is looser.

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
    size = len(head)
    loose = loose_fingerprint(account, head, raw[size : size + _TEXT_COMPARED], len(raw) - size)
    return hash_.hexdigest(), _hash(lasting), loose


def head_hash(top: bytes) -> str:
    """Return the hash of a header block, by which a message is known again without its body.

    What is volatile does not count, nor does a blank line at the end: some servers leave it out.

    Args:
        top: the header block as TOP shows it, or more of the message.
    """
    end = header_end(top[:HEAD_LIMIT])
    return _hash(_lasting(top[: HEAD_LIMIT if end is None else end]))


def loose_fingerprint(account: str, head: bytes, text: bytes, size: int) -> int | None:
    """Return what stays of a message when its provider adds header lines: 64 bits, with a sign.

    Args:
        account: the name of the account it came from.
        head: its header block.
        text: the beginning of the rest, ``_TEXT_COMPARED`` bytes at the most.
        size: bytes of the rest.

    Returns:
        None where it has neither Message-ID, Date nor From.
    """
    lower, found = b"\n" + head.lower(), []
    for name in _LASTING_NAMES:
        at = lower.find(name)
        value = b"" if at < 0 else _VALUE.match(head, at + len(name) - 1)[0]  # type: ignore[index]
        found.append(b" ".join(value.split()))
    if not any(found):
        return None
    lasting = b"\0".join([account.encode(), *found, str(size).encode(), text])
    return int.from_bytes(hashlib.blake2b(lasting, digest_size=8).digest(), signed=True)


def _hash(lasting: bytes) -> str:
    return hashlib.blake2b(lasting.rstrip(b"\r\n"), digest_size=_DIGEST_SIZE).hexdigest()


def _new_hash(account: str) -> hashlib.blake2b:
    return hashlib.blake2b(account.encode() + b"\0", digest_size=_DIGEST_SIZE)


def _lasting(head: bytes) -> bytes:
    """Return a header block less what is volatile in it; itself where there is nothing."""
    return _FIELDS.sub(b"", head) if _SUSPECT.search(b"\n" + head.lower()) else head
