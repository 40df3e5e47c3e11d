"""Makes the AMQP library of the operator's side tolerate what others write into message properties.

A date of the year 10000 or a table of an unknown type, in the headers of one message, would end the
connection with an error, and so each look into its queue. It is shown without any properties.
"""

# amqp has no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import struct
from typing import Any, Final

from amqp.exceptions import FrameSyntaxError
from kombu.connection import Connection

_HEADER: Final = 2
_CONTENT: Final = struct.Struct(">HHQ")
_NO_FLAGS: Final = b"\0\0"
_UNREADABLE: Final = (ArithmeticError, ValueError, TypeError, LookupError, struct.error, OSError)


def lenient(connection: Connection) -> None:
    """Have a connection that is open take messages with properties that cannot be read."""
    amqp: Any = connection.connection
    strict = amqp.on_inbound_frame

    def handle(frame: tuple[int, int, bytes]) -> object:
        kind, channel, payload = frame
        if kind != _HEADER:
            return strict(frame)
        try:
            return strict(frame)
        except (*_UNREADABLE, FrameSyntaxError):
            bare = bytes(payload[: _CONTENT.size]) + _NO_FLAGS
            return strict((kind, channel, bare))

    amqp.on_inbound_frame = handle
