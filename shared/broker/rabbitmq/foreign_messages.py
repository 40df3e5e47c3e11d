"""Messages of another connector that uses the same virtual host: never handled here, and not lost.

Each message that is published names its connector in a header, which versions before ignore; one
without a name counts as ours, as it is of such a version. A message of another goes round a retry
tier, as it is, until its own connector takes it; a poll job, which has no tiers, goes back to its
queue after a moment. It trusts the name: two connectors of the same name are not told apart.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Final

from shared.broker import INSTANCE, Delivery, Send
from shared.broker.rabbitmq.publisher import Publisher
from shared.broker.rabbitmq.subscription import Subscription
from shared.clock import Clock
from shared.log import Report, printable
from shared.queues import RETRIED, Tier, retry_queue

PAUSE: Final = 5.0
"""Seconds, at the most, that a message is held before it goes back; and until the next try where
that did not work."""

TELL_EVERY: Final = 60.0
"""Seconds from one line about the messages of another connector to the next."""

MANY: Final = 100
"""Names that are remembered; the lines of more would be told at once each time."""


class ForeignMessages:
    """Tells our messages from those of others.

    Args:
        names: of this connector: the one that it has, then those that it had before.
        publisher: of the same stage, which may send to its own inbox and its retry tiers.
        tiers: the retry tiers.
        clock: times the pauses.
        report: is told of other connectors.
    """

    def __init__(
        self,
        names: Sequence[str],
        publisher: Publisher,
        tiers: Sequence[Tier],
        clock: Clock,
        report: Report,
    ) -> None:
        self._names = names
        self._publisher = publisher
        self._tiers = tiers
        self._clock = clock
        self._report = report
        self._seen: Counter[tuple[str, str]] = Counter()
        self._told: dict[tuple[str, str], float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def sign(self, sends: Sequence[Send]) -> Sequence[Send]:
        """Return messages with our name; one that has a name already keeps it."""
        ours = {INSTANCE: self._names[0]}
        return [
            send if INSTANCE in send.headers else send._replace(headers={**send.headers, **ours})
            for send in sends
        ]

    def sift(self, subscription: Subscription, arrived: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return what is ours, and see to the rest."""
        others = [one for one in arrived if not self._is_ours(one)]
        if not others:
            return arrived
        self._tell(others)
        task = asyncio.create_task(self._pass_on(subscription, others))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return [one for one in arrived if self._is_ours(one)]

    def stop(self) -> None:
        """Leave what is still in hand to the broker."""
        for task in self._tasks:
            task.cancel()

    def _is_ours(self, delivery: Delivery) -> bool:
        name = delivery.headers.get(INSTANCE)
        return name is None or name in self._names

    async def _pass_on(self, subscription: Subscription, others: Sequence[Delivery]) -> None:
        inbox = subscription.queue
        target = retry_queue(inbox, self._tiers[0]) if inbox in RETRIED else inbox
        # By chance: two who put back each other's at the same pace would get them again for ever,
        # as RabbitMQ hands out in turn.
        least = 1.0 if target == inbox else 0.0
        await self._clock.sleep(random.uniform(least, PAUSE))  # noqa: S311
        sends = [Send(target, one.body, one.message_id, one.headers) for one in others]
        try:
            answers = await self._publisher.publish([[send] for send in sends], unbundled=True)
        except Exception as error:  # noqa: BLE001  (a defect too: nobody waits for this task)
            answers = [error for _ in sends]
        for one, refused in zip(others, answers, strict=True):
            if refused is None:
                subscription.forget(one)
        left = [one for one, refused in zip(others, answers, strict=True) if refused is not None]
        if left:
            await self._clock.sleep(PAUSE)
            for one in left:
                subscription.put_back(one)

    def _tell(self, others: Sequence[Delivery]) -> None:
        """Say whose messages they are: a line at once, then one a minute with their count."""
        now = self._clock.monotonic()
        if len(self._told) > MANY:  # names that somebody makes up
            self._told.clear()
        self._seen.update((one.queue, str(one.headers[INSTANCE])) for one in others)
        for seen, count in list(self._seen.items()):
            if now - self._told.get(seen, -TELL_EVERY) >= TELL_EVERY:
                queue, instance = seen
                self._told[seen] = now
                del self._seen[seen]
                self._report(
                    "messages of another connector",
                    queue=queue,
                    connector=printable(instance, 100),
                    messages=count,
                    why=f"this one is {self._names[0]}; give each a virtual host of its own",
                )
