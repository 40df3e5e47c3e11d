"""Where a session begins after others in vain, and when a poll has had enough."""

from __future__ import annotations

from array import array

from services.fetcher.broken_sessions import BREAKS, IN_VAIN, BrokenSessions, elsewhere

EIGHT = array("I", range(1, 9))


def test_after_two_in_vain_it_begins_at_the_end_then_in_the_middle_and_in_the_quarters() -> None:
    orders = [elsewhere(EIGHT, in_vain) for in_vain in range(7)]
    assert [order[0] for order in orders] == [1, 1, 8, 5, 3, 7, 2]
    assert all(sorted(order) == list(EIGHT) for order in orders)
    assert list(orders[2]) == [8, 7, 6, 5, 4, 3, 2, 1]
    assert not elsewhere(array("I"), 5)


def test_a_server_that_breaks_wherever_one_begins_is_given_up() -> None:
    breaks = BrokenSessions(())
    assert all(breaks.goes_on(str(n), brought=False) for n in range(IN_VAIN))
    assert not breaks.goes_on("one more", brought=False)
    assert not breaks.enough


def test_what_is_known_as_bad_or_came_after_something_is_nothing_against_the_server() -> None:
    for known, brought in (({"bad"}, False), (set[str](), True)):
        breaks = BrokenSessions(known)
        assert breaks.goes_on("bad", brought=brought)
        assert all(breaks.goes_on("bad", brought=False) for _ in range(BREAKS - 1))
        assert breaks.enough
        assert breaks.in_vain is None
        assert not breaks.goes_on("bad", brought=False)


def test_deletions_that_break_the_session_are_something_whatever_came() -> None:
    breaks = BrokenSessions(())
    breaks.goes_on("bad", brought=True)
    assert all(breaks.goes_on(None, brought=False) for _ in range(IN_VAIN))
    assert not breaks.goes_on(None, brought=False)
    assert not breaks.enough
