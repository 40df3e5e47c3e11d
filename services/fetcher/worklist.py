"""What one session has to do: what the server lists, less what the ledger knows. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shared.claims import Known


class Listed(NamedTuple):
    """A message in a maildrop: its number in this session, and its UIDL (None: not usable)."""

    number: int
    uidl: str | None


class Safe(NamedTuple):
    """A message that is safe with us and may be deleted at the server."""

    number: int
    uidl: str | None
    id: str


@dataclass(frozen=True, slots=True)
class Worklist:
    """What to do in one session.

    Attributes:
        found: how many messages the server lists.
        fetch: messages that the ledger does not know.
        remove: messages that are safe with us and due for deletion.
        gone: UIDLs of the ledger that the server lists no longer, and that can be forgotten.
    """

    found: int
    fetch: tuple[Listed, ...]
    remove: tuple[Safe, ...]
    gone: tuple[str, ...]


def compare(
    listing: Sequence[tuple[int, str]], known: Mapping[str, Known], keep: float, now: float
) -> Worklist:
    """Compare what the server lists with what the ledger knows.

    Args:
        listing: message numbers and UIDLs, as UIDL answered.
        known: the ledger of the account, by UIDL.
        keep: seconds for which messages stay on the server, infinity for ever.
        now: seconds since 1970 (UTC).
    """
    listed = dict.fromkeys(uidl for _, uidl in listing)
    useless = _useless(listing) if len(listed) < len(listing) or "" in listed else frozenset()
    new = listed.keys() - known.keys()
    fetch = [
        Listed(number, None if uidl in useless else uidl)
        for number, uidl in listing
        if uidl in new or uidl in useless
    ]
    remove = [
        Safe(number, uidl, known[uidl].id)
        for number, uidl in (listing if keep < math.inf else ())
        if uidl not in new and uidl not in useless and _age(known[uidl], now) >= keep
    ]
    gone = known.keys() - listed.keys()
    # An empty or strange listing is more likely a server in trouble than a mailbox tidied up;
    # forgetting too early would fetch everything again.
    forget = tuple(gone) if len(gone) <= len(listed) else ()
    return Worklist(len(listing), tuple(fetch), tuple(remove), forget)


def _age(known: Known, now: float) -> float:
    # Not negative: after a clock was set back, what is not to be kept is not kept for that long.
    return max(0.0, now - known.first_seen)


def _useless(listing: Sequence[tuple[int, str]]) -> frozenset[str]:
    """Return UIDLs that identify no message: empty ones, and those that stand for several."""
    counts = Counter(uidl for _, uidl in listing)
    return frozenset(uidl for uidl, n in counts.items() if n > 1 or not uidl)
