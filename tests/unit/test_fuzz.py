"""No bytes whatever make the parser or the rewriter raise, or change what they are given.

What comes out is good for the next queue: it survives the wire format, so no text in it is broken.
"""

import encodings.aliases
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from services.parser.parse import parse
from services.parser.summary import readable
from services.rewriter.rewrite import Rewriter, Route
from shared import wire
from shared.errors import NewerSchema, Undecodable
from shared.message import Addressed, Envelope, Fetched, Inline, Parsed, Payload, Spooled, Summary
from shared.outcome import DeadLetter, Forward, Quarantine

T = TypeVar("T", bound=Payload)

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
)
MAIL = st.binary(max_size=300) | st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join)
TEXT = st.text(max_size=60) | st.text(st.characters(), max_size=8)
REWRITER = Rewriter({"sales": Route(("sales@corp.example",), "default")}, "host", "1")
FUZZ = settings(deadline=None, max_examples=400)


def survives_the_wire(envelope: Envelope[T]) -> None:
    assert wire.decode(wire.encode(envelope), type(envelope.payload)) == envelope


@FUZZ
@given(MAIL)
def test_parse_and_rewrite_take_any_message(raw: bytes) -> None:
    envelope = Envelope("0" * 32, "sales", Fetched(Inline(raw), "u", "host:110"), 1.7e9)
    outcome = parse(envelope)
    assert outcome == parse(envelope)
    if isinstance(outcome, Quarantine):
        assert outcome.reason.endswith(".")
        assert outcome.reason.isprintable()
        assert isinstance(outcome.payload, Fetched)
        assert outcome.payload.raw == Inline(raw)
        survives_the_wire(Envelope("0" * 32, "sales", outcome.payload, 1.7e9))
        return
    assert isinstance(outcome, Forward)
    (payload,) = outcome.payloads
    assert isinstance(payload, Parsed)
    assert payload.raw == Inline(raw)
    survives_the_wire(Envelope("0" * 32, "sales", payload, 1.7e9))
    rewritten(Envelope("0" * 32, "sales", payload, 1.7e9))


def rewritten(envelope: Envelope[Parsed]) -> None:
    outcome = REWRITER.handle(envelope)
    assert outcome == REWRITER.handle(envelope)
    if isinstance(outcome, DeadLetter):
        assert outcome.reason.isprintable()
        return
    assert isinstance(outcome, Forward)
    (payload,) = outcome.payloads
    assert isinstance(payload, Addressed)
    assert payload.raw == envelope.payload.raw
    assert not set(payload.sender) & set("\r\n\0<> ")
    lines = payload.prefix.split(b"\r\n")
    assert lines[-1] in (b"", b"X-POP3-Connector-First-Line: ")
    assert all(0 < len(line) <= 998 for line in lines[:-1])
    assert b"\n" not in b"".join(lines)
    survives_the_wire(Envelope(envelope.id, "sales", payload, 1.7e9))


@FUZZ
@given(
    MAIL,
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
    rewritten(Envelope(id_, "sales", payload, at))


@FUZZ
@given(st.sampled_from(sorted(encodings.aliases.aliases)), st.sampled_from("QB"), st.binary())
def test_any_charset_can_be_named_in_a_field(charset: str, encoding: str, word: bytes) -> None:
    shown = readable(b"=?%s?%s?%s?=" % (charset.encode(), encoding.encode(), word))
    assert shown.isprintable()
    assert shown.encode().decode() == shown


@FUZZ
@given(st.sampled_from((Fetched, Parsed, Addressed)), st.binary(max_size=200))
def test_decode_takes_any_bytes(kind: type[Payload], body: bytes) -> None:
    try:
        wire.decode(body, kind)
    except (Undecodable, NewerSchema) as error:
        assert str(error)
