"""The id and the headers of a message, as AMQP takes them.

What our stages write fits. What somebody else has put into a queue is sent on with what they wrote,
to a retry tier or to quarantine, and that may be an id or a header that cannot be sent: refused, it
would be tried again for ever, in the way of its neighbours; a table larger than a frame ends the
connection. It goes with so much of them as AMQP takes. The body is never touched.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Final

from pika.exceptions import ShortStringTooLong, UnsupportedAMQPFieldException

from shared.broker import LONGEST_KEPT, Header, Send
from shared.broker.rabbitmq import frames
from shared.wire import LONGEST_ID

TABLE_LIMIT: Final = 64_000
"""Bytes of all headers of a message. A content header is one frame, of 128 KiB at the most."""

VALUE_LIMIT: Final = 2_000
"""Characters of a header, where they have to be cut."""

_FEW: Final = 2
_UNSENDABLE: Final = (
    ShortStringTooLong,
    UnsupportedAMQPFieldException,
    struct.error,
    ArithmeticError,
    TypeError,
    ValueError,
)


def fitting(send: Send) -> tuple[Send, bytes]:
    """Return a message that can be sent, and its headers as a field table."""
    try:
        frames.short(send.message_id)
        table = _table(send.headers) if send.headers else b""
    except _UNSENDABLE:
        return _cut(send)
    return (send, table) if len(table) <= TABLE_LIMIT else _cut(send)


def _cut(send: Send) -> tuple[Send, bytes]:
    id_ = send.message_id.encode("utf-8", "replace")[:LONGEST_ID].decode("utf-8", "ignore")
    headers: dict[str, Header] = {}
    room = TABLE_LIMIT
    for name, value in send.headers.items():
        short = value[:VALUE_LIMIT] if isinstance(value, str) else value
        try:
            room -= len(_encoded({name: short}))
        except _UNSENDABLE:
            continue
        if room > 0:
            headers[name] = short
    return Send(send.queue, send.body, id_, headers), _encoded(headers) if headers else b""


def _table(headers: Mapping[str, Header]) -> bytes:
    # The account, and the connector's name: of these there are not many.
    if len(headers) <= _FEW:
        texts = tuple((name, value) for name, value in headers.items() if type(value) is str)
        if len(texts) == len(headers) and _length(texts) <= LONGEST_KEPT:
            return _texts(texts)
    return _encoded(headers)


def _length(texts: tuple[tuple[str, str], ...]) -> int:
    return sum(len(name) + len(value) for name, value in texts)


@lru_cache(maxsize=1024)
def _texts(headers: tuple[tuple[str, str], ...]) -> bytes:
    return _encoded(dict(headers))


def _encoded(headers: Mapping[str, Header]) -> bytes:
    # pika knows no floating-point numbers.
    return frames.encoded(
        {
            name: Decimal(repr(value)) if type(value) is float else value
            for name, value in headers.items()
        }
    )
