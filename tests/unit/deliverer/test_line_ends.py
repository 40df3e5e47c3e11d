import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.deliverer.line_ends import LineEnds, Transparency, crlf, encoded, lf

nasty = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"a", b"\x0b\x0c\x1c\x85", b""]), max_size=30
)


def in_chunks(*chunks: bytes) -> bytes:
    encoder = Transparency()
    return b"".join(map(encoder.feed, chunks)) + encoder.end()


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        (b"", b".\r\n"),
        (b"a\r\n", b"a\r\n.\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b"a\r", b"a\r\n.\r\n"),
        (b".", b"..\r\n.\r\n"),
        (b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\n.\nb", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\n.\r\nb", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\r.\rb", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\r\n.\nMAIL FROM:<x>\r\n", b"a\r\n..\r\nMAIL FROM:<x>\r\n.\r\n"),
        (b"a\r\r\nb", b"a\r\n\r\nb\r\n.\r\n"),
        (b"a\r\n..b", b"a\r\n...b\r\n.\r\n"),
    ],
)
def test_line_ends_and_dots(message: bytes, sent: bytes) -> None:
    assert encoded(message) == sent
    assert in_chunks(message) == sent
    assert in_chunks(*(message[i : i + 1] for i in range(len(message)))) == sent


@given(nasty)
def test_cuts_between_chunks_change_nothing(chunks: list[bytes]) -> None:
    assert in_chunks(*chunks) == encoded(b"".join(chunks))


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
def test_a_store_gets_lf_and_every_other_byte(chunks: list[bytes]) -> None:
    ends = LineEnds(lf)
    stored = b"".join(map(ends.feed, chunks)) + ends.end()
    assert stored == b"".join(chunks).replace(b"\r\n", b"\n")
