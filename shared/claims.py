"""What the ledger of finished deliveries answers when a deliverer asks for a message.

Plain data between the deliverer, which decides by it, and the state database, which keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Claim:
    """The right of one process to deliver one message to one destination, for now.

    Attributes:
        delivered: the recipients of which the ledger says that they have it already.
        replay: a process that is dead by now had claimed it and left no record: the message may
            have been delivered, wholly or in part.
    """

    delivered: frozenset[str]
    replay: bool
