"""The broker over RabbitMQ: publishes with confirms, consumes, settles, and survives every loss.

It trusts the broker's confirms and nothing else. Two connections: one that publishes (and may be
blocked by an alarm), and one that consumes and acknowledges (and never is). Whatever happens to
either, senders are told that the outcome is unknown, consumers go on with the next channel, and no
delivery tag is ever used on a channel that it did not come from.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Final, cast
from weakref import WeakSet

from shared.backoff import Backoff
from shared.broker import CONNECTOR, Delivery, Send
from shared.broker.amqp_url import parsed
from shared.broker.rabbitmq.bundle_splitter import BundleSplitter
from shared.broker.rabbitmq.channel import AsyncChannel, ChannelEnded
from shared.broker.rabbitmq.foreign_messages import ForeignMessages
from shared.broker.rabbitmq.kept_connection import FIRST_PAUSE, KeptConnection
from shared.broker.rabbitmq.publisher import Publisher
from shared.broker.rabbitmq.stall_watch import StallWatch
from shared.broker.rabbitmq.subscription import Subscription
from shared.clock import Clock, SystemClock
from shared.errors import BrokerUnavailable, DeliveryLost, Refused
from shared.failpoint import reach
from shared.log import Report, silent
from shared.queues import Tier, plan, reachable
from shared.supervision import supervise

LONGEST_PAUSE: Final = 5.0
"""Seconds between two tries to consume a queue that is not declared yet."""

WORN: Final = 5
"""Hand-outs after which a message is not taken during an alarm: it can only be held until RabbitMQ
hands it out again, which a queue of an older version does 20 times."""

_UNKNOWN: Final = (403, 404)
"""Reply codes for a queue that we may not look into, and one that does not exist."""


class RabbitBroker:
    """A ``shared.broker.Broker`` over RabbitMQ 3.10 or later.

    Args:
        urls: ``amqp://user:password@host:port/vhost``, or ``amqps://``; or one for each node.
        sender: who publishes, a key of ``shared.queues.SENDERS``; its exchange has the same name.
        name: this process in the management UI, as ``parser@host``.
        tiers: the retry tiers of the topology.
        version: the version of this program.
        names: of this connector: the one that it has, then those that it had before. Messages of
            another one are not handed out.
        ca_file: the authority that TLS trusts; the system's store if None.
        clock: times the pauses between tries.
        report: is told of losses, refusals and alarms.

    Raises:
        ConfigError: the URL or the file is wrong.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        sender: str,
        name: str,
        tiers: Sequence[Tier],
        version: str,
        names: Sequence[str] = (CONNECTOR,),
        ca_file: str | None = None,
        clock: Clock | None = None,
        report: Report = silent,
    ) -> None:
        self._name = name
        self._clock = clock or SystemClock()
        self._report = report
        self._reach = frozenset(reachable(sender, plan(tiers)))
        addresses = parsed(urls)
        self._publishing, self._consuming = (
            KeptConnection(addresses, ca_file, f"{title} ({use})", version, report, self._clock)
            for title in [f"pop3-connector {name} {version}"]
            for use in ("publishing", "consuming")
        )
        self._publisher = Publisher(self._publishing, sender, report, self._clock)
        self._splitter = BundleSplitter(self._publisher, self._clock, report)
        self._foreign = ForeignMessages(names, self._publisher, tiers, self._clock, report)
        self._watch = StallWatch(
            lambda: self._publisher.oldest, lambda: self.connected, self._clock, report
        )
        self._watching: asyncio.Task[None] | None = None
        self._subscriptions: WeakSet[Subscription] = WeakSet()

    async def open(self) -> None:
        """See ``Broker.open``; what refuses user name and password is BrokerRefuses."""
        what = "watches what the broker does not do"
        self._watching = supervise(self._watch.look, what, self._clock)
        await self._publishing.start()
        await self._consuming.start()
        await self._publisher.start()

    async def close(self) -> None:
        """See ``Broker.close``."""
        self._splitter.stop()
        self._foreign.stop()
        if self._watching is not None:
            self._watching.cancel()
        await asyncio.gather(*(subscription.end() for subscription in list(self._subscriptions)))
        await self._publisher.close()
        await asyncio.gather(self._publishing.close(), self._consuming.close())

    @property
    def connected(self) -> bool:
        """See ``Broker.connected``."""
        return self._publisher.up and self._consuming.up

    @property
    def blocked(self) -> str | None:
        """See ``Broker.blocked``."""
        return self._publishing.blocked

    @property
    def unsubscribed(self) -> Sequence[str]:
        """See ``Broker.unsubscribed``."""
        return self._watch.unsubscribed

    @property
    def unroutable(self) -> Sequence[str]:
        """See ``Broker.unroutable``."""
        return self._publisher.unroutable

    @property
    def unconfirmed(self) -> float:
        """See ``Broker.unconfirmed``."""
        return self._watch.unconfirmed

    async def consume(self, queue: str, prefetch: int) -> AsyncGenerator[Sequence[Delivery], None]:
        """See ``Broker.consume``."""
        backoff = Backoff(self._clock, FIRST_PAUSE, LONGEST_PAUSE, jitter=True)
        subscription: Subscription | None = None
        try:
            self._watch.wants(queue)
            while (subscription := await self._subscribe(queue, prefetch, backoff)) is not None:
                self._watch.has(queue)
                while arrived := await subscription.next():
                    ours = self._foreign.sift(subscription, arrived)
                    if ready := self._splitter.sift(subscription, ours):
                        yield ready
                await self._wait_out_alarm(subscription)
                self._watch.wants(queue)
                if self._consuming.up:
                    self._report("consumer lost", queue=queue, reason=subscription.lost)
                await backoff.pause()
        finally:
            self._watch.has(queue)
            if subscription is not None:
                await subscription.stop()

    async def _wait_out_alarm(self, subscription: Subscription) -> None:
        """Let the alarm pass, if there is one, for which messages were handed out often enough."""
        if self.blocked is not None and subscription.most >= WORN:
            what = "nothing is taken during the alarm; it was handed out often"
            self._report(what, queue=subscription.queue, times=subscription.most + 1)
            await self._publishing.unblocked()

    async def settle(self, delivery: Delivery, *sends: Send) -> None:
        """See ``Broker.settle``."""
        (error,) = await self.settle_all([(delivery, sends)])
        if error is not None:
            raise error

    async def settle_all(
        self, settlements: Sequence[tuple[Delivery, Sequence[Send]]]
    ) -> list[Exception | None]:
        """See ``Broker.settle_all``."""
        answers: list[Exception | None] = [self._loss(delivery) for delivery, _ in settlements]
        ours = [at for at, lost in enumerate(answers) if lost is None]
        published = await self._publish_groups([settlements[at][1] for at in ours])
        for at, refused in zip(ours, published, strict=True):
            answers[at] = refused or self._acknowledge(settlements[at][0])
        return answers

    def _loss(self, delivery: Delivery) -> DeliveryLost | None:
        subscription, number = cast(tuple[Subscription, int], delivery.tag)
        return subscription.loss(number)

    def _acknowledge(self, delivery: Delivery) -> Exception | None:
        subscription, number = cast(tuple[Subscription, int], delivery.tag)
        reach(delivery.queue, "before-ack")
        return subscription.ack(number)

    async def publish(self, *sends: Send) -> None:
        """See ``Broker.publish``."""
        (error,) = await self._publish_groups([sends])
        if error is not None:
            raise error

    async def _publish_groups(self, groups: Sequence[Sequence[Send]]) -> list[Exception | None]:
        """Publish each group whole, or nothing of it, with one wait for all the confirms."""
        answers: list[Exception | None] = [self._unreachable(sends) for sends in groups]
        going = [at for at, refused in enumerate(answers) if refused is None and groups[at]]
        if not going:
            return answers
        try:
            signed = [self._foreign.sign(groups[at]) for at in going]
            confirmed = await self._publisher.publish(signed)
        except BrokerUnavailable as error:
            confirmed = [error for _ in going]
        for at, answer in zip(going, confirmed, strict=True):
            answers[at] = answer
        return answers

    def _unreachable(self, sends: Sequence[Send]) -> Refused | None:
        for send in sends:
            if send.queue not in self._reach:
                why = f"{self._name} may not send to it, or it does not exist"
                return Refused(send.queue, why)
        return None

    async def depths(self, queues: Iterable[str]) -> Mapping[str, int]:
        """See ``Broker.depths``; a queue that is not declared holds 0."""
        return {queue: await self._depth(queue) for queue in queues}

    async def drained(self, queues: Iterable[str]) -> bool | None:
        """Return None: AMQP tells how many messages wait, and not how many are handed out."""
        return None

    async def _depth(self, queue: str) -> int:
        channel = AsyncChannel()
        await channel.open(self._consuming.now())
        count = 0
        try:
            said = await channel.declare_passive(queue)
            count = int(said.message_count)
            if not count and not said.consumer_count:
                # It says so of a queue that has lost its majority, too; that one does not answer.
                await channel.look(queue)
        except ChannelEnded as error:
            if error.code not in _UNKNOWN:
                raise
        finally:
            channel.close()
        return count

    async def _subscribe(self, queue: str, prefetch: int, backoff: Backoff) -> Subscription | None:
        """Return a subscription, once the broker lets us have one; None if we are closed."""
        while True:
            try:
                connection = await self._consuming.connection()
            except BrokerUnavailable:
                return None
            subscription = Subscription(queue, prefetch, f"{self._name}.{os.getpid()}.{queue}")
            try:
                await subscription.open(connection)
            except ChannelEnded as error:
                self._report("cannot consume yet", queue=queue, reason=str(error))
                await backoff.pause()
            else:
                backoff.note_success()
                self._subscriptions.add(subscription)
                return subscription
