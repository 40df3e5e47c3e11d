"""What a session has to do, from the server's listing and our ledger."""

import math

from services.fetcher.worklist import Listed, Safe, compare
from shared.claims import Known

NOW = 1_700_000_000.0


def known(*uidls: str, age: float = 0.0) -> dict[str, Known]:
    return {uidl: Known(f"id-{uidl}", NOW - age) for uidl in uidls}


def test_only_what_the_ledger_does_not_know_is_fetched() -> None:
    work = compare([(1, "a"), (2, "b"), (3, "c")], known("b"), math.inf, NOW)
    assert work.fetch == (Listed(1, "a"), Listed(3, "c"))
    assert work.remove == ()
    assert work.found == 3


def test_known_messages_are_removed_when_their_time_on_the_server_is_over() -> None:
    ledger = known("old", age=8 * 86_400) | known("young", age=86_400)
    listing = [(1, "old"), (2, "young"), (3, "new")]
    assert compare(listing, ledger, 7 * 86_400, NOW).remove == (Safe(1, "old", "id-old"),)
    assert [s.uidl for s in compare(listing, ledger, 0, NOW).remove] == ["old", "young"]
    assert compare(listing, ledger, math.inf, NOW).remove == ()


def test_what_is_not_to_be_kept_is_removed_although_the_clock_was_set_back() -> None:
    ledger = known("a", age=-3600.0)
    assert [s.uidl for s in compare([(1, "a")], ledger, 0, NOW).remove] == ["a"]
    assert compare([(1, "a")], ledger, 60, NOW).remove == ()


def test_a_uidl_that_stands_for_two_messages_identifies_neither() -> None:
    work = compare([(1, "x"), (2, "x"), (3, "y")], known("x"), 0, NOW)
    assert work.fetch == (Listed(1, None), Listed(2, None), Listed(3, "y"))
    assert work.remove == ()


def test_uidls_that_are_gone_are_forgotten_but_not_after_a_suspicious_listing() -> None:
    ledger = known("a", "b", "c")
    assert set(compare([(1, "a"), (2, "b")], ledger, math.inf, NOW).gone) == {"c"}
    assert compare([], ledger, math.inf, NOW).gone == ()
    assert compare([(1, "new")], ledger, math.inf, NOW).gone == ()


def test_an_empty_uidl_identifies_nothing() -> None:
    assert compare([(1, ""), (2, "a")], {}, math.inf, NOW).fetch == (
        Listed(1, None),
        Listed(2, "a"),
    )
