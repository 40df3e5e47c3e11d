"""CAPA, UIDL and LIST as servers send them, and as they should not."""

import tracemalloc

import pytest

from services.fetcher.pop3.listing import (
    UIDL_LIMIT,
    SizeListing,
    UidlListing,
    capabilities,
    login_delay,
)
from tests.fuzz.watch import no_hang


def uidls(*pieces: bytes, most: int = 1_000) -> UidlListing:
    listing = UidlListing(most)
    for piece in pieces:
        listing.feed(piece)
    return listing.end()


def sizes(*pieces: bytes, most: int = 1_000) -> SizeListing:
    listing = SizeListing(most)
    for piece in pieces:
        listing.feed(piece)
    return listing.end()


def test_a_regular_uidl_listing() -> None:
    listing = uidls(b"1 abc\r\n2 !~\r\n3 000000016b03613f\r\n")
    assert listing.numbers == {"abc": 1, "!~": 2, "000000016b03613f": 3}
    assert (listing.lines, listing.highest) == (3, 3)
    assert not (listing.beyond or listing.nonsense)


def test_an_empty_listing() -> None:
    assert (uidls(b"").numbers, uidls(b"").nonsense, sizes(b"").empty) == ({}, False, True)
    assert sizes(b"") == {}
    assert capabilities(b"") == {}


def test_a_listing_with_gaps_is_read_by_its_own_numbers() -> None:
    assert uidls(b"2 b\r\n007 c\r\n5 d \r\n").numbers == {"b": 2, "c": 7, "d": 5}


@pytest.mark.parametrize(
    ("line", "uidl"),
    [
        (b"2", ""),
        (b"2 ", ""),
        (b"2 two words", ""),
        (b"2 a\x1b[2J", ""),
        (b"2 a\0", ""),
        (b"2 a\nb", ""),
        (b"2\tx", "x"),
        (b"2 gr\xfc\xdfe", "grüße"),
        (b"2 " + b"u" * UIDL_LIMIT, "u" * UIDL_LIMIT),
        (b"2 " + b"u" * (UIDL_LIMIT + 1), ""),
    ],
)
def test_an_unusable_uidl_is_empty_and_spoils_no_other(line: bytes, uidl: str) -> None:
    listing = uidls(b"1 good\r\n" + line + b"\r\n3 fine\r\n")
    assert listing.numbers == {"good": 1, "fine": 3} | ({uidl: 2} if uidl else {})
    assert (listing.lines, listing.highest) == (3, 3)


@pytest.mark.parametrize(
    "line", [b"x 1", b"", b" ", b"-1 a", b"12345678901 a", "² a".encode(), b"uidl listing follows"]
)
def test_a_line_without_a_number_is_passed_over(line: bytes) -> None:
    listing = uidls(line + b"\r\n1 good\r\n" + line + b"\r\n")
    assert (listing.numbers, listing.lines) == ({"good": 1}, 1)
    assert uidls(line + b"\r\n").nonsense is bool(line.strip())


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_lines_end_in_line_feeds_too(end: bytes) -> None:
    def of(*lines: bytes) -> bytes:
        return b"".join(line + end for line in lines)

    assert uidls(of(b"1 a", b"2 b")).numbers == {"a": 1, "b": 2}
    assert uidls(of(b"", b"1 a", b"  3 \t c ")).numbers == {"a": 1, "c": 3}
    assert sizes(of(b"1 10", b"2 20")) == {1: 10, 2: 20}
    assert sizes(of(b"", b" 2 20 octets")) == {2: 20}
    assert capabilities(of(b"TOP", b"", b"EXPIRE 60")) == {"TOP": (), "EXPIRE": ("60",)}


def test_a_line_of_blanks_takes_no_more_time_than_another() -> None:
    with no_hang():
        listing = uidls(b"1 a" + b" " * 100_000 + b"b\r\n2 c\r\n")
    assert (listing.numbers, listing.lines) == ({"c": 2}, 2)


