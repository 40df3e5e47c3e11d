"""UIDLs of a very large maildrop: they are as in a dict, and take a fraction of its memory."""

import tracemalloc

import pytest

from services.fetcher.compare import Comparison, usable
from services.fetcher.pop3 import uidl_index
from services.fetcher.pop3.listing import UidlListing
from services.fetcher.pop3.uidl_redaction import without_secrets
from shared.ledger import Known
from shared.redaction.redaction import Redaction

REGULAR = [b"%d u%d\r\n" % (n, n) for n in range(1, 401)]
LISTINGS = {
    "regular": REGULAR,
    "one UIDL of several": [*REGULAR, b"401 u7\r\n", b"402 u300\r\n", b"403 x\r\n", b"404 x\r\n"],
    "one number of several": [*REGULAR, b"7 y\r\n", b"300 z\r\n", b"300 z\r\n", b"401 v\r\n"],
    "irregular": [b"%d \xfc%d\t\r\n" % (n, n) for n in range(400, 0, -1)],
    "too long": [*REGULAR, b"401 %s\r\n" % (b"x" * 600), b"402 w\r\n"],
    "the numbers": [b"%d %d\r\n" % (n, n) for n in range(1, 401)],
    "a gap": [*REGULAR[:300], b"900 u900\r\n", b"901 u901\r\n"],
}


def listed(lines: list[bytes]) -> UidlListing:
    found = UidlListing(1_000)
    for start in range(0, len(lines), 30):
        found.feed(b"".join(lines[start : start + 30]))
    return found.end()


@pytest.mark.parametrize("lines", LISTINGS.values(), ids=LISTINGS)
@pytest.mark.parametrize(("first", "block"), [(1, 4), (90, 9), (90, 64 * 1024)])
def test_a_large_listing_is_read_like_a_small_one(
    monkeypatch: pytest.MonkeyPatch, lines: list[bytes], first: int, block: int
) -> None:
    small = listed(lines)
    monkeypatch.setattr(uidl_index, "_BLOCK", block)
    monkeypatch.setattr(uidl_index, "FIRST", first)
    large = listed(lines)
    assert isinstance(small.numbers, dict)
    assert list(large.numbers.items()) == list(small.numbers.items())
    assert len(large.numbers) == len(small.numbers)
    assert all(large.numbers.get(u) == n and u in large.numbers for u, n in small.numbers.items())
    assert (large.lines, large.highest) == (small.lines, small.highest)
    assert not any(uidl in large.numbers for uidl in ("u7x", "", "401"))
    few = {u: n for u, n in small.numbers.items() if n <= 350}
    assert dict(usable(large.numbers, 350, large.highest)) == few
    assert len(usable(large.numbers, 350, large.highest)) == len(few)


async def test_stand_ins_take_the_place_of_uidls_in_a_large_listing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = [*REGULAR, *(b"%d open-sesame%d\r\n" % (n, n) for n in range(401, 411))]
    hides = Redaction("open-sesame", "sales", "pop.example:110")
    small = await without_secrets(listed(lines).numbers, hides)
    monkeypatch.setattr(uidl_index, "FIRST", 50)
    large = await without_secrets(listed(lines).numbers, hides)
    assert list(large.items()) == list(small.items())
    assert not any("sesame" in uidl for uidl in large)


def test_a_large_listing_is_compared_like_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    page = {f"u{n}": Known(f"{n:032x}", 0.0, 5) for n in range(50, 500, 2)}
    results = []
    for first in (1_000, 20):
        monkeypatch.setattr(uidl_index, "FIRST", first)
        uidls = listed([*REGULAR, b"402 u402\r\n"])
        comparison = Comparison(uidls.numbers, 402, 0.0, 1.0)
        gone, _ = comparison.take(page)
        work = [work for work in comparison.worklist() if work is not None]
        fetch, due = [list(w.fetch) for w in work], [w.due for w in work]
        results.append((gone, fetch, due, comparison.octets))
    assert results[0] == results[1]
    assert len(results[0][0]) == 48, "what is known and not listed is gone"


@pytest.mark.parametrize("length", [16, 70, 100])
def test_a_uidl_takes_little_more_than_its_characters(
    monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr(uidl_index, "FIRST", 1_000)
    count = 20_000
    tracemalloc.start()
    try:
        found = UidlListing(count)
        for start in range(1, count, 500):
            some = range(start, start + 500)
            found.feed(b"".join(b"%d %0*x\r\n" % (n, length, n) for n in some))
        found.end()
        taken, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.numbers) == count
    assert peak < count * (length + 60)
    assert taken < count * (length + 50)
