"""Sessions of one poll that broke at a message: whether another is worth it, and where it begins.

Bad messages may lie side by side, in front of good ones. After two sessions in vain the next one
begins at the end, then in the middle of what is left, in its quarters: so the good ones come in
this poll. A server that breaks wherever one begins is given up soon; a message that is known as bad
is no sign of that. After many breaks a last session fetches nothing: what others brought is to be
deleted. Known limit: good messages among many bad ones may take some polls.
"""

from __future__ import annotations

from array import array
from collections.abc import Container
from typing import Final

IN_VAIN: Final = 5
"""Sessions of a poll that may break, at messages not known as bad, before any brought something."""

BREAKS: Final = 24
"""Sessions of a poll that may break at all, each of them a login, before the last one."""

FROM_THE_FRONT: Final = 2
"""Sessions in vain, one after the other, before the next one begins elsewhere."""


class BrokenSessions:
    """The sessions of one poll that broke.

    Args:
        known: the keys of messages that were bad in earlier polls.
    """

    def __init__(self, known: Container[str]) -> None:
        self._known = known
        self._all = 0
        self._against_server = 0
        self._brought = False
        self._in_a_row = 0

    @property
    def in_vain(self) -> int | None:
        """How many brought nothing, one after the other; None where no more is to be fetched."""
        return None if self.enough else self._in_a_row

    @property
    def enough(self) -> bool:
        """Whether the poll ends well, and the next one goes on: it is no fault of the server."""
        return self._all >= BREAKS and self._against_server <= IN_VAIN

    def goes_on(self, key: str | None, *, brought: bool) -> bool:
        """Note a session that broke; return whether to begin another one.

        Args:
            key: the message that could not be fetched; None where it broke at a deletion.
            brought: whether it recorded a message.
        """
        self._all += 1
        self._brought = self._brought or brought
        self._in_a_row = 0 if brought else self._in_a_row + 1
        self._against_server += key is None or not (self._brought or key in self._known)
        return self._against_server <= IN_VAIN and self._all <= BREAKS


def elsewhere(indexes: array[int], in_vain: int) -> array[int]:
    """Return indexes of messages in the order in which to try them.

    Args:
        indexes: from the front of the maildrop.
        in_vain: sessions that brought nothing, one after the other.
    """
    turn = in_vain - FROM_THE_FRONT
    if turn < 0:
        return indexes
    if turn == 0:
        return indexes[::-1]
    parts = 1 << turn.bit_length()  # 1/2; 1/4, 3/4; 1/8, 3/8, ...
    odd = 2 * turn + 1 - parts
    at = len(indexes) * odd // parts
    return indexes[at:] + indexes[:at]
