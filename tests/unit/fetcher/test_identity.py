"""The id of a message is its content's, whatever a server writes into its headers."""

import hashlib
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.fetcher.identity import HEAD_LIMIT, VOLATILE, Identity
from shared.message import HEADER_LIMIT
from tests.ids import identify

MESSAGE = b"From: a@example.net\r\nSubject: hello\r\n\r\nbody\r\n\r\nStatus: in the body\r\n"


def piecewise(account: str, pieces: list[bytes]) -> str:
    identity = Identity(account)
    for piece in pieces:
        identity.feed(piece)
    return identity.id()


def test_id_is_stable_and_depends_on_account_and_content() -> None:
    assert identify("sales", MESSAGE) == identify("sales", MESSAGE)
    assert identify("sales", MESSAGE) != identify("info", MESSAGE)
    assert identify("sales", MESSAGE) != identify("sales", MESSAGE + b"x")
    assert len(identify("sales", MESSAGE)) == 32


@pytest.mark.parametrize("name", VOLATILE)
def test_what_servers_add_does_not_count(name: str) -> None:
    line = f"{name}: 4711\r\n folded on\r\n".encode()
    assert identify("a", line + MESSAGE) == identify("a", MESSAGE)
    middle = MESSAGE.replace(b"Subject", line.upper() + b"Subject")
    assert identify("a", middle) == identify("a", MESSAGE)


def test_the_body_counts_also_where_it_looks_like_such_a_header() -> None:
    assert identify("a", MESSAGE) != identify("a", MESSAGE.replace(b"Status: in the body\r\n", b""))


@pytest.mark.parametrize("near", [b"X-Status-Code: 1\r\n", b"Statusbar: 1\r\n", b"My-Lines: 2\r\n"])
def test_similar_names_count(near: bytes) -> None:
    assert identify("a", near + MESSAGE) != identify("a", MESSAGE)


@given(
    st.binary(max_size=300).map(lambda b: MESSAGE + b) | st.binary(max_size=300),
    st.lists(st.integers(0, 400), max_size=6),
)
def test_pieces_do_not_matter(message: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(c, len(message)) for c in cuts), len(message)]
    pieces = [message[a:b] for a, b in pairwise(edges)]
    assert piecewise("a", pieces) == identify("a", message)


def defined(account: str, raw: bytes) -> str:
    """The id as it has been defined from the first release on: what is in ledgers bears it."""
    end = re.search(rb"\r?\n\r?\n", raw)
    cut = min(256 * 1024, len(raw) if end is None else end.end())
    names = "|".join(VOLATILE).encode()
    volatile = re.compile(
        rb"^(?:" + names + rb")[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*", re.IGNORECASE | re.MULTILINE
    )
    content = account.encode() + b"\0" + volatile.sub(b"", raw[:cut]) + raw[cut:]
    return hashlib.blake2b(content, digest_size=16).hexdigest()


PARTS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\n\n",
    b"\n\r\n",
    b"\r\n\n",
    b":",
    b" :",
    b"\t",
    b" a",
]
NAMES = [*(name.encode() for name in VOLATILE), b"sTATUS", b"X-", b"Subject", b"\xe4", b"\0"]


@given(
    st.lists(st.sampled_from(PARTS + NAMES), max_size=30).map(b"".join) | st.binary(max_size=300)
)
def test_the_id_is_what_it_has_always_been(raw: bytes) -> None:
    assert identify("sales", raw) == defined("sales", raw)


@pytest.mark.parametrize("edge", range(-6, 7))
def test_the_id_is_what_it_has_always_been_where_a_header_is_too_long(edge: int) -> None:
    for end in (b"\r\n\r\n", b"\r\nStatus: x\r\n\r\nStatus: y\r\n", b"\n\nbody"):
        raw = b"X: " + b"y" * (HEAD_LIMIT - 3 + edge) + end
        assert identify("sales", raw) == defined("sales", raw)
        assert piecewise("sales", [raw[:-9], raw[-9:]]) == defined("sales", raw)


def test_the_id_of_a_certain_message_is_a_certain_one() -> None:
    assert identify("sales", b"Status: RO\r\n" + MESSAGE) == "3980ae6e3ea2ff3490c572b0e1a596d1"


@pytest.mark.parametrize(
    "size", [HEADER_LIMIT - 1, HEADER_LIMIT, HEADER_LIMIT + 1, 2 * HEADER_LIMIT]
)
def test_a_header_block_without_end_is_bounded_and_cut_the_same_way(size: int) -> None:
    message = b"X: " + b"y" * (size - 3)
    whole = Identity("a")
    whole.feed(message)
    assert whole.id() == piecewise("a", [message[:1000], message[1000:]])
    assert len(whole.head) == min(size, HEADER_LIMIT)


def test_head_is_the_header_block_with_its_blank_line() -> None:
    identity = Identity("a")
    identity.feed(MESSAGE)
    assert identity.head == b"From: a@example.net\r\nSubject: hello\r\n\r\n"


STRAYS = (
    b"",
    b"\r\n",
    b"\n\r\n\r\r\n",
    b"\xef\xbb\xbf",
    b"From a@b Mon Nov  6\r\n",
    b"From a@b Mon Nov  6\r\n\r\n",
    b"\xef\xbb\xbf\r\nFrom a@b\r\n>From c@d\r\n\r\n",
)


@pytest.mark.parametrize("step", [1, 3, 10_000])
@pytest.mark.parametrize("above", STRAYS)
def test_what_stands_above_a_header_does_not_end_it(above: bytes, step: int) -> None:
    header = b"From: a@example.net\r\nSubject: hello\r\n\r\n"
    message = above + header + b"\r\nFrom x\r\n\r\nbody\r\n"
    identity = Identity("a")
    for at in range(0, len(message), step):
        identity.feed(message[at : at + step])
    assert identity.head == above + header
    assert identity.id() == defined("a", message)
