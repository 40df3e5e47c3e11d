"""What passes between the event loop and the worker thread of the embedded broker.

Jobs go to the worker, what came of them comes back. Each field is written by one side only; its
docstring says by which.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from shared.broker import Delivery
from shared.broker.embedded.statements import Row


@dataclass(slots=True, eq=False)
class Consumer:
    """One call of ``consume``.

    Attributes:
        held: what is leased for it and not settled, yielded or not; the worker's.
        closed: set by the worker when it has heard that the generator has ended.
        buffer: handed over by the worker, not yet yielded; the loop's.
        wake: set when the buffer has something, or nothing will come any more; the loop's.
        ended: the broker is closed; the loop's.
    """

    queue: str
    prefetch: int
    held: set[Lease] = field(default_factory=set)
    closed: bool = False
    buffer: list[Delivery] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False


@dataclass(slots=True, eq=False)
class Lease:
    """The tag of a delivery: one message, leased to one owner for one consumer.

    It is told from other leases of the same row by identity, because row numbers come again.

    Attributes:
        owner: the owner it was leased to; the lease is lost when that is no longer us.
        handouts: how often the message was handed out, this time included.
        yielded: whether the consumer's user has seen it, so that it counts; the loop's.
    """

    consumer: Consumer
    owner: int
    id: int
    queue: int
    handouts: int
    yielded: bool = False


class TransferPart(NamedTuple):
    """Put these rows; and with them, if there is a lease, forget its message. Or none of it."""

    rows: Sequence[Row]
    lease: Lease | None


@dataclass(slots=True, eq=False)
class Transfer:
    """Do these parts, each by itself; answer for each None, or why it was not done."""

    parts: Sequence[TransferPart]
    done: asyncio.Future[list[Exception | None]]


@dataclass(slots=True, eq=False)
class Subscribe:
    """Lease messages for this consumer from now on."""

    consumer: Consumer


@dataclass(slots=True, eq=False)
class Cancel:
    """Lease no more for this consumer, and give back what it has not yielded."""

    consumer: Consumer
    done: asyncio.Future[None]


@dataclass(slots=True, eq=False)
class Count:
    """Say how many messages wait in these queues."""

    queues: Sequence[str]
    done: asyncio.Future[Mapping[str, int]]


@dataclass(slots=True, eq=False)
class AskDrained:
    """Say whether nothing is in these queues, neither waiting nor leased."""

    queues: Sequence[str]
    done: asyncio.Future[bool]


@dataclass(slots=True, eq=False)
class Stop:
    """Give everything back and end the thread."""

    done: asyncio.Future[None]


Job: TypeAlias = Transfer | Subscribe | Cancel | Count | AskDrained | Stop


@dataclass(slots=True, eq=False)
class JobResults:
    """What came of jobs.

    Attributes:
        answers: for each job its future and the result, or the exception, that it gets.
        leased: deliveries for each consumer.
        evicted: all earlier leases are lost; what is buffered must not be yielded.
    """

    answers: list[tuple[asyncio.Future[Any], object]] = field(default_factory=list)
    leased: list[tuple[Consumer, list[Delivery]]] = field(default_factory=list)
    evicted: bool = False
