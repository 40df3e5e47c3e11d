"""Knows the message in which mail servers that share an mbox keep their own state.

UW imapd and all that is built on c-client put it first into the folder, and ask that it be left
alone; a POP3 server that does not know it lists it as mail. Delivered, it is junk; deleted, an IMAP
server numbers all its mail anew. It trusts the text of the subject and the field beside it: who
writes a mail in that form has it left at the server, and the log says so.
"""

from __future__ import annotations

import re
from typing import Final

from services.fetcher.identity import header_end
from services.fetcher.receive import ReceivedMessage
from shared.message import Inline

LARGEST: Final = 8 * 1024
"""Bytes of one at the most: those of c-client have about 600."""

_WORDS: Final = b"FOLDER INTERNAL DATA"
_SUBJECT: Final = re.compile(
    rb"^Subject:[ \t]*DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA[ \t]*\r?$", re.MULTILINE
)
_STATE: Final = re.compile(rb"^X-IMAP(?:base)?:[ \t]*[0-9]+[ \t]+[0-9]+", re.MULTILINE)


def is_left(found: ReceivedMessage) -> bool:
    """Return whether a message that came is no mail, but a server's own."""
    raw = found.raw
    if not isinstance(raw, Inline) or raw.size > LARGEST or _WORDS not in raw.data:
        return False
    return is_internal_data(raw.data[: header_end(raw.data)])


def is_internal_data(head: bytes) -> bool:
    """Return whether a message is no mail, but a server's own.

    Args:
        head: its header block.
    """
    return bool(_SUBJECT.search(head) and _STATE.search(head))
