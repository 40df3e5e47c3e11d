"""The two AMQP 0-9-1 methods that carry mail, as bytes: basic.publish out, basic.deliver in.

pika makes several objects of every frame and copies its buffer for each, which was half of what a
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

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
_KINDS: Final = (METHOD, HEADER, BODY, 8)
OVERHEAD: Final = 8
"""Bytes of a frame besides its payload: type, channel and size before it, the end mark after it."""

END: Final = b"\xce"
_PUBLISH: Final = struct.pack(">HHH", 60, 40, 0)
_DELIVER: Final = struct.pack(">HH", 60, 60)
_MANDATORY: Final = b"\x01"
_PERSISTENT: Final = b"\x02"
_FRAME: Final = struct.Struct(">BHI")
_CONTENT: Final = struct.Struct(">HHQH")
_TAG: Final = struct.Struct(">QB")
_TABLE: Final = struct.Struct(">I")

# Flags of the properties present: content-type, headers, delivery-mode, message-id.
_PLAIN: Final = 0x8000 | 0x1000 | 0x0080
_WITH_HEADERS: Final = _PLAIN | 0x2000


class Delivered(NamedTuple):
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


def published(
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
    method = _publish(exchange, routing_key)
    flags = _WITH_HEADERS if table else _PLAIN
    properties = b"".join((_short(content_type), table, _PERSISTENT, _short(message_id)))
    size = _CONTENT.size + len(properties)
    parts = [
        _FRAME.pack(METHOD, channel, len(method)),
        method,
        END,
        _FRAME.pack(HEADER, channel, size),
        _CONTENT.pack(60, 0, len(body), flags),
        properties,
        END,
    ]
    room = frame_max - OVERHEAD
    for start in range(0, len(body), room):
        piece = body if len(body) <= room else body[start : start + room]
        parts += (_FRAME.pack(BODY, channel, len(piece)), piece, END)
    return b"".join(parts)


def encoded(headers: Mapping[str, object]) -> bytes:
    """Return headers as a field table; raises as pika does what cannot be written."""
    pieces: list[bytes] = []
    data.encode_table(pieces, headers)
    return b"".join(pieces)


def headers(table: bytes) -> Mapping[str, Any]:
    """Return what is in a field table."""
    found: Mapping[str, Any] = data.decode_table(table, 0)[0]
    return found


def complete(buffer: bytes, start: int) -> int:
    """Return where the frame at ``start`` ends, 0 where it is not all there.

    What is no frame of AMQP 0-9-1 counts as reaching to the end: pika shall say what is wrong.
    """
    if len(buffer) - start < OVERHEAD:
        return 0 if start >= len(buffer) or buffer[start] in _KINDS else len(buffer)
    kind, _, size = _FRAME.unpack_from(buffer, start)
    if kind not in _KINDS:
        return len(buffer)
    end = start + OVERHEAD + int(size)
    return end if end <= len(buffer) else 0


def channel_of_delivery(buffer: bytes, start: int) -> int:
    """Return the channel of the basic.deliver in a complete frame, 0 if it is something else."""
    if buffer[start] != METHOD or buffer[start + 7 : start + 11] != _DELIVER:
        return 0
    return int(_FRAME.unpack_from(buffer, start)[1])


def delivered(buffer: bytes, start: int) -> Delivered | Literal["partial"] | None:
    """Return the message that begins with the basic.deliver at ``start``.

    Returns:
        None where pika has to see to it, ``partial`` where it is not all there yet.
    """
    header = complete(buffer, start)
    body = complete(buffer, header)
    if not body:
        return "partial"
    channel = buffer[start + 1 : start + 3]
    if not _is(HEADER, channel, buffer, header) or body - header < OVERHEAD + _CONTENT.size:
        return None
    at = header + 7
    _, _, length, flags = _CONTENT.unpack_from(buffer, at)
    if not length or flags not in (_PLAIN, _WITH_HEADERS):
        return None
    end = complete(buffer, body)
    if not end:
        return "partial"
    if not _is(BODY, channel, buffer, body) or length != end - body - OVERHEAD:
        return None
    table, message_id = _properties(buffer, at + _CONTENT.size, headed=flags == _WITH_HEADERS)
    tag, redelivered = _TAG.unpack_from(buffer, start + 12 + buffer[start + 11])
    whole = buffer[body + 7 : end - 1]
    return Delivered(tag, bool(redelivered & 1), message_id, table, whole, end - start)


def _is(kind: int, channel: bytes, buffer: bytes, start: int) -> bool:
    return buffer[start] == kind and buffer[start + 1 : start + 3] == channel


def _properties(buffer: bytes, at: int, *, headed: bool) -> tuple[bytes, str]:
    at += 1 + buffer[at]  # the content type is ours
    table = b""
    if headed:
        end = at + 4 + int(_TABLE.unpack_from(buffer, at)[0])
        table, at = buffer[at:end], end
    at += 1  # the delivery mode too
    return table, buffer[at + 1 : at + 1 + buffer[at]].decode("utf-8", "replace")


@lru_cache(maxsize=256)
def _publish(exchange: str, routing_key: str) -> bytes:
    return b"".join((_PUBLISH, _short(exchange), _short(routing_key), _MANDATORY))


def _short(text: str) -> bytes:
    written = text.encode()
    if len(written) > 255:
        raise ValueError(f"{len(written)} bytes are more than a short string may have")
    return bytes((len(written),)) + written
