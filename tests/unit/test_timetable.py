"""When an account is due again: hours, days, and nights on which the clock is put back."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.settings.schedules import Rules
from shared.timetable import Rule, Timetable

BERLIN = ZoneInfo("Europe/Berlin")
SANTIAGO = ZoneInfo("America/Santiago")  # where midnight is left out


def rules(*lines: str) -> tuple[Rule, ...]:
    from pydantic import TypeAdapter

    return TypeAdapter(Rules).validate_python(list(lines))


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


OFFICE = ("mon-fri 07:00-19:00 every 2m", "every 30m")
NIGHT = ("daily 22:00-06:00 every 1h",)
WEEKEND = ("sat,sun every 1h",)
EARLY = ("02:00-03:00 every 10m", "every 6h")


@pytest.mark.parametrize(
    ("lines", "polled", "due"),
    [
        (OFFICE, "2026-11-30T08:00", "2026-11-30T08:02"),  # a Monday
        (OFFICE, "2026-11-30T18:59", "2026-11-30T19:29"),  # the rule that holds then
        (OFFICE, "2026-11-30T20:00", "2026-11-30T20:30"),
        (OFFICE, "2026-11-30T06:50", "2026-11-30T07:00"),  # due as soon as the office opens
        (OFFICE, "2026-11-30T06:59", "2026-11-30T07:01"),
        (OFFICE, "2026-12-05T12:00", "2026-12-05T12:30"),  # a Saturday
        (OFFICE, "2026-12-07T06:40", "2026-12-07T07:00"),
        (NIGHT, "2026-11-30T23:30", "2026-12-01T00:30"),
        (NIGHT, "2026-11-30T05:30", "2026-11-30T22:00"),  # by then an hour is long over
        (NIGHT, "2026-11-30T12:00", "2026-11-30T22:00"),
        (WEEKEND, "2026-12-06T23:30", "2026-12-12T00:00"),
        (("fri-mon 20:00-24:00 every 5m",), "2026-12-01T08:00", "2026-12-04T20:00"),
        (("wed 23:00-01:00 every 30m",), "2026-12-03T00:20", "2026-12-03T00:50"),
        (("wed 23:00-01:00 every 30m",), "2026-12-03T00:40", "2026-12-09T23:00"),
        # 2026-03-29: 02:00 to 03:00 is left out.
        (EARLY, "2026-03-29T01:50", "2026-03-29T08:50"),
        (("01:00-02:30 every 20m", "every 6h"), "2026-03-29T01:50", "2026-03-29T08:50"),
        # 2026-10-25: 02:00 to 03:00 comes twice.
        (("03:00-04:00 every 10m", "every 6h"), "2026-10-25T01:50", "2026-10-25T03:00"),
    ],
)
def test_due_again(lines: tuple[str, ...], polled: str, due: str) -> None:
    timetable = Timetable(rules(*lines), BERLIN)
    assert timetable.next_after(at(polled)) == at(due)


def test_an_hour_that_comes_twice_counts_twice() -> None:
    timetable = Timetable(rules(*EARLY), BERLIN)
    moment, polls = at("2026-10-25T02:00"), 0
    while moment < at("2026-10-25T03:00"):
        moment, polls = timetable.next_after(moment), polls + 1
    assert polls == 12


def test_a_midnight_that_does_not_exist() -> None:
    timetable = Timetable(rules("sun every 1h", "every 12h"), SANTIAGO)
    # 2026-09-06, a Sunday, begins at 01:00.
    assert timetable.next_after(at("2026-09-05T22:00", SANTIAGO)) == at(
        "2026-09-06T01:00", SANTIAGO
    )


def test_an_only_hour_that_is_left_out_is_waited_for_a_week_longer() -> None:
    timetable = Timetable(rules("sun 02:15-02:45 every 10m"), BERLIN)
    # 2026-03-29: 02:00 to 03:00 does not exist.
    assert timetable.next_after(at("2026-03-22T02:44")) == at("2026-04-05T02:15")


def test_an_interval_of_more_than_a_week_keeps_to_its_hours() -> None:
    timetable = Timetable(rules("mon 07:00-08:00 every 10d"), BERLIN)
    assert timetable.next_after(at("2026-06-01T07:30")) == at("2026-06-15T07:00")


def test_when_a_rule_holds_again() -> None:
    timetable = Timetable(rules(*OFFICE_ALONE), BERLIN)
    friday, monday = at("2026-06-05T18:59"), at("2026-06-08T07:00")
    assert timetable.opens(friday) == friday
    assert timetable.opens(friday + 60) == monday
    assert Timetable.always(1e20).opens(1e25) == 1e25


OFFICE_ALONE = ("mon-fri 07:00-19:00 every 2m",)


def test_one_interval_needs_no_calendar() -> None:
    assert Timetable.always(1e20).every(1e25) == 1e20
    assert Timetable.always(300.0).next_after(1000.0) == 1300.0


LINES = st.sampled_from([OFFICE, NIGHT, WEEKEND, EARLY, ("tue 00:00-00:05 every 3h",)])


@given(LINES, st.integers(1_700_000_000, 1_900_000_000), st.sampled_from([BERLIN, SANTIAGO, UTC]))
def test_whatever_the_moment_it_is_due_while_a_rule_holds(
    lines: tuple[str, ...], now: int, zone: ZoneInfo
) -> None:
    timetable = Timetable(rules(*lines), zone)
    due = timetable.next_after(now)
    local = datetime.fromtimestamp(due, zone)
    held = [rule for rule in timetable.rules if rule.holds(local)]
    assert held
    assert now < due
    # No sooner than by the most frequent rule, no later than by the one that holds, or its start.
    assert due - now >= min(rule.every for rule in timetable.rules)
    assert due - now <= 7 * 86_400 + 3_600 + max(rule.every for rule in timetable.rules)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "every",
        "every 5",
        "every 53w",
        "mon every 999999999w",
        "mon",
        "mon-fun every 5m",
        "25:00-26:00 every 5m",
        "every 0s",
        5,
        [],
    ],
)
def test_what_is_no_rule_is_told(line: object) -> None:
    from pydantic import TypeAdapter, ValidationError

    with pytest.raises(ValidationError, match="expected"):
        TypeAdapter(Rules).validate_python([line])
