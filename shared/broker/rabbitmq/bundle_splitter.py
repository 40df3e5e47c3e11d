"""Takes bundles apart that RabbitMQ hands out again: one of their messages may crash its process.

Each message gets an entry of its own in the same queue, then the bundle is forgotten. It trusts no
process to live that long: killed in between, it leaves copies, which the deliverer knows by their
ids. Where that fails, as the queue is full or an alarm stops publishing, the messages are handed on
as they are, and share the fate of their bundle: whoever waits for room must not be in its way.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final

from shared import wire
from shared.broker import Delivery, Send
from shared.broker.bundle_headers import headers_of_each
from shared.broker.rabbitmq.publisher import Publisher
from shared.broker.rabbitmq.subscription import Subscription
from shared.clock import Clock
from shared.log import Report

PATIENCE: Final = 5.0
"""Seconds that the broker may take to store the messages of a bundle one by one."""

FAREWELL: Final = 0.02
"""Seconds from a bundle's acknowledgement until its messages are handed on. One that crashes this
process would take an acknowledgement with it that is not on its way yet, and the bundle, with the
culprit in it, would be there again beside the messages."""


class BundleSplitter:
    """Takes bundles apart.

    Args:
        publisher: of the same stage, which may send to its own inbox.
        clock: times the farewell.
        report: is told what could not be taken apart.
    """

    def __init__(self, publisher: Publisher, clock: Clock, report: Report) -> None:
        self._publisher = publisher
        self._clock = clock
        self._report = report
        self._underway: Counter[str] = Counter()  # ids of the messages in bundles
        self._held: list[tuple[Subscription, Delivery]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def sift(self, subscription: Subscription, arrived: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return what can be handed on, and see to the rest."""
        ready: list[Delivery] = []
        for delivery in arrived:
            messages = wire.unbundled(delivery.body) if delivery.redeliveries else None
            if messages is not None:
                self._underway.update(id_ for id_, _ in messages)
                task = asyncio.create_task(self._take(subscription, delivery, messages))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            elif delivery.message_id in self._underway:
                self._held.append((subscription, delivery))
            else:
                ready.append(delivery)
        return ready

    def stop(self) -> None:
        """Leave what is still in one piece to the broker."""
        for task in self._tasks:
            task.cancel()

    async def _take(
        self, subscription: Subscription, bundle: Delivery, messages: Sequence[tuple[str, bytes]]
    ) -> None:
        headers = headers_of_each(bundle.headers)
        sends = [Send(bundle.queue, body, id_, headers) for id_, body in messages]
        try:
            async with asyncio.timeout(PATIENCE):
                answers = await self._publisher.publish([[send] for send in sends], unbundled=True)
            refused = next((answer for answer in answers if answer is not None), None)
        except Exception as error:  # noqa: BLE001  (a defect too: nobody waits for this task)
            refused = error
        try:
            if refused is None:
                subscription.forget(bundle)
                await self._clock.sleep(FAREWELL)
            else:
                why = str(refused) or "no answer in time"
                self._report("a bundle cannot be split", queue=bundle.queue, why=why)
                subscription.open_up(bundle, messages)
        finally:
            self._underway.subtract(id_ for id_, _ in messages)
            self._underway += Counter()  # only what there is some of
            self._hand_on()

    def _hand_on(self) -> None:
        held, self._held = self._held, []
        for subscription, delivery in held:
            if delivery.message_id in self._underway:
                self._held.append((subscription, delivery))
            else:
                subscription.put_back(delivery)
