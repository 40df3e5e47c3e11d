"""Knows what was handed in, looks only at what came out at the far ends, and counts."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeAlias

from tests.flow.connector import lf

Letter: TypeAlias = tuple[str, bytes]
"""A mailbox, and a raw message for it. Line ends do not count."""


@dataclass(frozen=True)
class Tally:
    """What became of the letters handed in.

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
class Oracle:
    """Holds the product to account, by nothing but the bytes of messages."""

    accepted: set[str] = field(default_factory=set)

    def accept(self, letters: Iterable[Letter]) -> None:
        """Take note of letters that are handed in now."""
        given = list(letters)
        before = len(self.accepted)
        self.accepted.update(_counted(given))
        assert len(self.accepted) == before + len(given), "a letter was handed in twice"

    def tally(
        self,
        delivered: Iterable[Letter],
        failed: Iterable[Letter] = (),
        quarantined: Iterable[Letter] = (),
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


def key_of(letter: Letter) -> str:
    """Return what a letter is known by."""
    mailbox, raw = letter
    return f"{mailbox} {sha256(lf(raw)).hexdigest()}"


def _counted(letters: Iterable[Letter]) -> Counter[str]:
    return Counter(map(key_of, letters))
