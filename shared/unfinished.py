"""Which messages were fetched in this process and have come to no end in it yet.

Somebody else can have them: a connector that shares our inboxes hands them back over a retry tier,
and while it has one in hand no queue counts it. The end of a message may be told before its
beginning, as what was published is delivered while the ledger is still being written.
"""

from __future__ import annotations


class Unfinished:
    """Keeps the balance of each message that is not even: begun, or ended, and not both."""

    def __init__(self) -> None:
        self._balance: dict[str, int] = {}

    def begin(self, id_: str) -> None:
        """Note that a message is durable in our queues."""
        self._add(id_, 1)

    def end(self, id_: str) -> None:
        """Note that a message has arrived, or is where the operator finds it."""
        self._add(id_, -1)

    @property
    def count(self) -> int:
        """How many messages have begun and not ended; not those that began in another process."""
        return sum(1 for balance in self._balance.values() if balance > 0)

    def _add(self, id_: str, one: int) -> None:
        balance = self._balance.pop(id_, 0) + one
        if balance:
            self._balance[id_] = balance
