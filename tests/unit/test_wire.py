"""The wire format: what was written is read, and nothing else is taken for an envelope."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import wire
from shared.errors import NewerSchema, Undecodable
from shared.message import (
    Addressed,
    Envelope,
    Failure,
    Fetched,
    Hop,
    Inline,
    Parsed,
    Payload,
    Poll,
    Requeue,
    Spooled,
    Summary,
)
from tests.corpus.envelopes import ENVELOPES, spooled

T = TypeVar("T", bound=Payload)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TEXTS = st.lists(TEXT, max_size=4).map(tuple)
NUMBER = st.integers(0, 2**63 - 1)
MOMENT = st.floats(0, 1e11)
SUMMARY = st.builds(Summary, TEXT, TEXT, TEXT, TEXT)
RAW = st.builds(Inline, st.binary(max_size=200)) | st.builds(
    Spooled, TEXT, NUMBER, st.binary(max_size=200)
)
PAYLOADS: dict[type[Payload], st.SearchStrategy[Payload]] = {
    Poll: st.builds(Poll, TEXT),
    Fetched: st.builds(Fetched, RAW, TEXT, TEXT, SUMMARY, st.booleans()),
    Parsed: st.builds(
        Parsed, RAW, TEXT, TEXT, SUMMARY, st.none() | TEXT, TEXTS, NUMBER, TEXTS, st.none() | NUMBER
    ),
    Addressed: st.builds(
        Addressed, RAW, TEXT, TEXT, SUMMARY, TEXT, TEXTS, TEXT, st.binary(max_size=100), NUMBER
    ),
}  # fmt: skip
HOPS = st.lists(st.builds(Hop, TEXT, MOMENT), max_size=4).map(tuple)
FAILURES = st.lists(st.builds(Failure, TEXT, TEXT, NUMBER, MOMENT, MOMENT), max_size=3).map(tuple)
REQUEUE = st.none() | st.builds(Requeue, TEXTS, TEXT, TEXTS, FAILURES)
ENVELOPE = st.one_of(
    *(
        st.builds(Envelope, TEXT, TEXT, payload, MOMENT, NUMBER, st.none() | MOMENT, HOPS, REQUEUE)
        for payload in PAYLOADS.values()
    )
)

SAMPLES: dict[type[Payload], Envelope[Payload]] = {
    Poll: ENVELOPES["poll"],
    Fetched: ENVELOPES["fetched"],
    Parsed: spooled(ENVELOPES["parsed"]),
    Addressed: ENVELOPES["addressed"],
}


def parts(kind: type[Payload]) -> list[Any]:
    """Return the sample of this kind as the arrays that msgpack carries."""
    unpacked: list[Any] = msgpack.unpackb(wire.encode(SAMPLES[kind]))
    return unpacked


def undecodable(body: bytes, kind: type[Payload] = Fetched) -> str:
    with pytest.raises(Undecodable) as caught:
        wire.decode(body, kind)
    return str(caught.value)


@settings(deadline=None)
@given(ENVELOPE)
def test_what_was_written_is_read(envelope: Envelope[Payload]) -> None:
    assert wire.decode(wire.encode(envelope), type(envelope.payload)) == envelope


@settings(deadline=None)
@given(ENVELOPE, st.data())
def test_what_was_cut_off_is_not_an_envelope(envelope: Envelope[Payload], data: Any) -> None:
    body = wire.encode(envelope)
    cut = body[: data.draw(st.integers(0, len(body) - 1))]
    assert undecodable(cut, type(envelope.payload))


@pytest.mark.parametrize("kind", SAMPLES)
def test_nothing_may_follow_an_envelope(kind: type[Payload]) -> None:
    assert undecodable(wire.encode(SAMPLES[kind]) + b"\0", kind)


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_queue_takes_its_own_kind_only(kind: type[Payload]) -> None:
    body = wire.encode(SAMPLES[kind])
    for other in SAMPLES:
        if other is not kind:
            assert "this queue takes" in undecodable(body, other)
    assert wire.decode(body, kind) == SAMPLES[kind]


WRONG: tuple[object, ...] = (None, True, -1.5, "abc", b"bytes", [], [1], ["abc", b"bytes", None])


def accepted(kind: type[Payload], changed: list[Any]) -> bool:
    try:
        wire.decode(msgpack.packb(changed), kind)
    except Undecodable:
        return False
    return True


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_field_of_the_envelope_has_its_type(kind: type[Payload]) -> None:
    takes: tuple[list[object], ...] = ([], [], ["abc"], ["abc"], [-1.5], [], [None, -1.5], [[]])
    for index, right in enumerate(takes):
        for value in WRONG:
            changed = parts(kind)
            changed[index] = value
            assert accepted(kind, changed) == (value in right), (index, value)


OF: dict[type[Payload], tuple[str, ...]] = {
    Poll: ("text",),
    Fetched: ("raw", "text", "text", "summary"),
    Parsed: ("raw", "text", "text", "summary", "text or none", "texts", "number", "texts"),
    Addressed: ("raw", "text", "text", "summary", "text", "texts", "text", "bytes"),
}
RIGHT: dict[str, Callable[[object], bool]] = {
    "text": lambda v: isinstance(v, str),
    "text or none": lambda v: v is None or isinstance(v, str),
    "texts": lambda v: v == [],
    "bytes": lambda v: isinstance(v, bytes),
    "raw": lambda v: isinstance(v, bytes),
    "number": lambda v: False,
    "summary": lambda v: False,
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_field_of_a_payload_has_its_type(kind: type[Payload]) -> None:
    for index, of in enumerate(OF[kind]):
        for wrong in WRONG:
            changed = parts(kind)
            changed[-1][index] = wrong
            assert accepted(kind, changed) == RIGHT[of](wrong), (index, of, wrong)


def test_a_spool_reference_has_its_types() -> None:
    for index in range(3):
        for wrong in (*WRONG, 1):
            changed = parts(Parsed)
            changed[-1][0][index] = wrong
            right = (str, int, bytes)[index]
            assert accepted(Parsed, changed) == (type(wrong) is right), (index, wrong)


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_field_missing_is_undecodable(kind: type[Payload]) -> None:
    whole = parts(kind)
    for length in range(len(whole)):
        assert not accepted(kind, whole[:length])
    for length in range(len(whole[-1])):
        assert not accepted(kind, [*whole[:-1], whole[-1][:length]])


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_field_more_is_passed_over(kind: type[Payload]) -> None:
    """Fields are added at the end without a new schema where old workers may ignore them."""
    whole = parts(kind)
    longer = [*whole[:-1], [*whole[-1], *wire.ADDED.get(kind, ()), "new"], None, "new"]
    assert wire.decode(msgpack.packb(longer), kind) == SAMPLES[kind]


@pytest.mark.parametrize(
    ("kind", "takes"), [(Fetched, [True]), (Parsed, [None]), (Addressed, list[object]())]
)
def test_a_field_that_was_added_has_its_type_and_need_not_be_there(
    kind: type[Payload], takes: list[object]
) -> None:
    whole = parts(kind)
    assert accepted(kind, whole)
    for wrong in WRONG:
        changed = [*whole[:-1], [*whole[-1], wrong]]
        assert accepted(kind, changed) == (wrong in takes), wrong


@pytest.mark.parametrize(
    "wrong", [True, "abc", [], [[], "", []], [[], "", [], [["s", "r", -1, 1.0, 1.0]]]]
)
def test_what_an_operator_has_said_has_its_types(wrong: object) -> None:
    assert accepted(Fetched, [*parts(Fetched), [[], "", [], [["s", "r", 1, 1.0, 1.0]]]])
    assert not accepted(Fetched, [*parts(Fetched), wrong])


@pytest.mark.parametrize("kind", SAMPLES)
def test_where_an_operator_wants_a_message_is_not_for_one_who_does_not_know_of_that(
    kind: type[Payload],
) -> None:
    def schema(requeue: Requeue) -> int:
        body = wire.encode(replace(SAMPLES[kind], requeue=requeue))
        return int(msgpack.unpackb(body)[0])

    directed = kind is Addressed
    assert schema(Requeue(undelivered=("a@b",))) == wire.SCHEMA
    assert schema(Requeue(recipients=("a@b",))) == (wire.SCHEMA if directed else wire.ORDERED)
    assert schema(Requeue(destination="x")) == (wire.SCHEMA if directed else wire.ORDERED)


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_newer_schema_is_told_apart_from_garbage(kind: type[Payload]) -> None:
    body = msgpack.packb([wire.SCHEMA + 1, "something else"])
    with pytest.raises(NewerSchema) as caught:
        wire.decode(body, kind)
    assert (caught.value.found, caught.value.known) == (wire.SCHEMA + 1, wire.SCHEMA)


HOSTILE = {
    "empty": b"",
    "text": b"From: a@example.org\r\n\r\n",
    "a number": b"\x01",
    "nil": b"\xc0",
    "reserved": b"\xc1",
    "empty array": b"\x90",
    "a map": msgpack.packb({"schema": 1}),
    "array of a map": msgpack.packb([1, {}]),
    "version true": msgpack.packb([True, "fetched"]),
    "version as text": msgpack.packb(["1", "fetched"]),
    "kind unhashable": msgpack.packb([1, [], "i", "a", 0, 0, None, [], []]),
    "bin of 4 GB announced": b"\xc6\xff\xff\xff\xff",
    "str of 4 GB announced": b"\xdb\xff\xff\xff\xff",
    "array of 4 G announced": b"\xdd\xff\xff\xff\xff",
    "map of 4 G announced": b"\xdf\xff\xff\xff\xff",
    "extension": b"\xc7\x01\x05x",
    "timestamp": b"\xd6\xff\0\0\0\0",
    "deep": b"\x91" * 100_000,
    "text not UTF-8": b"\x91\xa1\xff",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_undecodable(name: str) -> None:
    for kind in SAMPLES:
        assert undecodable(HOSTILE[name], kind)


def test_a_text_is_not_taken_for_a_list() -> None:
    poll = [*parts(Poll)[:-1], "due"]
    assert not accepted(Poll, poll)
    fetched = parts(Fetched)
    fetched[-1][3] = "fsmd"
    assert not accepted(Fetched, fetched)


@pytest.mark.parametrize(
    ("index", "wrong"), [(4, math.nan), (6, math.inf), (6, -math.inf), (5, -1)]
)
def test_moments_are_finite_and_counts_not_negative(index: int, wrong: float) -> None:
    changed = parts(Fetched)
    changed[index] = wrong
    assert not accepted(Fetched, changed)


def test_the_limit_of_an_envelope_is_exact() -> None:
    envelope = replace(SAMPLES[Fetched], payload=Fetched(Inline(b""), "u", "h"))
    room = wire.BODY_LIMIT - len(wire.encode(envelope)) - 3  # bin 32 has 3 bytes more than bin 8
    fits = replace(envelope, payload=Fetched(Inline(b"x" * room), "u", "h"))
    body = wire.encode(fits)
    assert len(body) == wire.BODY_LIMIT
    assert wire.decode(body, Fetched) == fits
    over = replace(envelope, payload=Fetched(Inline(b"x" * (room + 1)), "u", "h"))
    with pytest.raises(ValueError, match="over the limit"):
        wire.encode(over)
    assert "more than an envelope may have" in undecodable(body + b"\0")


def test_text_and_lists_are_limited() -> None:
    changed = parts(Fetched)
    changed[2] = "x" * ((1 << 20) + 1)
    assert not accepted(Fetched, changed)
    changed = parts(Fetched)
    changed[7] = [["fetcher", 1.0]] * 100_001
    assert not accepted(Fetched, changed)


def test_the_format_does_not_change_by_accident() -> None:
    """These bytes lie in the queues of systems that run: they must be readable for ever."""
    body = bytes.fromhex(
        "9901a766657463686564a26964a573616c6573cb3ff800000000000002cb"
        "3ff40000000000009192a766657463686572cb3ff000000000000094c407"
        "ff007261770d0aa27531a8686f73743a39393594a166a173a16da164"
    )
    fetched = Fetched(Inline(b"\xff\0raw\r\n"), "u1", "host:995", Summary("f", "s", "m", "d"))
    envelope = Envelope("id", "sales", fetched, 1.5, 2, 1.25, (Hop("fetcher", 1.0),))
    assert wire.decode(body, Fetched) == envelope
    assert wire.encode(envelope) == body


def test_a_bundle_holds_envelopes_as_they_are() -> None:
    messages = [(f"id-{n}", wire.encode(sample)) for n, sample in enumerate(SAMPLES.values())]
    assert wire.unbundled(wire.bundle(messages)) == messages


def test_what_is_no_bundle_is_left_alone() -> None:
    whole = wire.bundle([("id", wire.encode(SAMPLES[Fetched]))])
    damaged = [whole[:cut] for cut in range(len(whole))]
    wrong = [msgpack.packb([2, what]) for what in (1, "ab", [1], [["id"]], [[1, b"x"]], [["i", 1]])]
    for body in (wire.encode(SAMPLES[Poll]), whole + b"\0", *damaged, *wrong):
        assert wire.unbundled(body) is None


def test_a_program_that_knows_no_bundles_leaves_them_to_others() -> None:
    """It takes them for envelopes of a newer version, which it does not touch."""
    for kind in SAMPLES:
        with pytest.raises(NewerSchema):
            wire.decode(wire.bundle([("id", b"x")]), kind)


@pytest.mark.parametrize("kind", SAMPLES)
def test_what_goes_on_within_a_process_is_not_decoded_anew(kind: type[Payload]) -> None:
    sample = SAMPLES[kind]
    body = wire.onward(sample)
    assert body == wire.encode(sample)
    assert wire.decode(body, kind) is sample
    other = next(each for each in SAMPLES if each is not kind)
    with pytest.raises(Undecodable):
        wire.decode(body, other)
