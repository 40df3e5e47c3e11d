"""When something is due again: at some hours of some days more often than at others.

A timetable is a list of rules, of which the first that holds at a moment counts. Its hours are
those of a clock on the wall in one time zone: where that is put forward or back, they go along. An
hour that comes twice counts twice, one that is left out not at all.

Pure: time is a parameter, in seconds since 1970 (UTC). It trusts the system's data on time zones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Final

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_WEEK: Final = 7
_DAY: Final = timedelta(days=1)
_MIDNIGHT: Final = time()


@dataclass(frozen=True, slots=True)
class Rule:
    """How often, and when.

    Attributes:
        every: seconds from one time to the next.
        days: on which it holds, 0 for Monday; of hours over midnight, the day on which they begin.
        start: the time of day from which on it holds.
        end: the time of day from which on it does not; the same as ``start`` for all day.
    """

    every: float
    days: frozenset[int] = frozenset(range(_WEEK))
    start: time = _MIDNIGHT
    end: time = _MIDNIGHT

    def holds(self, local: datetime) -> bool:
        """Return whether it holds at this moment of the wall clock."""
        day, now = local.weekday(), local.time()
        if self.start < self.end:
            return day in self.days and self.start <= now < self.end
        before = (day - 1) % _WEEK
        return (day in self.days and now >= self.start) or (before in self.days and now < self.end)


@dataclass(frozen=True, slots=True)
class Timetable:
    """Rules, the first that holds counts; when none does, nothing is due.

    Attributes:
        rules: in their order; there is one at the least, and each holds at some time of a week.
        zone: whose wall clock it is.
    """

    rules: tuple[Rule, ...]
    zone: tzinfo = UTC

    @staticmethod
    def always(every: float) -> Timetable:
        """Return the timetable of one interval."""
        return Timetable((Rule(every),))

    def no_sooner(self, floor: float) -> Timetable:
        """Return the same timetable with no interval shorter than this, in seconds."""
        if self.shortest >= floor:
            return self
        rules = (replace(rule, every=max(rule.every, floor)) for rule in self.rules)
        return Timetable(tuple(rules), self.zone)

    def next_after(self, now: float) -> float:
        """Return when what was done at ``now`` is due again.

        That is after the interval of the rule that holds, or as soon as another one holds by whose
        interval it would be due already.
        """
        if len(self.rules) == 1 and self._always(self.rules[0]):
            return now + self.rules[0].every
        moment = now
        for change in self._changes(now):
            rule = self._rule(moment)
            if rule is not None and max(moment, now + rule.every) < change:
                return max(moment, now + rule.every)
            moment = change
        return now + self.longest

    def opens(self, moment: float) -> float:
        """Return the first moment from this one on at which a rule holds."""
        if self._rule(moment) is not None:
            return moment
        changes = self._changes(moment)
        return next((change for change in changes if self._rule(change) is not None), moment)

    def interval(self, now: float) -> float:
        """Return seconds from ``now`` to when it is due again."""
        return self.next_after(now) - now

    def every(self, moment: float) -> float:
        """Return the interval of the rule that holds at a moment; the shortest where none does."""
        rule = self._rule(moment)
        return self.shortest if rule is None else rule.every

    @property
    def shortest(self) -> float:
        """The shortest of its intervals, in seconds."""
        return min(rule.every for rule in self.rules)

    @property
    def longest(self) -> float:
        """The longest of its intervals, in seconds."""
        return max(rule.every for rule in self.rules)

    @staticmethod
    def _always(rule: Rule) -> bool:
        return rule.start == rule.end == _MIDNIGHT and len(rule.days) == _WEEK

    def _rule(self, moment: float) -> Rule | None:
        if self._always(self.rules[0]):
            return self.rules[0]
        local = datetime.fromtimestamp(moment, self.zone)
        return next((rule for rule in self.rules if rule.holds(local)), None)

    def _changes(self, now: float) -> Iterator[float]:
        """Yield the moments after ``now`` at which another rule may hold.

        Beyond the longest interval, two weeks of them: an hour that is left out, as the clock is
        put forward, may be the only one of a week.
        """
        today = datetime.fromtimestamp(now, self.zone).date()
        ahead = 2 * _WEEK + 2 + int(self.longest / _DAY.total_seconds())
        for days in range(-1, ahead):
            for change in _changes_of(self.rules, self.zone, today + days * _DAY):
                if change > now:
                    yield change


@lru_cache(maxsize=1_024)
def _changes_of(rules: Sequence[Rule], zone: tzinfo, day: date) -> tuple[float, ...]:
    """Return the moments of a day at which a rule begins or ends to hold, in their order."""
    times = {at for rule in rules for at in (rule.start, rule.end)}
    found = {
        datetime.combine(day, at, zone).replace(fold=fold).timestamp()
        for at in times
        for fold in (0, 1)
    }
    begins = datetime.combine(day, _MIDNIGHT, zone).timestamp()
    ends = datetime.combine(day + _DAY, _MIDNIGHT, zone).timestamp()
    return tuple(sorted(found | set(_shifts(zone, begins, ends))))


def _shifts(zone: tzinfo, begins: float, ends: float) -> Iterator[float]:
    """Yield the moment at which the clock is put forward or back between two, if it is."""

    def offset(moment: float) -> timedelta | None:
        return datetime.fromtimestamp(moment, zone).utcoffset()

    if offset(begins) == offset(ends):
        return
    while ends - begins > 1.0:
        middle = (begins + ends) // 2
        if offset(middle) == offset(begins):
            begins = middle
        else:
            ends = middle
    yield ends
