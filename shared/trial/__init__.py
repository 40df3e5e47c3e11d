"""Trials: what may crash its process is handled in another one, which is there to be crashed.

That a message was handed out several times says little: somebody killed the process, the broker was
away, an acknowledgement came too late. It makes a message a suspect, no more. Whether it crashes
the process that takes it is found out in a process where nothing else is lost with it.

``Suspects`` says which suspect is handled when, and what a crash means; it knows a process by the
protocol ``TrialProcess`` only. ``frames`` are what parent and child say to each other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeAlias

from shared.broker import HANDED_OUT, Delivery, Header
from shared.settlement import Settlement


class Ended(Exception):
    """The process has ended, and did not say what is to become of the message.

    Args:
        how: in words, such as "signal 11 (SIGSEGV)".
    """


class NotHandedOver(Ended):
    """The process had to be ended, as it has not got the message whole: not the message's fault."""


class NotStarted(Exception):
    """A process could not be started, or had ended before it was ready: no message's fault."""


TakeHeaders: TypeAlias = Callable[[Mapping[str, Header]], None]
"""Takes what an operator is to read of a message, as soon as it could be read."""


class TrialProcess(Protocol):
    """A process of its own in which messages are handled by the same stage."""

    @property
    def ended(self) -> str | None:
        """How it has ended; None while it lives."""

    async def handle(self, delivery: Delivery, tell: TakeHeaders) -> Settlement:
        """Have a message handled; others may be in hand beside it.

        Args:
            delivery: the message.
            tell: is called once it was read, before it is handled.

        Returns:
            What follows; nothing is sent or settled yet.

        Raises:
            NotHandedOver: it has not got the message.
            Ended: the process has ended before it said so.
        """

    async def close(self) -> None:
        """End it, if need be with what it has in hand."""


Start: TypeAlias = Callable[[], Awaitable[TrialProcess]]
"""Starts a process; returns when it is ready, however long that takes; raises NotStarted."""


def hand_outs(delivery: Delivery) -> int:
    """Return how often a message had been handed out before without being settled, all told."""
    kept = delivery.headers.get(HANDED_OUT, 0)
    return delivery.redeliveries + (kept if type(kept) is int and kept > 0 else 0)


def kept_headers(delivery: Delivery) -> dict[str, Header]:
    """Return the headers of a message with which its hand-outs are not forgotten."""
    return {**delivery.headers, HANDED_OUT: hand_outs(delivery)}
