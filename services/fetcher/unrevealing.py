"""UIDLs as they may be kept and shown: one that holds the password is replaced by a stand-in.

Which is the same whenever it is listed, so that it tells a message from the others as well as the
UIDL itself. It changes with the password; then the message is fetched once more, and recognised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from shared.redaction import Redaction

_SLICE: Final = 4_096
"""UIDLs that are looked at before others have their turn: a millisecond."""


async def unrevealing(uidls: list[tuple[int, str]], redaction: Redaction) -> list[tuple[int, str]]:
    """Return UIDLs by message number, with stand-ins for those that hold the password.

    A UIDL that is its message's number says nothing, whatever the password is.
    """
    found: list[tuple[int, str]] = []
    for start in range(0, len(uidls), _SLICE):
        some = uidls[start : start + _SLICE]
        if redaction.holds("\n".join([uidl for _, uidl in some])):
            some = await asyncio.to_thread(_replaced, some, redaction)
        else:
            await asyncio.sleep(0)
        found += some
    return found


def _replaced(some: Sequence[tuple[int, str]], redaction: Redaction) -> list[tuple[int, str]]:
    return [
        (number, redaction.pseudonym(uidl))
        if uidl.lstrip("0") != str(number) and redaction.holds(uidl)
        else (number, uidl)
        for number, uidl in some
    ]