def test_a_uidl_of_several_messages_and_two_of_one_identify_none() -> None:
    assert uidls(b"1 same\r\n2 same\r\n3 other\r\n4 same\r\n").numbers == {"other": 3}
    assert uidls(b"1 same\r\n2 other\r\n", b"3 same\r\n4 x\r\n").numbers == {"other": 2, "x": 4}
    assert uidls(b"1 a\r\n2 b\r\n1 c\r\n").numbers == {"b": 2}
    assert uidls(b"1 a\r\n2 b\r\n1 a\r\n").numbers == {"a": 1, "b": 2}


def test_uidls_that_are_the_numbers_identify_none() -> None:
    assert uidls(b"1 1\r\n2 02\r\n", b"3 3\r\n").numbers == {}
    assert uidls(b"1 1\r\n2 02\r\n", b"3 x\r\n").numbers == {"1": 1, "02": 2, "x": 3}


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("cut", range(1, 60))
def test_it_does_not_matter_where_pieces_end(cut: int, end: bytes) -> None:
    lines = b"1 a|2 bb||5 e|4 d|6 same|x|7 same|8 h".replace(b"|", end) + end
    pieces = [lines[at : at + cut] for at in range(0, len(lines), cut)]
    assert uidls(*pieces).numbers == {"a": 1, "bb": 2, "e": 5, "d": 4, "h": 8}
    lines = b"1 10|2 20||5 50|4 x|6 60 octets|7 70".replace(b"|", end) + end
    pieces = [lines[at : at + cut] for at in range(0, len(lines), cut)]
    assert sizes(*pieces) == {1: 10, 2: 20, 5: 50, 6: 60, 7: 70}
    assert (sizes(*pieces).total, sizes(*pieces).highest) == (210, 7)


@pytest.mark.parametrize("first", [1, 2])
def test_no_more_lines_are_read_than_a_maildrop_may_have_messages(first: int) -> None:
    lines = [b"%d u%d\r\n" % (n, n) for n in range(first, 20)]
    for pieces in ([b"".join(lines)], lines):
        listing = uidls(*pieces, most=5)
        assert set(listing.numbers.values()) == set(range(first, 6))
        assert listing.beyond
    assert not uidls(b"1 a\r\n2 b\r\n", most=2).beyond
    assert sizes(b"1 1\r\n2 2\r\n", b"3 3\r\n", most=2) == {1: 1, 2: 2}
    assert uidls(b"1 a\r\n" * 10, most=5).beyond, "lines count, not messages"


def test_a_line_without_end_is_not_held() -> None:
    tracemalloc.start()
    try:
        listing = UidlListing()
        for _ in range(100):
            listing.feed(b"1 " + b"x" * 64 * 1024)
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()
    listing.feed(b"\r\n2 b\r\n")
    assert listing.end().numbers == {"b": 2}


def test_sizes_are_read_where_they_make_sense() -> None:
    assert sizes(b"1 120\r\n2 200\r\n") == {1: 120, 2: 200}
    assert sizes(b"1 120\r\n3 lots\r\n4 -5\r\n6 007 octets\r\nx\r\n7 " + b"9" * 30 + b"\r\n") == {
        1: 120,
        6: 7,
    }
    assert sizes(b"1 " + b"9" * 5000 + b"\r\n2 3\r\n") == {2: 3}


@pytest.mark.parametrize(
    ("parameters", "seconds"),
    [("60", 60), ("60 USER", 60), ("", 0), ("x", 0), ("-5", 0), ("9" * 30, 0)],
)
def test_the_delay_between_logins(parameters: str, seconds: float) -> None:
    assert login_delay(capabilities(f"LOGIN-DELAY {parameters}\r\n".encode())) == seconds
    assert login_delay({}) == 0


def test_capabilities_with_their_parameters() -> None:
    found = capabilities(b"TOP\r\nsasl PLAIN LOGIN\r\n\r\nEXPIRE 60 USER\r\n")
    assert found == {"TOP": (), "SASL": ("PLAIN", "LOGIN"), "EXPIRE": ("60", "USER")}
