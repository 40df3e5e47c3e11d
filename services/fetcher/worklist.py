"""What one session has to do: what the server lists, less what the ledger knows. Pure.

A UIDL is a hint: it may be used again once its message is gone (RFC 1939 section 7), begin anew in
an empty maildrop, or be the message number. So a known one with another size is a new message until
its content says otherwise, and what is listed no longer is forgotten at once: that costs a download
that identity suppresses, and remembering wrongly costs a mail.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from shared.claims import Known

_NOTHING: Final[Mapping[int, int]] = MappingProxyType({})


class Listed(NamedTuple):
    """A message in a maildrop.

    Attributes:
        number: in this session.
        uidl: None where it is not usable.
        size: what LIST says, None where it does not.
    """

    number: int
    uidl: str | None
    size: int | None = None

    @property
    def key(self) -> str:
        """What tells it from the others in another session, as far as anything does."""
        # No UIDL begins with a blank.
        return f" {self.number} {self.size}" if self.uidl is None else self.uidl


class Safe(NamedTuple):
    """A message that is safe with us and may be deleted at the server.

    Attributes:
        head: the hash of its header block, None where it is not known.
    """

    number: int
    uidl: str | None
    id: str
    size: int | None = None
    head: str | None = None


@dataclass(frozen=True, slots=True)
class Worklist:
    """What to do in one session.

    Attributes:
        found: how many messages the server has.
        fetch: messages that the ledger does not know.
        changed: the identities of those among them whose UIDL it knows with another size, by UIDL.
        due: messages that it knows, and whose time on the server is over.
        gone: UIDLs of the ledger that the server lists no longer.
        unnamed: how many messages have no usable UIDL.
    """

    found: int
    fetch: tuple[Listed, ...]
    changed: Mapping[str, str]
    due: tuple[Safe, ...]
    gone: tuple[str, ...]
    unnamed: int


def usable(listing: Sequence[tuple[int, str]] | None, count: int) -> dict[int, str]:
    """Return the UIDLs that identify a message, by its number.

    Empty ones do not, nor do those that stand for several, nor, all together, message numbers.

    Args:
        listing: as UIDL answered, None where there is none.
        count: how many messages there are.
    """
    uidls = dict(listing or ())
    if uidls and not (min(uidls) > 0 and max(uidls) <= count):
        uidls = {number: uidl for number, uidl in uidls.items() if 0 < number <= count}
    distinct = set(uidls.values())
    if len(distinct) < len(uidls) or "" in distinct:
        times = Counter(uidls.values())
        uidls = {number: uidl for number, uidl in uidls.items() if uidl and times[uidl] == 1}
    if all(uidl.lstrip("0") == str(number) for number, uidl in uidls.items()):
        return {}
    return uidls


def compare(
    uidls: Mapping[int, str],
    count: int,
    known: Mapping[str, Known],
    keep: float,
    now: float,
    sizes: Mapping[int, int] = _NOTHING,
) -> Worklist:
    """Compare what the server lists with what the ledger knows.

    Args:
        uidls: usable UIDLs, by message number.
        count: how many messages there are; those without a UIDL are fetched by number.
        known: the ledger of the account, by UIDL.
        keep: seconds for which messages stay on the server, infinity for ever.
        now: seconds since 1970 (UTC).
        sizes: what LIST says, by message number, as far as it was asked and can be believed.
    """
    listed = set(uidls.values())
    new = listed - known.keys()
    changed = {
        uidls[n]: known[uidls[n]].id
        for n, size in (sizes.items() if known else ())
        if _differs(n, size, uidls, known)
    }
    fresh = new.union(changed) if changed else new
    # All that goes through every message is left out where it is known to find nothing: it is what
    # the poll of a large maildrop costs.
    fetch = [
        Listed(n, uidl, sizes.get(n))
        for n, uidl in (uidls.items() if fresh else ())
        if uidl in fresh
    ]
    if len(uidls) < count:
        fetch += [Listed(n, None, sizes.get(n)) for n in range(1, count + 1) if n not in uidls]
    due = [
        Safe(n, uidl, known[uidl].id, known[uidl].size)
        for n, uidl in (uidls.items() if keep < math.inf else ())
        if uidl not in fresh and age(known[uidl].first_seen, now) >= keep
    ]
    all_there = len(known) == len(listed) - len(new)
    gone = () if all_there else tuple(known.keys() - listed)
    return Worklist(count, tuple(fetch), changed, tuple(due), gone, count - len(uidls))


def age(since: float, now: float) -> float:
    """Return for how many seconds a message has been here.

    Not negative: after a clock was set back, what is not to be kept is not kept for that long.
    """
    return max(0.0, now - since)


def _differs(number: int, size: int, uidls: Mapping[int, str], known: Mapping[str, Known]) -> bool:
    before = known.get(uidls.get(number, ""))
    return before is not None and before.size is not None and before.size != size
