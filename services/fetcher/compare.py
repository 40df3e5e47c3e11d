"""Compares what a server lists with what the ledger knows, one page of the ledger after the other.

A UIDL is a hint: it may be used again once its message is gone (RFC 1939 section 7), begin anew in
an empty maildrop, or be the message number. So a known one with another size is a new message until
its content says otherwise, and what is listed no longer is forgotten at once: that costs a download
that identity suppresses, and remembering wrongly costs a mail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress, islice
from operator import attrgetter
from types import MappingProxyType
from typing import Final

from services.fetcher.pop3.uidl_index import UidlIndex
from services.fetcher.worklist import ChangedSizes, FetchList, SafeMessage, Worklist, age
from shared.ledger import ADOPTED, IMPORTED, SKIPPED, Known

FETCH_MOST: Final = 100_000
"""Messages with a UIDL that one session fetches; another one goes on."""

SLICE: Final = 20_000
"""Messages that are gone through before others have their turn."""

DUE_MOST: Final = 10_000
"""The same of those that are to be deleted; a session deletes far fewer."""

_NEVER_DUE: Final = (IMPORTED, SKIPPED)
"""What is not deleted: nobody has looked at it yet, or it was there before us."""

_NOTHING: Final[Mapping[int, int]] = MappingProxyType({})
_SIZE: Final[Callable[[Known], int]] = attrgetter("size")
_ID: Final[Callable[[Known], str]] = attrgetter("id")


class Comparison:
    """Takes the ledger in pages, and says what there is to do.

    Args:
        uidls: message numbers by the UIDLs that identify them.
        count: how many messages there are; those without a UIDL are fetched by number.
        keep: seconds for which messages stay on the server, infinity for ever.
        now: seconds since 1970 (UTC).
        sizes: what LIST says, by message number, as far as it was asked.
        vary: whether another size means nothing at this server.
        newest_first: which end of the listing is fetched first.
        most: messages with a UIDL that one session fetches; None for as many as usual.

    Attributes:
        octets: the sizes of what is listed and known, together; None if one is not known.
    """

    def __init__(
        self,
        uidls: Mapping[str, int],
        count: int,
        keep: float,
        now: float,
        sizes: Mapping[int, int] = _NOTHING,
        *,
        vary: bool = False,
        newest_first: bool = False,
        most: int | None = None,
    ) -> None:
        self._uidls = uidls
        self._count = count
        self._keep = keep
        self._now = now
        self._sizes = sizes
        self._vary = vary
        self._newest_first = newest_first
        self._most = FETCH_MOST if most is None else most
        self._all_sizes = len(sizes) >= len(uidls)
        self._is_new = bytearray(b"\1") * (count + 1)  # by number
        self._known = 0
        self._changed = ChangedSizes(count)
        self._adopted: set[str] = set()
        self._due: list[SafeMessage] = []
        self._unlooked: list[SafeMessage] = []
        self.octets: int | None = 0

    def take(self, page: Mapping[str, Known]) -> tuple[list[str], dict[str, int]]:
        """Compare a page.

        Returns:
            The UIDLs that are listed no longer, and the sizes that the ledger does not know yet.
        """
        numbers = list(map(self._uidls.get, page))
        gone = [uidl for uidl, number in zip(page, numbers, strict=True) if number is None]
        if gone:
            page = dict(compress(page.items(), [number is not None for number in numbers]))
        listed = [number for number in numbers if number is not None]
        for number in listed:
            self._is_new[number] = 0
        if ADOPTED in map(_ID, page.values()):
            self._look_into(page, listed)
        self._known += len(listed)
        if IMPORTED in map(_ID, page.values()):
            self._note_unlooked(page, listed)
        self._add_up(page)
        unknown: dict[str, int] = {}
        if self._sizes:
            for (uidl, known), number in zip(page.items(), listed, strict=True):
                self._measure(uidl, known, number, unknown)
        if self._keep < math.inf:
            self._judge(page, listed)
        return gone, unknown

    def _look_into(self, page: Mapping[str, Known], numbers: Sequence[int]) -> None:
        """Have what counts as delivered fetched, for its identity: a UIDL alone is not enough."""
        for (uidl, known), number in zip(page.items(), numbers, strict=True):
            if known.id == ADOPTED:
                self._adopted.add(uidl)
                self._is_new[number] = 1
                self._known -= 1

    def _note_unlooked(self, page: Mapping[str, Known], numbers: Sequence[int]) -> None:
        """Note what another program has fetched and nobody here has looked at."""
        room = DUE_MOST - len(self._unlooked)
        pairs = zip(page.items(), numbers, strict=True)
        imported = (pair for pair in pairs if pair[0][1].id == IMPORTED)
        for (uidl, known), number in islice(imported, room):
            self._unlooked.append(SafeMessage(number, uidl, known.id, known.size))

    def _add_up(self, page: Mapping[str, Known]) -> None:
        if self.octets is not None:
            try:
                self.octets += sum(map(_SIZE, page.values()))
            except TypeError:  # of one of them the size is not known
                self.octets = None

    def _measure(self, uidl: str, known: Known, number: int, unknown: dict[str, int]) -> None:
        size = self._sizes.get(number)
        if size is None or size == known.size or known.id == ADOPTED:
            return
        if known.size is None:
            if self._all_sizes:
                unknown[uidl] = size
        elif not self._vary:
            self._changed.add(number, known.id)
            self._is_new[number] = 1
            self._known -= 1

    def _judge(self, page: Mapping[str, Known], numbers: list[int]) -> None:
        for (uidl, known), number in zip(page.items(), numbers, strict=True):
            if len(self._due) >= DUE_MOST:
                return
            over = age(known.first_seen, self._now) >= self._keep
            if over and not self._is_new[number] and known.id not in _NEVER_DUE:
                self._due.append(SafeMessage(number, uidl, known.id, known.size))

    @property
    def fresh(self) -> int:
        """How many messages there are to be fetched."""
        return self._count - self._known

    def worklist(self) -> Iterator[Worklist | None]:
        """Yield what there is to do; before it None, now and then, so that others have a turn."""
        fetch, adopted = FetchList(), list[tuple[int, str]]()
        unlooked = tuple(safe for safe in self._unlooked if not self._is_new[safe.number])
        new = len(self._uidls) - self._known
        items = iter(self._uidls.items() if new else ())
        beyond = max(0, new - self._most) if self._newest_first else 0
        while len(fetch) < min(new, self._most) and (some := list(islice(items, SLICE))):
            chosen = compress(some, map(self._is_new.__getitem__, [n for _, n in some]))
            older = sum(1 for _ in islice(chosen, beyond)) if beyond else 0
            beyond -= older
            room = self._most - len(fetch)
            for uidl, number in islice(chosen, room):
                if uidl in self._adopted:
                    adopted.append((number, uidl))
                else:
                    fetch.add(number, uidl, self._sizes.get(number))
            yield None
        if len(self._uidls) < self._count:
            items = iter(self._uidls.items())
            while some := list(islice(items, SLICE)):
                for _, number in some:
                    self._is_new[number] = 0
                yield None
            for start in range(1, self._count + 1, SLICE):
                for number in range(start, min(start + SLICE, self._count + 1)):
                    if self._is_new[number]:
                        fetch.add(number, None, self._sizes.get(number))
                yield None
        if self._newest_first:
            backwards = FetchList()
            for start in range(len(fetch), 0, -SLICE):
                for index in range(start - 1, max(start - SLICE, 0) - 1, -1):
                    backwards.add(*fetch.at(index))
                yield None
            fetch = backwards
        more = new > self._most
        due = tuple(self._due)
        unnamed = self._count - len(self._uidls)
        for number, uidl in adopted[: max(0, self._most - len(fetch))]:  # after what is new
            fetch.add(number, uidl, self._sizes.get(number))
        yield Worklist(
            self._count, fetch, self._changed, due, unnamed, more, self._adopted, unlooked
        )


def usable(uidls: Mapping[str, int], count: int, highest: int) -> Mapping[str, int]:
    """Return those UIDLs that stand for a message that there is.

    Args:
        uidls: message numbers by UIDL.
        count: how many messages there are.
        highest: the highest number among them.
    """
    if highest <= count:
        return uidls
    if isinstance(uidls, UidlIndex):
        uidls.leave_out(beyond=count)
        return uidls
    return {uidl: number for uidl, number in uidls.items() if number <= count}
