"""UIDLs as they may be kept and shown: one that holds the password is replaced by a stand-in.

Which is the same whenever it is listed, so that it tells a message from the others as well as the
UIDL itself. It changes with the password; then the message is fetched once more, and recognised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final

from shared.redaction import Redaction

_SLICE: Final = 4_096
"""UIDLs that are looked at before others have their turn: a millisecond."""


async def unrevealing(numbers: dict[str, int], redaction: Redaction) -> dict[str, int]:
    """Return message numbers by UIDL, with stand-ins for UIDLs that hold the password.

    A UIDL that is its message's number says nothing, whatever the password is.
    """
    replaced: dict[str, str] = {}
    rest = iter(numbers)
    while some := list(islice(rest, _SLICE)):
        if redaction.holds("\n".join(some)):
            replaced |= await asyncio.to_thread(_stand_ins, some, numbers, redaction)
        else:
            await asyncio.sleep(0)
    if not replaced:
        return numbers
    return {replaced.get(uidl, uidl): number for uidl, number in numbers.items()}


def _stand_ins(
    some: Iterable[str], numbers: Mapping[str, int], redaction: Redaction
) -> dict[str, str]:
    return {
        uidl: redaction.pseudonym(uidl)
        for uidl in some
        if uidl.lstrip("0") != str(numbers[uidl]) and redaction.holds(uidl)
    }
