"""Says what a broker that is connected does not do: confirm, or let a stage consume its inbox.

A quorum queue that has lost its majority answers nothing, and no connection breaks by that: without
this the log would be silent, and all would look well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from shared.clock import Clock
from shared.log import Report

LOOK_EVERY: Final = 1.0
LONG: Final = 30.0
"""Seconds without a confirm, or a subscription, after which it is said."""


class StallWatch:
    """Knows since when the broker owes what.

    Args:
        oldest: returns since when a confirm is waited for, and of which queue; None for none.
        up: returns whether there is a connection; its loss is told by others.
        clock: tells the time.
        report: is told what is owed for long, once, and when it has come.
    """

    def __init__(
        self,
        oldest: Callable[[], tuple[float, str] | None],
        up: Callable[[], bool],
        clock: Clock,
        report: Report,
    ) -> None:
        self._oldest = oldest
        self._up = up
        self._clock = clock
        self._report = report
        self._wanted: dict[str, float] = {}  # since when, by the queue
        self._told: set[str] = set()  # queues without a subscription; "" for a confirm

    @property
    def unsubscribed(self) -> tuple[str, ...]:
        """The queues that are to be consumed, and are not."""
        return tuple(self._wanted)

    @property
    def unconfirmed(self) -> float:
        """Seconds for which the oldest publish has waited for its confirm; 0 if none does."""
        oldest = self._oldest()
        return 0.0 if oldest is None else max(0.0, self._clock.monotonic() - oldest[0])

    def wants(self, queue: str) -> None:
        """Note that a queue is to be consumed, and is not."""
        self._wanted.setdefault(queue, self._clock.monotonic())

    def has(self, queue: str) -> None:
        """Note that a queue is consumed, or need not be any more."""
        self._wanted.pop(queue, None)

    async def look(self) -> None:
        """Look, once a second, and report."""
        while True:
            await self._clock.sleep(LOOK_EVERY)
            if self._up():
                self._look()

    def _look(self) -> None:
        now = self._clock.monotonic()
        late = {queue for queue, since in self._wanted.items() if now - since >= LONG}
        for queue in late - self._told:
            self._report(
                "the broker does not start our consumer", queue=queue, for_seconds=round(LONG)
            )
        oldest = self._oldest()
        if oldest is not None and now - oldest[0] >= LONG:
            late.add("")
            if "" not in self._told:
                why = "no confirm; has a queue lost its majority of nodes?"
                self._report("the broker does not confirm", queue=oldest[1], why=why)
        elif "" in self._told:
            self._report("the broker confirms again")
        self._told = late
