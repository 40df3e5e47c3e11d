"""What a session has to do, from the server's listing and our ledger."""

import math
from collections.abc import Mapping, Sequence

from services.fetcher.compare import Comparison, usable
from services.fetcher.worklist import ListedMessage, SafeMessage, Worklist
from shared.ledger import Known
from tests.unit.fetcher.pop3_session import uidls_of

NOW = 1_700_000_000.0


def known(*uidls: str, age: float = 0.0, size: int | None = None) -> dict[str, Known]:
    return {uidl: Known(f"id-{uidl}", NOW - age, size) for uidl in uidls}


def compared(
    listing: Sequence[tuple[int, str]] | None,
    ledger: Mapping[str, Known],
    keep: float = math.inf,
    sizes: Mapping[int, int] | None = None,
    count: int | None = None,
) -> tuple[Worklist, list[str]]:
    """Compare, with a ledger of pages of two; return what is gone besides."""
    uidls = uidls_of(listing or ())
    count = len(listing or ()) if count is None else count
    numbers = usable(uidls.numbers, count, uidls.highest)
    comparison = Comparison(numbers, count, keep, NOW, sizes or {})
    entries, gone = list(ledger.items()), list[str]()
    for at in range(0, len(entries), 2):
        gone += comparison.take(dict(entries[at : at + 2]))[0]
    work = list(comparison.worklist())[-1]
    assert work is not None
    return work, gone


def work(
    listing: Sequence[tuple[int, str]] | None,
    ledger: Mapping[str, Known],
    keep: float = math.inf,
    sizes: Mapping[int, int] | None = None,
    count: int | None = None,
) -> Worklist:
    return compared(listing, ledger, keep, sizes, count)[0]


def gone(listing: Sequence[tuple[int, str]] | None, ledger: Mapping[str, Known]) -> set[str]:
    return set(compared(listing, ledger)[1])


def test_only_what_the_ledger_does_not_know_is_fetched() -> None:
    found = work([(1, "a"), (2, "b"), (3, "c")], known("b"))
    assert list(found.fetch) == [ListedMessage(1, "a"), ListedMessage(3, "c")]
    assert (found.due, found.found, found.unnamed) == ((), 3, 0)


def test_known_messages_are_due_when_their_time_on_the_server_is_over() -> None:
    ledger = known("old", age=8 * 86_400, size=7) | known("young", age=86_400)
    listing = [(1, "old"), (2, "young"), (3, "new")]
    assert work(listing, ledger, 7 * 86_400).due == (SafeMessage(1, "old", "id-old", 7),)
    assert [s.uidl for s in work(listing, ledger, 0).due] == ["old", "young"]
    assert work(listing, ledger).due == ()


def test_what_is_not_to_be_kept_is_due_although_the_clock_was_set_back() -> None:
    ledger = known("a", age=-3600.0)
    assert [s.uidl for s in work([(1, "a")], ledger, 0).due] == ["a"]
    assert work([(1, "a")], ledger, 60).due == ()


def test_a_uidl_that_stands_for_two_messages_identifies_neither() -> None:
    found = work([(1, "x"), (2, "x"), (3, "y")], known("x"), 0)
    assert set(found.fetch) == {
        ListedMessage(1, None),
        ListedMessage(2, None),
        ListedMessage(3, "y"),
    }
    assert (found.due, found.unnamed) == ((), 2)


def test_an_empty_uidl_identifies_nothing() -> None:
    assert set(work([(1, ""), (2, "a")], {}).fetch) == {
        ListedMessage(1, None),
        ListedMessage(2, "a"),
    }


def test_uidls_that_are_the_message_numbers_identify_nothing() -> None:
    found = work([(1, "1"), (2, "02"), (3, "3")], known("1", "02"), 0)
    assert list(found.fetch) == [
        ListedMessage(1, None),
        ListedMessage(2, None),
        ListedMessage(3, None),
    ]
    assert found.due == ()
    assert gone([(1, "1"), (2, "02"), (3, "3")], known("1", "02")) == {"1", "02"}
    assert list(work([(1, "1"), (2, "4")], known("1")).fetch) == [ListedMessage(2, "4")]


def test_messages_without_a_line_in_the_listing_are_fetched_by_number() -> None:
    found = work([(1, "a"), (3, "c")], known("a"), count=4, sizes={2: 20})
    assert set(found.fetch) == {
        ListedMessage(2, None, 20),
        ListedMessage(3, "c"),
        ListedMessage(4, None),
    }
    assert (found.found, found.unnamed) == (4, 2)


def test_without_uidls_all_is_fetched() -> None:
    found = work(None, known("a"), 0, count=2)
    assert list(found.fetch) == [ListedMessage(1, None), ListedMessage(2, None)]
    assert gone(None, known("a")) == {"a"}


def test_a_known_uidl_with_another_size_is_a_new_message() -> None:
    ledger = known("a", "b", size=10) | known("c")
    found = work([(1, "a"), (2, "b"), (3, "c")], ledger, 0, sizes={1: 10, 2: 11, 3: 12})
    assert list(found.fetch) == [ListedMessage(2, "b", 11)]
    assert found.changed.was(2, "id-b")
    assert not found.changed.was(2, "id-a")
    assert 3 not in found.changed
    assert [safe.uidl for safe in found.due] == ["a", "c"]


def test_what_is_listed_no_longer_is_gone_however_little_is_listed() -> None:
    ledger = known("a", "b", "c")
    assert gone([(1, "a"), (2, "b")], ledger) == {"c"}
    assert gone([], ledger) == {"a", "b", "c"}
    assert gone([(1, "new")], ledger) == {"a", "b", "c"}
