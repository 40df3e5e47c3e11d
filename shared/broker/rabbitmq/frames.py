"""The AMQP 0-9-1 methods of each message, as bytes: basic.publish out, basic.deliver and ack in.

pika makes several objects of every frame and copies its buffer for each, which was much of what a
hop cost a stage. Here a message is a few slices. Everything else of the protocol stays pika's, and
so does any delivery that does not lie in the buffer as method, header and one body frame, in a row
and with the properties that we write ourselves. Tests hold it against pika's own codec.
https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf, sections 2.3.5 and 4.2
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

from pika import data
from pika.frame import decode_frame

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
_KINDS: Final = (METHOD, HEADER, BODY, 8)
OVERHEAD: Final = 8
"""Bytes of a frame besides its payload: type, channel and size before it, the end mark after it."""

END: Final = b"\xce"
_PUBLISH: Final = struct.pack(">HHH", 60, 40, 0)
_DELIVER: Final = struct.pack(">HH", 60, 60)
_ACK: Final = 60 << 16 | 80
_ACKED: Final = struct.Struct(">BHIIQBB")
_MANDATORY: Final = b"\x01"
_PERSISTENT: Final = 2
_MODE_AND_LENGTH: Final = tuple(bytes((_PERSISTENT, length)) for length in range(256))
_TOO_LONG: Final = "{} bytes are more than a short string may have"
_FRAME: Final = struct.Struct(">BHI")
_CONTENT: Final = struct.Struct(">HHQH")
_HEADER: Final = struct.Struct(">BHIHHQH")  # a frame's start and a content header's
_TAG: Final = struct.Struct(">QB")
_TABLE: Final = struct.Struct(">I")

# Flags of the properties present: content-type, headers, delivery-mode, message-id.
_PLAIN: Final = 0x8000 | 0x1000 | 0x0080
_WITH_HEADERS: Final = _PLAIN | 0x2000
_OURS: Final = (_PLAIN, _WITH_HEADERS)

_BEGINS_HEADER: Final = (b"", bytes((HEADER,)))
_BEGINS_BODY: Final = (b"", bytes((BODY,)))


class DeliveredFrames(NamedTuple):
    """A message that the broker hands out.

    Attributes:
        tag: its delivery tag.
        table: its headers as they came, empty where it has none; see ``headers``.
        size: bytes of the frames that it was.
    """

    tag: int
    redelivered: bool
    message_id: str
    table: bytes
    body: bytes
    size: int


def publish_frames(
    channel: int,
    exchange: str,
    routing_key: str,
    content_type: str,
    message_id: str,
    table: bytes,
    body: bytes,
    frame_max: int,
) -> bytes:
    """Return the frames of a mandatory, persistent message.

    Args:
        channel: the number of an open channel.
        table: its headers, from ``encoded``; empty for none.
        frame_max: bytes of a frame that the connection has agreed on, at the most.

    Raises:
        ValueError: a name or the message id has more than 255 bytes, or is not text.
    """
    flags = _WITH_HEADERS if table else _PLAIN
    written = short(message_id)
    kind = _shortstr(content_type)
    size = _CONTENT.size + len(kind) + len(table) + 2 + len(written)
    room = frame_max - OVERHEAD
    pieces = (body,) if len(body) <= room else _cut(body, room)
    parts = [
        _publish(channel, exchange, routing_key),
        _HEADER.pack(HEADER, channel, size, 60, 0, len(body), flags),
        kind,
        table,
        _MODE_AND_LENGTH[len(written)],
        written,
        END,
    ]
    for piece in pieces if body else ():
        parts += (_FRAME.pack(BODY, channel, len(piece)), piece, END)
    return b"".join(parts)


def short(text: str) -> bytes:
    """Return what a short string holds.

    Raises:
        ValueError: it has more than 255 bytes, or is not text.
    """
    written = text.encode()
    if len(written) > 255:
        raise ValueError(_TOO_LONG.format(len(written)))
    return written


def _cut(body: bytes, room: int) -> list[bytes]:
    return [body[start : start + room] for start in range(0, len(body), room)]


def encoded(headers: Mapping[str, object]) -> bytes:
    """Return headers as a field table; raises as pika does what cannot be written."""
    pieces: list[bytes] = []
    data.encode_table(pieces, headers)
    return b"".join(pieces)


def headers(table: bytes) -> Mapping[str, Any]:
    """Return what is in a field table."""
    found: Mapping[str, Any] = data.decode_table(table, 0)[0]
    return found


def seen(buffer: bytes, start: int) -> tuple[int, int]:
    """Return where the frame at ``start`` ends, and the channel of the basic.deliver in it.

    The end is 0 where the frame is not all there, the channel 0 where it is something else. What is
    no frame of AMQP 0-9-1 counts as reaching to the end: pika shall say what is wrong.
    """
    there = len(buffer)
    if there - start < OVERHEAD:
        return (0 if start >= there or buffer[start] in _KINDS else there), 0
    kind, channel, size = _FRAME.unpack_from(buffer, start)
    if kind not in _KINDS:
        return there, 0
    end = start + OVERHEAD + size
    if end > there:
        return 0, 0
    is_delivery = kind == METHOD and buffer[start + 7 : start + 11] == _DELIVER
    return end, channel if is_delivery else 0


def decodable(frame: bytes) -> bytes:
    """Return a frame that pika can decode: a content header without the properties it cannot.

    A date of the year 10000 or a field of an unknown type, in the headers of one message, would end
    the connection, and the next one, as the broker hands it out again.
    """
    if frame[:1] != _BEGINS_HEADER[1]:
        return frame
    try:
        decode_frame(frame)
    except Exception:  # noqa: BLE001  (whatever its decoder raises, it would raise again)
        _, channel, _, class_, weight, length, _ = _HEADER.unpack_from(frame)
        bare = _HEADER.pack(HEADER, channel, _CONTENT.size, class_, weight, length, 0)
        return bare + END
    return frame


def acked(buffer: bytes, start: int, end: int) -> tuple[int, int, bool] | None:
    """Return channel, delivery tag and ``multiple`` of a basic.ack, None for any other frame."""
    if end - start != _ACKED.size:
        return None
    kind, channel, _, method, tag, bits, _ = _ACKED.unpack_from(buffer, start)
    return (channel, tag, bool(bits & 1)) if (kind, method) == (METHOD, _ACK) else None


def delivered(
    buffer: bytes, start: int, header: int, channel: int
) -> DeliveredFrames | Literal["partial"] | None:
    """Return the message that begins with a basic.deliver.

    Args:
        buffer: what has arrived.
        start: where that frame begins.
        header: where it ends.
        channel: its channel.

    Returns:
        None where pika has to see to it, ``partial`` where it is not all there yet.
    """
    there = len(buffer)
    if there < header + _HEADER.size:
        return "partial" if buffer[header : header + 1] in _BEGINS_HEADER else None
    kind, number, size, _, _, length, flags = _HEADER.unpack_from(buffer, header)
    if (kind, number) != (HEADER, channel) or not length or flags not in _OURS:
        return None
    body = header + OVERHEAD + size
    if there < body + _FRAME.size:
        return "partial" if buffer[body : body + 1] in _BEGINS_BODY else None
    if _FRAME.unpack_from(buffer, body) != (BODY, channel, length):
        return None
    end = body + OVERHEAD + length
    if there < end:
        return "partial"
    table, message_id = _properties(buffer, header + _HEADER.size, headed=flags == _WITH_HEADERS)
    tag, redelivered = _TAG.unpack_from(buffer, start + 12 + buffer[start + 11])
    whole = buffer[body + _FRAME.size : end - 1]
    return DeliveredFrames(tag, bool(redelivered & 1), message_id, table, whole, end - start)


def _properties(buffer: bytes, at: int, *, headed: bool) -> tuple[bytes, str]:
    at += 1 + buffer[at]  # the content type is ours
    table = b""
    if headed:
        end = at + 4 + int(_TABLE.unpack_from(buffer, at)[0])
        table, at = buffer[at:end], end
    at += 1  # the delivery mode too
    return table, buffer[at + 1 : at + 1 + buffer[at]].decode("utf-8", "replace")


@lru_cache(maxsize=256)
def _publish(channel: int, exchange: str, routing_key: str) -> bytes:
    method = b"".join((_PUBLISH, _shortstr(exchange), _shortstr(routing_key), _MANDATORY))
    return b"".join((_FRAME.pack(METHOD, channel, len(method)), method, END))


@lru_cache(maxsize=256)
def _shortstr(text: str) -> bytes:
    written = short(text)
    return bytes((len(written),)) + written
