"""Keeps one trouble from filling the log: some lines of it, then how many there were.

The same event about the same account, destination or server is one trouble. What is left out is
counted, and told with the first line of any kind after its time, or at the end of the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Final, TypeAlias

SOME: Final = 20
"""Lines of one trouble in a stretch of time."""

STRETCH: Final = 60.0
"""Seconds of it, from the first line on."""

_WHOM: Final = ("account", "destination", "server", "queue")

Trouble: TypeAlias = tuple[str, ...]


@dataclass(slots=True)
class _Told:
    """One trouble in its stretch of time: when that ends, and how often it was."""

    end: float
    times: int = 0


class Flood:
    """Counts troubles.

    Args:
        monotonic: returns seconds of a clock that is never set back.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._told: dict[Trouble, _Told] = {}  # in the order of their ends

    def __len__(self) -> int:
        """Return how many troubles there are in their stretch of time."""
        return len(self._told)

    def tells(self, event: str, about: Mapping[str, str]) -> bool:
        """Return whether a line is to be written about this, or it is only counted."""
        trouble = (event, *(about.get(name, "") for name in _WHOM))
        told = self._told.get(trouble)
        if told is None:
            told = self._told[trouble] = _Told(self._monotonic() + STRETCH)
        told.times += 1
        return told.times <= SOME

    def over(self, *, ended: bool = False) -> Iterator[tuple[str, dict[str, object]]]:
        """Yield the event, whom it was about and ``left_out`` for all whose time has passed.

        Args:
            ended: the process ends, and no time is left for any.
        """
        now = inf if ended else self._monotonic() if self._told else 0.0
        while self._told:
            trouble, told = next(iter(self._told.items()))
            if told.end > now:
                return
            del self._told[trouble]
            if told.times > SOME:
                event, *whom = trouble
                about = {name: who for name, who in zip(_WHOM, whom, strict=True) if who}
                yield event, {**about, "left_out": told.times - SOME}
