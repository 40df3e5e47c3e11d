"""What RabbitMQ holds back in a queue: it would be lost with it, and AMQP does not count it.

A quorum queue that passes messages on at least once (our retry tiers, and any that a policy lets
expire) keeps each until the queue that it goes to has taken it. Meanwhile no client sees it, in no
count, nor in what the deletion of the queue says. What that queue has refused RabbitMQ tries again
by a timer of 180 seconds, which begins with the first (``rabbit_fifo_dlx_worker``,
``dead_letter_worker_publisher_confirm_timeout``; 3.10 to 4.0).

The management API tells how many there are (``messages_dlx``), some seconds later. Where it may not
be asked, time is waited out in which RabbitMQ has tried twice, while what comes to its queues is
taken out of them. Known limits: what it tries in vain for all that time is not known of then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from shared.broker.policies import DescribedQueue
from shared.errors import MigrationRefused

Ask: TypeAlias = Callable[[Sequence[str]], Mapping[str, DescribedQueue]]
"""Returns those of the queues that exist, as RabbitMQ describes them."""

COUNTED: Final = 15.0
"""Seconds after which the management API says what has been so: a quorum queue counts its messages
every five, and the API asks for that every five."""
RETRIED: Final = 400.0
"""Seconds in which RabbitMQ has tried twice to pass on what was refused."""
_TURN: Final = 1.0
_LONGEST: Final = 10
"""How many times as long is waited at most where some go on, and others come."""

_STAY: Final = (
    "RabbitMQ holds {} of its messages back, and they would be lost with it: {} does not take them;"
    " see to it that it does (is it full by a policy?), or restart RabbitMQ, and migrate again"
)


@dataclass(frozen=True, slots=True)
class Withheld:
    """Finds out, or waits.

    Attributes:
        ask: None where nobody may be asked.
        say: tells the operator.
    """

    ask: Ask | None
    say: Callable[[str], object]

    def count(self, name: str) -> int | None:
        """Return how many messages of a queue RabbitMQ holds back; None where it is not known."""
        seen = self._seen([name]).get(name)
        return None if seen is None else seen.withheld

    def require_none(self, names: Sequence[str], empty: Callable[[], int]) -> None:
        """Wait until RabbitMQ holds nothing back in queues into which nothing comes any more.

        Args:
            names: of the queues; nothing is asked if there are none.
            empty: takes away what it has passed on, so that more finds room; returns how many.

        Raises:
            MigrationRefused: it holds something back for longer than it takes to try again.
            ConfigError, BrokerUnavailable: it may not be asked, or does not answer.
        """
        if not names:
            return
        if self.ask is not None:
            self.say("waiting until RabbitMQ has counted what it holds back")
            _wait(COUNTED, empty)
        seen = self._seen(names).values()
        if self.ask is None or any(each.withheld is None for each in seen):
            self.say(
                f"waiting for {RETRIED:.0f} seconds, so that RabbitMQ passes on what it may hold"
                f" back in {', '.join(names)}; with broker.management_url it can be asked"
            )
        self._await_none(names, empty)

    def _await_none(self, names: Sequence[str], empty: Callable[[], int]) -> None:
        said, began = None, time.monotonic()
        until = began + RETRIED
        while True:
            left = {name: seen for name, seen in self._seen(names).items() if seen.withheld != 0}
            if self.ask is not None and not left:
                return
            for name, seen in left.items():
                if seen.withheld and said != name:
                    said = name
                    what = f"RabbitMQ holds {seen.withheld} messages back, and tries again"
                    self.say(f"{name}: {what}; this may take some minutes")
            if empty():
                until = min(time.monotonic(), began + (_LONGEST - 1) * RETRIED) + RETRIED
            if (rest := until - time.monotonic()) <= 0:
                break
            time.sleep(min(_TURN, rest))
        for name, seen in left.items():
            if seen.withheld:
                target = seen.arguments.get("x-dead-letter-routing-key")
                raise MigrationRefused(name, _STAY.format(seen.withheld, target))

    def _seen(self, names: Sequence[str]) -> Mapping[str, DescribedQueue]:
        return {} if self.ask is None else self.ask(names)


def _wait(seconds: float, empty: Callable[[], int]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        empty()
        time.sleep(min(_TURN, seconds))
