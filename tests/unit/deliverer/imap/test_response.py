"""Responses of a server, cut anywhere, and what is read of them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.deliverer.imap.response import (
    DEPTH,
    LIMIT,
    LINE_LIMIT,
    ImapResponse,
    ResponseReader,
    status_of,
)
from services.deliverer.servers.reader import Malformed
from shared.redaction.redaction import Redaction

PIECES = st.lists(
    st.sampled_from(
        (
            *(b"* OK ready\r\n", b"P1 NO [TRYCREATE] no\r\n", b"+ go\r\n", b"+\r\n"),
            *(b"* LIST () {3}\r\n", b"abc", b" x\r\n", b"* SEARCH 1 2\r\n", b"\r", b"\n"),
            *(b"* OK [X (]", b'"', b"{5}", b"~{2}\r\n", b"(", b")", b"\0", b"\xff", b"NIL "),
            *(b"* BYE\r\n", b"P1 OK [APPENDUID 1 2]\n", b"{99999999999}\r\n"),
        )
    ),
    max_size=30,
).map(b"".join)


def read(pieces: list[bytes]) -> list[ImapResponse] | None:
    reader = ResponseReader()
    try:
        return [response for piece in pieces for response in reader.feed(piece)]
    except Malformed as error:
        assert str(error).isprintable()
        return None


@given(PIECES | st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8))
def test_however_it_is_cut_a_stream_is_the_same_responses(stream: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(places)]
    whole = read([stream])
    assert read(pieces) == whole
    for response in whole or ():
        response.values()
        status = status_of(response, Redaction("swordfish"))
        if status is not None:
            assert status.text.isprintable()
            assert "swordfish" not in status.text


def one(stream: bytes) -> ImapResponse:
    (response,) = ResponseReader().feed(stream)
    return response


def test_a_response_with_literals() -> None:
    response = one(b'* LIST (\\Marked (a "b\\"c")) {5}\r\nx\r\n)y NIL "q"\r\n')
    assert response.tag == b"*"
    assert response.values() == [
        b"LIST",
        [b"\\Marked", [b"a", b'b"c']],
        b"x\r\n)y",
        None,
        b"q",
    ]


@pytest.mark.parametrize("text", [b"* A (b", b"* A b)", b'* A "b', b"* " + b"(" * (DEPTH + 5)])
def test_what_cannot_be_read_is_left_out(text: bytes) -> None:
    assert isinstance(one(text + b"\r\n").values(), list)


def test_a_status_and_its_code() -> None:
    status = status_of(one(b"P1 no [AppendUID 1 2:3] did it\r\n"))
    assert status is not None
    assert (status.kind, status.code, status.arguments) == ("NO", "APPENDUID", b"1 2:3")
    assert status.text == "NO [APPENDUID 1 2:3] did it"
    assert status_of(one(b"* 5 EXISTS\r\n")) is None
    bare = status_of(one(b"P1 OK\r\n"))
    assert bare is not None
    assert (bare.code, bare.text) == ("", "OK")


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (b"* " + b"x" * (LINE_LIMIT + 5), "a line of more than"),
        (b"* " + b"x" * (LINE_LIMIT + 5) + b"\r\n", "a line of more than"),
        (b"* X {%d}\r\n" % (LIMIT + 1), "a response of more than"),
        (b"".join([b"* X"] + [b" {60000}\r\n" + b"x" * 60_000] * 6), "a response of more than"),
        (b"+OK POP3\r\n", "POP3 is spoken there"),
        (b"220 mail ESMTP\r\n", "SMTP is spoken there"),
        (b"HTTP/1.1 400 Bad\r\n", "HTTP is spoken there"),
        (b"\x15\x03\x01\x00\x02\n", "imaps://"),
        (b"\r\n", "not an IMAP response"),
    ],
)
def test_what_is_too_long_or_no_response(stream: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        ResponseReader().feed(stream)
