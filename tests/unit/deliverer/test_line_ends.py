import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.deliverer.line_ends import Crlf, Lf, Transparency, crlf, encode_data
from shared.message import HEADER_LIMIT

nasty = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b".", b"\r\n", b"\r\r\n", b"a", b"\r\n\r\n", b"\x0b\x0c\x1c\x85", b""]
    ),
    max_size=30,
)


def in_chunks(*chunks: bytes) -> bytes:
    encoder = Transparency()
    return b"".join(map(encoder.feed, chunks)) + encoder.end()


BODY = b"A: b\r\n\r\n"


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        (b"", b".\r\n"),
        (b"a\r\n", b"a\r\n.\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b".", b"..\r\n.\r\n"),
        (b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\n.\nb", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\n.\r\nb", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\r\n..b", b"a\r\n...b\r\n.\r\n"),
        (BODY + b"a\r", BODY + b"a\r\n.\r\n"),
        (BODY + b"a\r.\rb", BODY + b"a\r\n..\r\nb\r\n.\r\n"),
        (BODY + b"a\r\n.\nMAIL FROM:<x>\r\n", BODY + b"a\r\n..\r\nMAIL FROM:<x>\r\n.\r\n"),
        (BODY + b"a\r\r\nb", BODY + b"a\r\nb\r\n.\r\n"),
        (BODY + b"a\r\r\r\r\n.\r\n", BODY + b"a\r\n..\r\n.\r\n"),
        (BODY + b"a\r\rb", BODY + b"a\r\n\r\nb\r\n.\r\n"),
        (b"A: b\r\r\nC: d\r\n\r\ne", b"A: b\r\nC: d\r\n\r\ne\r\n.\r\n"),
        (b"A: b\r\r\r\nC: d\r\r\n\r\r\ne\rf", b"A: b\r\nC: d\r\n\r\ne\r\nf\r\n.\r\n"),
        (b"A: b\rBcc: x\rC: d\r\n\r\ne", b"A: b Bcc: x C: d\r\n\r\ne\r\n.\r\n"),
        (b"A: b\r.\rC: d\r\n", b"A: b . C: d\r\n.\r\n"),
        (b"A: b\r\n\rC: d\n\ne", b"A: b\r\n C: d\r\n\r\ne\r\n.\r\n"),
        (b"A: b\r", b"A: b \r\n.\r\n"),
        (b"\r\na\rb", b"\r\na\r\nb\r\n.\r\n"),
        (b"\na\rb", b"\r\na\r\nb\r\n.\r\n"),
    ],
)
def test_line_ends_and_dots(message: bytes, sent: bytes) -> None:
    assert encode_data(message) == sent
    assert in_chunks(message) == sent
    assert in_chunks(*(message[i : i + 1] for i in range(len(message)))) == sent


@given(nasty)
def test_cuts_between_chunks_change_nothing(chunks: list[bytes]) -> None:
    assert in_chunks(*chunks) == encode_data(b"".join(chunks))


@given(nasty)
def test_nothing_but_the_end_can_be_taken_for_the_end(chunks: list[bytes]) -> None:
    sent = in_chunks(*chunks)
    for line_end in (rb"\r\n", rb"\n", rb"\r", rb"\r\n|\r|\n"):
        lines = re.split(line_end, sent)
        ends = [i for i, line in enumerate(lines) if line.strip(b"\r\n") == b"."]
        assert ends[0] >= len(lines) - 3
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", sent)


@given(nasty)
def test_a_server_gets_the_message_with_its_line_ends_mended(chunks: list[bytes]) -> None:
    sent = in_chunks(*chunks)
    assert sent.endswith(b".\r\n")
    received = re.sub(rb"(?m)^\.", b"", sent[:-3])
    want = crlf(b"".join(chunks))
    assert received == (want if want.endswith(b"\r\n") or not want else want + b"\r\n")


@given(nasty)
def test_only_line_ends_and_a_cr_in_the_header_are_changed(chunks: list[bytes]) -> None:
    message = b"".join(chunks)
    assert re.sub(rb"[\r\n ]", b"", crlf(message)) == re.sub(rb"[\r\n]", b"", message)
    unix = re.sub(rb"\r+\n", b"\n", message)
    header = b"" if unix.startswith(b"\n") else unix.partition(b"\n\n")[0]
    assert crlf(message).count(b" ") == header.count(b"\r")


@given(nasty)
def test_a_store_gets_lf_and_every_other_byte(chunks: list[bytes]) -> None:
    ends = Lf()
    stored = b"".join(map(ends.feed, chunks)) + ends.end()
    assert stored == b"".join(chunks).replace(b"\r\n", b"\n")


def test_a_run_of_cr_without_end_is_not_held_and_costs_no_more_than_other_bytes() -> None:
    ends = Crlf()
    out = ends.feed(BODY) + b"".join(ends.feed(b"\r" * 100_000) for _ in range(20))
    assert len(out) >= len(BODY) + 2 * 1_900_000
    assert ends.feed(b"\n" + b"\r" * 1000).startswith(b"\r\n")
    assert crlf(b"A: b" + b"\r" * 60_000 + b"c\r\n") == b"A: b" + b" " * 60_000 + b"c\r\n"


def test_a_header_without_end_is_not_held_for_ever() -> None:
    ends, line = Crlf(), b"X-Filler: " + b"f" * 1000 + b"\r\n"
    fed = out = 0
    while not out:
        out = len(ends.feed(line))
        fed += len(line)
    assert fed < 2 * HEADER_LIMIT + 3000
    assert ends.feed(b"body\rbody\r\n") == b"body\r\nbody\r\n"
