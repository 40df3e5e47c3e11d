"""UIDLs as they may be kept and shown: one that holds the password is replaced by a stand-in.

Which is the same whenever it is listed, so that it tells a message from the others as well as the
UIDL itself. It changes with the password; then the message is fetched once more, and recognised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

from services.fetcher.pop3.listing import UIDL_LIMIT
from services.fetcher.pop3.uidl_index import UidlIndex
from shared.redaction.redaction import Redaction

_SLICE: Final = 16 * 1024
"""Characters that are looked at before others have their turn. To count UIDLs would not do: they
may be long, and all of it escapes."""

_SHORT: Final = 256
"""UIDLs that are joined, to see whether they have so few characters together."""


async def without_secrets(
    numbers: dict[str, int] | UidlIndex, redaction: Redaction
) -> dict[str, int] | UidlIndex:
    """Return message numbers by UIDL, with stand-ins for UIDLs that hold the password.

    A UIDL that is its message's number says nothing, whatever the password is.
    """
    for some in _slices(numbers):
        if redaction.holds("\n".join(some)):
            return await _replace_revealing(numbers, redaction)
        await asyncio.sleep(0)
    return numbers


async def _replace_revealing(
    numbers: dict[str, int] | UidlIndex, redaction: Redaction
) -> dict[str, int] | UidlIndex:
    shown: dict[str, int] | UidlIndex = {}
    if isinstance(numbers, UidlIndex):
        shown = numbers.empty()
    for some in _slices(numbers):
        stand_ins: Mapping[str, str] = {}
        if redaction.holds("\n".join(some)):
            stand_ins = await asyncio.to_thread(_stand_ins, some, numbers, redaction)
        else:
            await asyncio.sleep(0)
        for uidl in some:
            shown[stand_ins.get(uidl, uidl)] = numbers[uidl]
    return shown


def _slices(uidls: Iterable[str]) -> Iterator[list[str]]:
    """Yield them in slices: as many as have the characters of one, whatever their lengths are."""
    rest = iter(uidls)
    few = max(1, _SLICE // UIDL_LIMIT)
    while some := list(islice(rest, _SHORT)):
        if sum(map(len, some)) <= _SLICE:
            yield some
        else:
            yield from (some[start : start + few] for start in range(0, len(some), few))


def _stand_ins(
    some: Iterable[str], numbers: Mapping[str, int], redaction: Redaction
) -> dict[str, str]:
    return {
        uidl: redaction.pseudonym(uidl)
        for uidl in some
        if uidl.lstrip("0") != str(numbers[uidl]) and redaction.holds(uidl)
    }
