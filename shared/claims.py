"""What the ledgers say: of messages fetched, and of messages delivered.

Plain data between the fetcher and the deliverer, which decide by it, and the state database, which
keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Delivery(NamedTuple):
    """One message on its way to one destination: what a claim is made on."""

    id: str
    destination: str


class Claim(NamedTuple):
    """The right of one process to deliver one message to one destination, for now.

    Attributes:
        delivered: the recipients of which the ledger says that they have it already.
        replay: a process that is dead by now had claimed it and left no record: the message may
            have been delivered, wholly or in part.
    """

    delivered: frozenset[str]
    replay: bool


class Known(NamedTuple):
    """A line of the UID ledger: the id of a message, and when it was first fetched (UTC)."""

    id: str
    first_seen: float


class Entry(NamedTuple):
    """A message to record as fetched: its UIDL, None where it has no usable one, and its id."""

    uidl: str | None
    id: str


class Finished(NamedTuple):
    """What has been delivered, and by recipient what the far end said."""

    delivery: Delivery
    receipts: Mapping[str, str]
