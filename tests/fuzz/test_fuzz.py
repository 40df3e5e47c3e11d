"""No bytes whatever make what reads them raise, hang or keep memory: see tests/fuzz/targets.py.

Hypothesis makes inputs out of pieces that mean something, Atheris out of what reaches new code.
"""

import encodings.aliases
import importlib.util
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.message import Envelope, Parsed, Spooled, Summary
from tests.fuzz.__main__ import fuzz
from tests.fuzz.targets import TARGETS, pumped, read_field, rewrite
from tests.fuzz.watch import no_hang

INPUTS = 10_000
"""Inputs from Atheris for each target, and as many from Hypothesis for those of the core."""

CORE = ("parser", "wire", "envelope", "pop3")

PIECES = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"\n\n",
        b" ",
        b"\t",
        b":",
        b"\0",
        b".",
        b"<",
        b">",
        b"@",
    ),
    *(b"From ", b"From: ", b"Subject: ", b"Return-Path: ", b"Delivered-To: ", b"Received: "),
    *(b"X-POP3-Connector-Account: ", b"Message-ID: ", b"Date: ", b"a@example.org", b"sales"),
    *(b"=?utf-8?B?", b"=?utf-8?Q?", b"=?utf-7?Q?+2AA-", b"=?", b"?=", b"\xff", b"\xc3\xa9", b"x"),
    *(b"+OK", b"-ERR ", b"\r\n.\r\n", b"\r\n..", b"1 ", b"00", b"999999999999", b"250-", b"550 "),
    *(b"Status: RO\r\n", b"X-UID: 1\n", b"\x99", b"\xc0", b"\xc4\x05", b"\xa5poll", b"\xcf"),
)
HOSTILE = st.binary(max_size=300) | st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join)
TEXT = st.text(max_size=60) | st.text(st.characters(), max_size=8)


@pytest.mark.parametrize("name", CORE)
@settings(max_examples=INPUTS // len(CORE))
@given(data=HOSTILE)
def test_any_bytes_to_the_core(name: str, data: bytes) -> None:
    with no_hang():
        TARGETS[name].run(data)


@pytest.mark.parametrize("name", [name for name in TARGETS if name not in CORE])
@settings(max_examples=500)
@given(data=HOSTILE)
def test_any_bytes(name: str, data: bytes) -> None:
    with no_hang():
        TARGETS[name].run(data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=50)
@given(data=HOSTILE)
def test_any_bytes_repeated(name: str, data: bytes) -> None:
    with no_hang():
        TARGETS[name].run(pumped(data))


@pytest.mark.parametrize("name", TARGETS)
def test_what_a_target_begins_with(name: str) -> None:
    for seed in TARGETS[name].seeds():
        for data in (seed, pumped(seed)):
            with no_hang():
                TARGETS[name].run(data)


@settings(max_examples=400)
@given(
    HOSTILE,
    st.tuples(TEXT, TEXT, TEXT),
    st.none() | TEXT,
    st.lists(TEXT, max_size=3),
    st.integers(0, 60),
    st.floats(),
)
def test_rewrite_takes_any_fields(
    head: bytes,
    texts: tuple[str, str, str],
    path: str | None,
    before: list[str],
    received: int,
    at: float,
) -> None:
    id_, uidl, server = (t.encode("utf-8", "replace").decode() for t in texts)
    clean = tuple(t.encode("utf-8", "replace").decode() for t in before)
    payload = Parsed(
        Spooled("key", 10**9, head), uidl, server, Summary(), path, clean, received, clean
    )
    rewrite(Envelope(id_, "sales", payload, at))


@settings(max_examples=400)
@given(st.sampled_from(sorted(encodings.aliases.aliases)), st.sampled_from("QB"), st.binary())
def test_any_charset_can_be_named_in_a_field(charset: str, encoding: str, word: bytes) -> None:
    read_field(b"=?%s?%s?%s?=" % (charset.encode(), encoding.encode(), word))


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_that_reach_new_code(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: there is none for this machine or this Python")
    run = fuzz(name, tmp_path / "run", inputs=INPUTS, seed=1)
    assert run.finding is None, run.finding
    assert run.inputs >= INPUTS
