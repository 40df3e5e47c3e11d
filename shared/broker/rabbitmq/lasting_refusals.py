"""Refusals that last: of a queue that is full, or a channel that is not told of room again.

RabbitMQ 3.10 keeps for each channel which quorum queues it takes for full. Where a limit is lifted,
and not the queue emptied, it is told nothing, and refuses what comes over that channel for ever. No
client can see the difference to a queue that is full; so after a while another channel is tried,
then another connection, and so on, more seldom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from shared.clock import Clock

FIRST: Final = 30.0
"""Seconds of refusals after which another channel is tried; doubled with each further try."""

LONGEST: Final = 120.0

RETURNED_FOR: Final = 60.0
"""Seconds for which a queue counts as out of reach, once a message for it came back: whoever holds
that message tries again after 30 at most."""

Renewed: TypeAlias = Literal["channel", "connection"]
"""What is tried anew."""


@dataclass(slots=True)
class _Lasting:
    """Refusals by one queue.

    Attributes:
        since: when the first of them was, or the last try to do something about them.
        tries: how many there were.
    """

    since: float
    tries: int = 0


class LastingRefusals:
    """Watches for queues that refuse what is sent to them, and go on with it.

    Args:
        clock: tells for how long.
        renew: is told what to try, and for which queue.
    """

    def __init__(self, clock: Clock, renew: Callable[[Renewed, str], None]) -> None:
        self._clock = clock
        self._renew = renew
        self._lasting: dict[str, _Lasting] = {}
        self._returned: dict[str, float] = {}  # when, by the queue

    def __bool__(self) -> bool:
        """Return whether any queue has refused the last that was sent to it."""
        return bool(self._lasting or self._returned)

    @property
    def unroutable(self) -> tuple[str, ...]:
        """The queues from which messages come back: no such queue, or nothing leads there."""
        since = self._clock.monotonic() - RETURNED_FOR
        return tuple(queue for queue, at in list(self._returned.items()) if at >= since)

    def note_returned(self, queue: str) -> None:
        """Note that a message for this queue has come back."""
        self._returned[queue] = self._clock.monotonic()

    def note_taken(self, queues: Iterable[str]) -> None:
        """Note that these queues have taken something."""
        for queue in queues:
            self._lasting.pop(queue, None)
            self._returned.pop(queue, None)

    def note_refused(self, queue: str) -> None:
        """Note that a queue has refused something."""
        now = self._clock.monotonic()
        lasting = self._lasting.setdefault(queue, _Lasting(now))
        if now - lasting.since < min(LONGEST, FIRST * 2**lasting.tries):
            return
        lasting.since = now
        lasting.tries += 1
        self._renew("channel" if lasting.tries % 2 else "connection", queue)
