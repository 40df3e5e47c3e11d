"""What envelopes of this program look like: their ids, their accounts, and the blobs they name.

An envelope is input: whoever can write to a queue can write anything into it. An id becomes part of
file names, of headers and of rows in databases, the key of a blob is one that is read, copied and
deleted. What does not look like ours is taken for what it is, somebody else's: to quarantine.

Known limit: that an id is the hash of the account and the message is not looked into. The fetcher
alone computes it; who can write to a queue can make one up.
"""

from __future__ import annotations

import re
from typing import Final

from shared.errors import Undecodable
from shared.message import Envelope, Payload, Poll, Spooled, poll_id

LONGEST_ACCOUNT: Final = 255
"""Characters in the name of an account; a configuration allows fewer."""

_ID: Final = re.compile(r"[0-9a-f]{32}")
_COPY: Final = re.compile(r"(?:\.[0-9a-f]{8})+")
"""What the keys of blobs have after the id where a message was parted, each time once more."""


def require_ours(envelope: Envelope[Payload]) -> None:
    """Make sure that an envelope has an id, and names a blob, as those of this program do.

    Raises:
        Undecodable: it does not; the error says what is wrong.
    """
    id_, account, payload = envelope.id, envelope.account, envelope.payload
    if len(account) > LONGEST_ACCOUNT or not account.isprintable():
        raise Undecodable("its account has a name that no account can have")
    if isinstance(payload, Poll):
        if id_ != poll_id(account):
            raise Undecodable("its id is not that of a poll job for its account")
        return
    if _ID.fullmatch(id_) is None:
        raise Undecodable("its id is not 32 hexadecimal digits")
    if isinstance(payload.raw, Spooled) and not owns(id_, payload.raw.key):
        raise Undecodable("the message it names in the spool is not its own")


def owns(id_: str, key: str) -> bool:
    """Return whether the blob of this key belongs to the message of this id.

    It has the id as its key, or one made of it where the message was parted.
    """
    return key == id_ or (key.startswith(id_) and _COPY.fullmatch(key, len(id_)) is not None)
