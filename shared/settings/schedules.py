"""The fields that say when an account is polled: ``"mon-fri 07:00-19:00 every 2m"`` and the like.

Pure text in, values out, as in ``shared.settings.fields``. Where no time zone is named, it is the
machine's own.
"""

from __future__ import annotations

import re
from datetime import time, tzinfo
from typing import Annotated, Final, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from shared.errors import ConfigError
from shared.settings.fields import ParsedField
from shared.settings.values import duration
from shared.timetable import DAYS, Rule

_RULE: Final = re.compile(
    r"(?:(?P<days>[a-z,\- ]*[a-z]) +)?(?:(?P<start>\d\d?:\d\d) *- *(?P<end>\d\d?:\d\d) +)?"
    r"every +(?P<every>\S+)",
    re.IGNORECASE,
)
_LONGEST: Final = 366 * 86_400.0

_EXPECTED: Final = (
    'expected a list such as ["mon-fri 07:00-19:00 every 2m", "every 30m"], where the first that'
    " holds counts"
)


def _rules(value: object) -> tuple[Rule, ...]:
    lines = value.split(";") if isinstance(value, str) else value
    if not isinstance(lines, list) or not lines:
        raise ValueError(_EXPECTED)
    return tuple(_rule(line) for line in lines)


def _rule(line: object) -> Rule:
    found = _RULE.fullmatch(line.strip()) if isinstance(line, str) else None
    if found is None:
        raise ValueError(_EXPECTED)
    days, start, end = _days(found["days"]), _time(found["start"]), _time(found["end"])
    every = duration(found["every"])
    if every > _LONGEST:
        raise ValueError(f"{_EXPECTED}; every year at the least")
    return Rule(every, days, start, end)


def _days(text: str | None) -> frozenset[int]:
    """Return the days in ``mon-fri`` or ``sat, sun``; all where nothing is said."""
    if text is None or text.strip().lower() in ("daily", "always"):
        return frozenset(range(len(DAYS)))
    found = set[int]()
    for part in text.lower().replace(" ", "").split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise ValueError(f"{_EXPECTED}; days are {', '.join(DAYS)}")
        begins, ends = DAYS.index(first), DAYS.index(last or first)
        found |= {day % len(DAYS) for day in range(begins, ends + 1 + (ends < begins) * len(DAYS))}
    return frozenset(found)


def _time(text: str | None) -> time:
    if text is None:
        return time()
    hour, minute = map(int, text.split(":"))
    if (hour, minute) == (24, 0):
        return time()
    try:
        return time(hour, minute)
    except ValueError:
        raise ValueError(f"{_EXPECTED}; there is no such time of day") from None


def _zone(value: object) -> tzinfo:
    try:
        return ZoneInfo(value if isinstance(value, str) else "")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError('expected a time zone, such as "Europe/Berlin"') from None


def local_zone() -> tzinfo:
    """Return the time zone of this machine.

    Raises:
        ConfigError: it is not known by a name; ``TZ`` may be written as a rule of POSIX.
    """
    # Loaded where it is used: every command reads settings, and few have a schedule.
    from tzlocal import get_localzone

    try:
        return get_localzone()
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigError(
            "timezone",
            "the time zone of this machine is not known by its name (TZ, /etc/localtime): set"
            ' timezone = "Europe/Berlin" or another beside the schedule',
        ) from error


Rules: TypeAlias = Annotated[tuple[Rule, ...], ParsedField(_rules)]
Zone: TypeAlias = Annotated[tzinfo, ParsedField(_zone)]
