"""Keeps one trouble from filling the log: some lines of it, then how many there were.

The same event about the same account, destination or server is one trouble; where it befalls very
many of them at once, the event is one by itself. Another reason than those before has a line, too,
so that the usual does not hide the new, up to ``SOME`` reasons. What is left out is counted, and
told with the first line of any kind after its time, or at the end of the process. A count names no
message: what became of each is in the queues and ledgers.

What lasts as long as its cause, and is the same for all that it befalls (a queue that is full), has
one line, and then a count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Final, NamedTuple, TypeAlias

SOME: Final = 20
"""Lines of one trouble in a stretch of time."""

MANY: Final = 500
"""Lines of one event in that time, besides the first about each."""

STRETCH: Final = 60.0
"""Seconds of it, from the first line on."""

_WHOM: Final = ("account", "destination", "server", "queue")
_COMPARED: Final = 200
"""Characters of a reason that count."""

_NOBODY: Final = ("",) * len(_WHOM)


class LogEvent(NamedTuple):
    """What happened, how bad that is, and in which stage."""

    level: int
    stage: str
    what: str


FloodKey: TypeAlias = tuple[LogEvent, tuple[str, ...]]


@dataclass(slots=True)
class _TroubleCount:
    """One trouble in its stretch of time.

    Attributes:
        end: when that ends.
        lines: how many may be written yet.
        reasons: what was given for it so far, as far as it was worth a line.
        left_out: how often it was only counted.
    """

    end: float
    lines: int
    reasons: set[str] = field(default_factory=set)
    left_out: int = 0

    def takes(self, reason: str) -> bool:
        """Return whether a line is left for it: one of some, or the first for a reason."""
        fresh = reason not in self.reasons and len(self.reasons) < SOME
        if fresh:
            self.reasons.add(reason)
        self.lines -= 1
        return fresh or self.lines >= 0


class Flood:
    """Counts troubles.

    Args:
        monotonic: returns seconds of a clock that is never set back.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._told: dict[FloodKey, _TroubleCount] = {}  # in the order of their ends

    def __len__(self) -> int:
        """Return how many troubles there are in their stretch of time."""
        return len(self._told)

    def tells(self, event: LogEvent, about: Mapping[str, object], *, lasting: bool = False) -> bool:
        """Return whether a line is to be written about this, or it is only counted.

        Args:
            event: what happened.
            about: whom it happened to, and why.
            lasting: it happens to all alike, for as long as its cause lasts.
        """
        if lasting:
            return self._tells_once(event, about)
        whom = tuple([str(about.get(name, "")) for name in _WHOM])
        told = self._trouble((event, whom), SOME)
        if not told.takes(_kind(about)):
            told.left_out += 1
            return False
        if whom == _NOBODY or told.lines == SOME - 1:  # the first, whatever there is about others
            return True
        every = self._trouble((event, _NOBODY), MANY)
        every.lines -= 1
        every.left_out += every.lines < 0
        return every.lines >= 0

    def _tells_once(self, event: LogEvent, about: Mapping[str, object]) -> bool:
        told = self._trouble((event, _NOBODY), 1)
        takes = told.takes(_kind(about))
        told.left_out += not takes
        return takes

    def _trouble(self, trouble: FloodKey, lines: int) -> _TroubleCount:
        told = self._told.get(trouble)
        if told is None:
            told = self._told[trouble] = _TroubleCount(self._monotonic() + STRETCH, lines)
        return told

    def over(self, *, ended: bool = False) -> Iterator[tuple[LogEvent, dict[str, object]]]:
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
            if told.left_out:
                event, whom = trouble
                about = {name: who for name, who in zip(_WHOM, whom, strict=True) if who}
                yield event, {**about, "left_out": told.left_out}


def _kind(about: Mapping[str, object]) -> str:
    """Return what is alike in reasons that differ in a number: that of a message, of bytes."""
    reason = str(about.get("reason") or about.get("why") or "")
    return "".join([c for c in reason[:_COMPARED] if not c.isdigit()])
