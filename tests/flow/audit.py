"""What was handed in, held against what came out at the far ends, and against nothing else."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeAlias

from tests.flow.connector import lf

MailboxMessage: TypeAlias = tuple[str, bytes]
"""A mailbox, and a raw message for it. Line ends do not count."""


@dataclass(frozen=True)
class Tally:
    """What became of the messages handed in.

    Attributes:
        accepted: how many were handed in; all different.
        delivered: of these, how many came out at least once, in their mailbox.
        duplicates: copies beyond the first.
        failed: in Failed Mail.
        quarantined: in quarantine.
        lost: nowhere.
        strangers: came out somewhere, and were never handed in: altered, or misdirected.
    """

    accepted: int
    delivered: int
    duplicates: int = 0
    failed: int = 0
    quarantined: int = 0
    lost: int = 0
    strangers: int = 0


@dataclass
class Audit:
    """Holds the product to account, by nothing but the bytes of messages."""

    accepted: set[str] = field(default_factory=set)

    def accept(self, messages: Iterable[MailboxMessage]) -> None:
        """Take note of messages that are handed in now."""
        given = list(messages)
        before = len(self.accepted)
        self.accepted.update(_counted(given))
        assert len(self.accepted) == before + len(given), "a message was handed in twice"

    def tally(
        self,
        delivered: Iterable[MailboxMessage],
        failed: Iterable[MailboxMessage] = (),
        quarantined: Iterable[MailboxMessage] = (),
    ) -> Tally:
        """Count.

        Args:
            delivered: every message at every destination, without what was put on top of it.
            failed: the messages in Failed Mail.
            quarantined: the messages in quarantine.
        """
        arrived, dead, corrupt = map(_counted, (delivered, failed, quarantined))
        everywhere = arrived + dead + corrupt
        ours = Counter({key: n for key, n in arrived.items() if key in self.accepted})
        return Tally(
            accepted=len(self.accepted),
            delivered=len(ours),
            duplicates=ours.total() - len(ours),
            failed=dead.total(),
            quarantined=corrupt.total(),
            lost=len(self.accepted - everywhere.keys()),
            strangers=sum(n for key, n in everywhere.items() if key not in self.accepted),
        )


def key_of(message: MailboxMessage) -> str:
    """Return what a message is known by."""
    mailbox, raw = message
    return f"{mailbox} {sha256(lf(raw)).hexdigest()}"


def _counted(messages: Iterable[MailboxMessage]) -> Counter[str]:
    return Counter(map(key_of, messages))
