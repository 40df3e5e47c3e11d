"""CAPA, UIDL and LIST as servers send them, and as they should not."""

import pytest

from services.fetcher.listing import UIDL_LIMIT, capabilities, login_delay, sizes, uidls
from tests.fuzz.watch import no_hang


def test_a_regular_uidl_listing() -> None:
    assert uidls(b"1 abc\r\n2 !~\r\n3 000000016b03613f\r\n") == [
        (1, "abc"),
        (2, "!~"),
        (3, "000000016b03613f"),
    ]


def test_an_empty_listing() -> None:
    assert uidls(b"") == []
    assert sizes(b"") == {}
    assert capabilities(b"") == {}


def test_a_listing_with_gaps_is_read_by_its_own_numbers() -> None:
    assert uidls(b"2 b\r\n007 c\r\n5 d \r\n") == [(2, "b"), (7, "c"), (5, "d")]


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
    assert uidls(b"1 good\r\n" + line + b"\r\n3 fine\r\n") == [(1, "good"), (2, uidl), (3, "fine")]


@pytest.mark.parametrize(
    "line", [b"x 1", b"", b" ", b"-1 a", b"12345678901 a", "² a".encode(), b"uidl listing follows"]
)
def test_a_line_without_a_number_is_passed_over(line: bytes) -> None:
    assert uidls(line + b"\r\n1 good\r\n" + line + b"\r\n") == [(1, "good")]
    assert uidls(line + b"\r\n") == (None if line.strip() else [])


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_lines_end_in_line_feeds_too(end: bytes) -> None:
    def of(*lines: bytes) -> bytes:
        return b"".join(line + end for line in lines)

    assert uidls(of(b"1 a", b"2 b")) == [(1, "a"), (2, "b")]
    assert uidls(of(b"", b"1 a", b"  3 \t c ")) == [(1, "a"), (3, "c")]
    assert sizes(of(b"1 10", b"2 20")) == {1: 10, 2: 20}
    assert sizes(of(b"", b" 2 20 octets")) == {2: 20}
    assert capabilities(of(b"TOP", b"", b"EXPIRE 60")) == {"TOP": (), "EXPIRE": ("60",)}


def test_a_line_of_blanks_takes_no_more_time_than_another() -> None:
    with no_hang():
        assert uidls(b"1 a" + b" " * 100_000 + b"b\r\n") == [(1, "")]


def test_equal_uidls_are_left_for_the_caller_to_judge() -> None:
    assert uidls(b"1 same\r\n2 same\r\n") == [(1, "same"), (2, "same")]


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
