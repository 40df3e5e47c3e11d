"""The frames that are written and read by hand, held against pika's own codec."""

import asyncio
import struct
from collections.abc import Sequence

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec
from pika.compat import long

from shared.broker.rabbitmq import frames
from shared.broker.rabbitmq.connection import Confirmed, MailConnection
from shared.broker.rabbitmq.subscription import DELIVERY_COUNT, _decode_headers

FRAME_MAX = 4096
NAMES = st.text("abcdefgh.-5", min_size=1, max_size=40)
IDS = st.text(max_size=60).filter(lambda text: len(text.encode(errors="replace")) <= 255)


def bodies(most: int) -> st.SearchStrategy[bytes]:
    """Return what draws bodies up to a size; a few bytes, repeated, are drawn much sooner."""
    return st.builds(bytes.__mul__, st.binary(min_size=1, max_size=32), st.integers(1, most // 32))


HEADERS = st.dictionaries(NAMES, st.text(max_size=80) | st.integers(0, 2**31), max_size=5)


def by_pika(channel: int, method: object, properties: spec.BasicProperties, body: bytes) -> bytes:
    """Return a message in the frames that pika makes of it."""
    room = FRAME_MAX - frames.OVERHEAD
    pieces = [body[start : start + room] for start in range(0, len(body), room)]
    return b"".join(
        (
            frame.Method(channel, method).marshal(),
            frame.Header(channel, len(body), properties).marshal(),
            *(frame.Body(channel, piece).marshal() for piece in pieces),
        )
    )


def properties(message_id: str, headers: dict[str, object]) -> spec.BasicProperties:
    return spec.BasicProperties(
        content_type="application/msgpack",
        delivery_mode=2,
        message_id=message_id,
        headers=headers or None,
    )


@given(NAMES, NAMES, IDS, HEADERS, st.just(b"") | bodies(3 * FRAME_MAX))
def test_a_message_is_published_as_pika_would(
    exchange: str, queue: str, message_id: str, headers: dict[str, object], body: bytes
) -> None:
    table = frames.encoded(headers) if headers else b""
    written = frames.publish_frames(
        7, exchange, queue, "application/msgpack", message_id, table, body, FRAME_MAX
    )
    method = spec.Basic.Publish(exchange=exchange, routing_key=queue, mandatory=True)
    assert written == by_pika(7, method, properties(message_id, headers), body)


def test_what_does_not_fit_into_a_short_string_is_an_error() -> None:
    with pytest.raises(ValueError, match="300 bytes"):
        frames.publish_frames(1, "e", "q", "t", "i" * 300, b"", b"x", FRAME_MAX)


Seen = tuple[int, bool, str, dict[str, object], bytes]


def delivery(channel: int, seen: Seen) -> bytes:
    tag, redelivered, message_id, headers, body = seen
    method = spec.Basic.Deliver("the.consumer", tag, redelivered, "exchange", "queue")
    return by_pika(channel, method, properties(message_id, headers), body)


class Listening(MailConnection):
    """A connection to nobody, which is told what arrives; pika's own part only notes it."""

    def __init__(self) -> None:
        super().__init__(pika.ConnectionParameters(), internal_connection_workflow=False)
        self.passed = b""
        self.seen: list[Seen] = []
        self.receive(7, self._take)

    def _take(self, m: frames.DeliveredFrames) -> None:
        headers = dict(frames.headers(m.table)) if m.table else {}
        self.seen.append((m.tag, m.redelivered, m.message_id, headers, m.body))

    def _process_frame(self, value: object) -> None:
        self.passed += value.marshal()  # type: ignore[attr-defined]


def heard(data: Sequence[bytes], confirmed: Confirmed | None = None) -> Listening:
    async def listen() -> Listening:
        connection = Listening()
        connection.confirm(5, confirmed)
        for piece in data:
            connection._on_data_available(piece)
        return connection

    return asyncio.run(listen())


DELIVERIES = st.tuples(st.integers(1, 2**63), st.booleans(), IDS, HEADERS, bodies(2000))


@given(st.lists(st.tuples(st.integers(1, 2**63), st.booleans()), max_size=9), st.integers(1, 60))
def test_confirms_arrive_however_they_are_cut(sent: list[tuple[int, bool]], size: int) -> None:
    nack = frame.Method(5, spec.Basic.Nack(5, True)).marshal()
    foreign = frame.Method(4, spec.Basic.Ack(5, True)).marshal()  # nobody listens to it
    data = b"".join(
        frame.Method(5, spec.Basic.Ack(*ack)).marshal() + nack + foreign for ack in sent
    )
    got: list[tuple[int, bool]] = []
    connection = heard(
        [data[at : at + size] for at in range(0, len(data), size)],
        lambda tag, multiple: got.append((tag, multiple)),
    )
    assert got == sent
    assert connection.passed == (nack + foreign) * len(sent)
    assert connection.bytes_received == len(data)


@given(st.lists(DELIVERIES, max_size=4), st.integers(1, 3000))
def test_deliveries_arrive_however_they_are_cut(sent: list[Seen], size: int) -> None:
    data = b"".join(delivery(7, seen) for seen in sent)
    connection = heard([data[at : at + size] for at in range(0, len(data), size)])
    assert connection.seen == sent
    assert connection.passed == b""
    assert connection.bytes_received == len(data)


HEARTBEAT = frame.Heartbeat().marshal()
ACK = frame.Method(1, spec.Basic.Ack(5, True)).marshal()
FOREIGN = by_pika(7, spec.Basic.Deliver("c", 9, False, "e", "q"), spec.BasicProperties(), b"x")


@pytest.mark.parametrize(
    "other",
    [
        HEARTBEAT,
        ACK,
        FOREIGN,  # properties that are not ours
        delivery(8, (1, False, "i", {}, b"on a channel without a receiver")),
        delivery(7, (1, False, "i", {}, b"")),
        delivery(7, (1, False, "i", {}, b"x" * (FRAME_MAX + 1))),  # two body frames
    ],
    ids=["heartbeat", "ack", "foreign", "channel", "empty", "long"],
)
@pytest.mark.parametrize("size", [1, 10, 100_000])
def test_everything_else_is_left_to_pika(other: bytes, size: int) -> None:
    ours: Seen = (2, False, "after", {"account": "sales"}, b"body")
    data = other + delivery(7, ours) + other
    connection = heard([data[at : at + size] for at in range(0, len(data), size)])
    assert connection.seen == [ours]
    assert connection.passed == other + other
    assert connection.bytes_received == len(data)


def test_properties_that_pika_cannot_decode_are_left_out() -> None:
    table = b"\x01tT" + b"\xff" * 8  # a date of the year 584,554,530,872
    headers = len(table).to_bytes(4, "big") + table
    payload = struct.pack(">HHQH", 60, 0, 5, 0x2000) + headers
    raw = struct.pack(">BHI", frames.HEADER, 7, len(payload)) + payload + frames.END
    with pytest.raises(Exception):  # noqa: B017  (whatever it is, it ends the connection)
        frame.decode_frame(raw)
    _, found = frame.decode_frame(frames.decodable(raw))
    assert isinstance(found, frame.Header)
    assert (found.channel_number, found.body_size, found.properties.headers) == (7, 5, None)
    assert _decode_headers(headers) == ({}, 0)


@pytest.mark.parametrize("count", ["many", True])
def test_a_count_of_hand_outs_that_is_none_counts_for_nothing(count: object) -> None:
    assert _decode_headers(frames.encoded({DELIVERY_COUNT: count, "account": "sales"})) == (
        {"account": "sales"},
        0,
    )


def test_a_count_of_hand_outs_is_read_as_the_broker_writes_it() -> None:
    table = frames.encoded({DELIVERY_COUNT: long(3), "account": "sales"})
    assert b"l" + (3).to_bytes(8, "big") in table
    assert _decode_headers(table) == ({"account": "sales"}, 3)
