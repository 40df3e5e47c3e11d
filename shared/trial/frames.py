"""What a process and the one that tries its suspects say to each other: frames over two pipes.

A frame is four bytes of length, a head of that length in JSON (what it is about, and the lengths of
the bodies), and the bodies as they are. Mail is only ever in a body. Neither side trusts the other
to be whole: what is no frame, or too large for one, ends the conversation.

    to the child      settings, their digest; take, number, queue, id, headers, hand-outs; the body
    from the child    unfit, why; ready; beat; read, number, headers;
                      answer, number, settlement; its bodies
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol, cast

from shared.broker import Delivery, Send
from shared.settlement import Consequence, MailEvent, Settlement

HEAD_LIMIT: Final = 16 * 1024 * 1024
BODIES_LIMIT: Final = 256 * 1024 * 1024
"""Bytes of a head, and of all bodies together: above what the recipients of one message make."""

_LENGTH: Final = struct.Struct(">I")


class Frame(NamedTuple):
    """One frame: what it says, and the bodies that go with it."""

    head: list[Any]
    bodies: list[bytes]


class FrameSource(Protocol):
    """Where frames are read from, such as an asyncio.StreamReader."""

    async def readexactly(self, n: int, /) -> bytes:
        """Return so many bytes; raise IncompleteReadError where it ends before."""


def pack(head: Sequence[object], bodies: Sequence[bytes] = ()) -> bytes:
    """Return a frame as bytes."""
    text = json.dumps([list(head), [len(body) for body in bodies]]).encode()
    return b"".join([_LENGTH.pack(len(text)), text, *bodies])


async def read(source: FrameSource) -> Frame:
    """Return the next frame.

    Raises:
        asyncio.IncompleteReadError: there is none any more.
        ValueError: what comes is no frame.
    """
    (length,) = _LENGTH.unpack(await source.readexactly(_LENGTH.size))
    if length > HEAD_LIMIT:
        raise ValueError(f"a head of {length} bytes")
    head, lengths = json.loads(await source.readexactly(length))
    if sum(lengths) > BODIES_LIMIT:
        raise ValueError(f"bodies of {sum(lengths)} bytes")
    return Frame(head, [await source.readexactly(size) for size in lengths])


def pack_delivery(number: int, delivery: Delivery) -> bytes:
    """Return the frame that hands a delivery over."""
    queue, body, id_, headers, redeliveries, _ = delivery
    return pack(["take", number, queue, id_, dict(headers), redeliveries], [body])


def delivery(frame: Frame) -> Delivery:
    """Return the delivery of a frame ``take``; its tag is its number."""
    _, number, queue, id_, headers, redeliveries = frame.head
    return Delivery(queue, frame.bodies[0], id_, headers, redeliveries, number)


def pack_answer(number: int, follows: Settlement) -> bytes:
    """Return the frame that says what follows from a delivery."""
    bodies = [step.send.body for step in follows.steps if step.send is not None]
    steps = [
        [step.event, step.reason, _about(step.send), step.attempt, step.back_in]
        for step in follows.steps
    ]
    told = [steps, follows.copies, follows.release, follows.after]
    return pack(["answer", number, told], bodies)


def settlement(frame: Frame) -> Settlement:
    """Return what a frame ``answer`` says.

    Raises:
        ValueError, TypeError: it is none.
    """
    steps, copies, release, after = frame.head[2]
    bodies = iter(frame.bodies)
    return Settlement(
        tuple(
            Consequence(cast(MailEvent, event), reason, _send(about, bodies), attempt, back_in)
            for event, reason, about, attempt, back_in in steps
        ),
        tuple((key, new_key) for key, new_key in copies),
        release,
        after,
    )


def _about(send: Send | None) -> list[object] | None:
    return None if send is None else [send.queue, send.message_id, dict(send.headers)]


def _send(about: list[Any] | None, bodies: Any) -> Send | None:
    if about is None:
        return None
    queue, message_id, headers = about
    return Send(queue, next(bodies), message_id, headers)
