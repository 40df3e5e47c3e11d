"""The one loop. A stage is a function from an envelope to an outcome; all else is here.

The runner consumes, decodes, calls the handler, makes what follows durable and only then lets the
broker forget the delivery. It trusts no handler: what one raises is a temporary failure of that
message alone. It knows the Broker protocol and no implementation of it.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from shared import wire
from shared.broker import Broker, Delivery, Send
from shared.clock import Clock
from shared.errors import (
    BrokerUnavailable,
    DeliveryLost,
    NewerSchema,
    Refused,
    SpoolMissing,
    SpoolUnavailable,
    StateUnavailable,
    Undecodable,
)
from shared.faultpoint import reach
from shared.log import MailLog
from shared.message import Envelope, Payload
from shared.outcome import Outcome, Retry
from shared.queues import RETRIED, retry_queue
from shared.settlement import RetryPolicy, Settlement, Step, settlement, undecodable

SUSPECT: Final = 2
"""Hand-outs without a settlement after which a message may be what crashes its process."""

FAREWELL: Final = 0.02
"""Seconds between two messages of which one may be what crashes its process. A settlement is on its
way to the broker then, and not lost with the process: or the same neighbour would be there again
each time, and be taken for the culprit as well."""

HEAD_START: Final = 1.0
"""Seconds, at the most, by which suspects are held back. The wait is a random one: of the stages in
one process, the one with the culprit must not always be the first, or the others get nowhere."""

NOT_OURS: Final = 1.0
"""Seconds for which a newer version's message is held that goes back to where it came from."""

EXPECTED: Final = (StateUnavailable, SpoolUnavailable, SpoolMissing, BrokerUnavailable, Refused)
"""What a handler may raise when something it needs is away; all else is a defect to be logged."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the pipeline.

    Attributes:
        name: of the stage, in logs, headers and the trail.
        inbox: the queue it consumes.
        payload: the type that queue carries.
        outbox: the queue that Forward goes to, None for the last stage.
        handle: the stage itself; a plain function for CPU work, a coroutine function for I/O.
        concurrency: how many deliveries it may have in hand.
    """

    name: str
    inbox: str
    payload: type[Payload]
    outbox: str | None
    handle: Callable[[Envelope[Any]], Outcome | Awaitable[Outcome]]
    concurrency: int


class Blobs(Protocol):
    """What the runner needs of the spool."""

    async def copy(self, key: str, new_key: str) -> None:
        """Copy a blob, durably."""

    async def delete(self, key: str) -> None:
        """Delete a blob; no error where there is none."""


class Runner:
    """Runs one stage over a broker until it is told to stop.

    Args:
        stage: what to run.
        broker: where its queues are.
        policy: the retry schedule.
        log: told of everything that happens to mail.
        clock: the time.
        blobs: the spool, for copies and for deleting what nobody refers to any more.
    """

    def __init__(
        self,
        stage: Stage,
        broker: Broker,
        policy: RetryPolicy,
        log: MailLog,
        clock: Clock,
        blobs: Blobs,
    ) -> None:
        self._stage = stage
        self._broker = broker
        self._policy = policy
        self._log = log
        self._clock = clock
        self._blobs = blobs
        self._tasks: set[asyncio.Task[None]] = set()
        self._suspects: list[Delivery] = []
        self._inspector: asyncio.Task[None] | None = None
        self.taken = 0
        """How many deliveries were taken in hand since the start; grows while anything moves."""

    @property
    def in_hand(self) -> int:
        """How many deliveries are being handled just now."""
        return len(self._tasks) + len(self._suspects)

    async def run(self, stop: asyncio.Event, grace: float = 30.0) -> None:
        """Consume until ``stop`` is set, then finish what is in hand and return.

        Args:
            stop: set by whoever wants the stage to end.
            grace: seconds that what is in hand may take then; after that it is left to the broker,
                which hands it out again.
        """
        consuming = asyncio.create_task(self._consume())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({consuming, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        consuming.cancel()
        try:
            with suppress(asyncio.CancelledError):
                await consuming
        finally:
            await self._finish(grace)

    async def _consume(self) -> None:
        stage = self._stage
        async with aclosing(self._broker.consume(stage.inbox, stage.concurrency)) as deliveries:
            async for delivery in deliveries:
                self.taken += 1
                if delivery.redeliveries >= SUSPECT or self._resembles(delivery):
                    self._suspect(delivery)
                else:
                    self._start(self._one(delivery))

    def _start(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _resembles(self, delivery: Delivery) -> bool:
        """Return whether it is a copy of a suspect: fetched anew, as its fetcher died with it."""
        return any(delivery.message_id == other.message_id for other in self._suspects)

    def _suspect(self, delivery: Delivery) -> None:
        # A message that crashes its process takes its neighbours' delivery counts up with its own.
        # Handled alone and in random order, the neighbours get away before the limit is reached.
        self._suspects.append(delivery)
        if self._inspector is None or self._inspector.done():
            self._inspector = asyncio.create_task(self._inspect())

    async def _inspect(self) -> None:
        await self._clock.sleep(random.uniform(0.0, HEAD_START))  # noqa: S311
        while self._suspects:
            if self._tasks:
                await asyncio.wait(set(self._tasks))
            delivery = self._suspects.pop(random.randrange(len(self._suspects)))  # noqa: S311
            await self._start(self._one(delivery))
            await self._clock.sleep(FAREWELL)

    async def _finish(self, grace: float) -> None:
        if self._inspector is not None:
            self._inspector.cancel()
        if not self._tasks:
            return
        _, late = await asyncio.wait(set(self._tasks), timeout=grace)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
            self._log.trouble("stopped with messages in hand", left_to_the_broker=len(late))

    async def _one(self, delivery: Delivery) -> None:
        stage = self._stage
        try:
            envelope = wire.decode(delivery.body, stage.payload)
        except Undecodable as error:
            step = undecodable(
                delivery.body, delivery.message_id, str(error), stage=stage.name, inbox=stage.inbox
            )
            await self._settle(delivery, Settlement((step,)), delivery.message_id, "")
            return
        except NewerSchema as error:
            parked = await self._parked(delivery, str(error))
            await self._settle(delivery, parked, delivery.message_id, "")
            return
        follows = await self._consequences(envelope)
        await self._settle(delivery, follows, envelope.id, envelope.account, envelope.first_seen)

    async def _consequences(self, envelope: Envelope[Payload]) -> Settlement:
        try:
            follows = self._follows(envelope, await self._outcome(envelope))
        except Exception as error:  # noqa: BLE001  (an outcome that cannot be carried out)
            self._log.crashed(envelope.id, envelope.account, error)
            follows = self._follows(envelope, Retry(f"{type(error).__name__}: {error}"))
        return await self._copied(envelope, follows) if follows.copies else follows

    def _follows(self, envelope: Envelope[Payload], outcome: Outcome) -> Settlement:
        return settlement(
            envelope,
            outcome,
            stage=self._stage.name,
            inbox=self._stage.inbox,
            outbox=self._stage.outbox,
            policy=self._policy,
            now=self._clock.now(),
        )

    async def _copied(self, envelope: Envelope[Payload], follows: Settlement) -> Settlement:
        """Copy blobs, so that each envelope owns its own; where that fails, retry all of it."""
        try:
            for key, new_key in follows.copies:
                await self._blobs.copy(key, new_key)
        except (SpoolUnavailable, SpoolMissing) as error:
            return self._follows(envelope, Retry(str(error)))
        return follows

    async def _outcome(self, envelope: Envelope[Payload]) -> Outcome:
        started = self._clock.monotonic()
        reach(envelope.id, "handled")
        try:
            outcome = self._stage.handle(envelope)
            return await outcome if inspect.isawaitable(outcome) else outcome
        except EXPECTED as error:
            return Retry(str(error))
        except Exception as error:  # noqa: BLE001  (unknown means temporary, and only this message)
            self._log.crashed(envelope.id, envelope.account, error)
            return Retry(f"{type(error).__name__} in the {self._stage.name}: {error}")
        finally:
            self._log.handled(self._clock.monotonic() - started)

    async def _parked(self, delivery: Delivery, reason: str) -> Settlement:
        """Send a newer version's message round a tier, as it is, until a newer worker takes it.

        An inbox without tiers gets it back, after a moment. Dropped, a poll job would leave its
        account unpolled for as long as the schedule takes it for queued.
        """
        queue = self._stage.inbox
        if queue in RETRIED:
            queue = retry_queue(queue, self._policy.tiers[0])
        else:
            await self._clock.sleep(NOT_OURS)
        headers = {**delivery.headers, "reason": reason}
        send = Send(queue, delivery.body, delivery.message_id, headers)
        return Settlement((Step("retrying", reason, send),))

    async def _settle(
        self,
        delivery: Delivery,
        follows: Settlement,
        id_: str,
        account: str,
        first_seen: float = 0.0,
    ) -> None:
        sends = [step.send for step in follows.steps if step.send is not None]
        reach(self._stage.name, "before-publish")
        try:
            await self._insist(delivery, sends)
        except DeliveryLost as error:
            self._log.trouble("not settled; it will be handed out again", id=id_, why=error)
            return
        for step in follows.steps:
            self._tell(step, id_, account, first_seen)
        if follows.release is not None:
            await self._release(follows.release)

    async def _insist(self, delivery: Delivery, sends: Sequence[Send]) -> None:
        """Settle; while the broker will not, hold the delivery: that is the back-pressure."""
        pause = 0.5
        while True:
            try:
                return await self._broker.settle(delivery, *sends)
            except DeliveryLost:
                raise
            except (Refused, BrokerUnavailable) as error:
                self._log.trouble("the broker does not settle", why=error)
                await self._clock.sleep(pause)
                pause = min(pause * 2, 30.0)

    async def _release(self, key: str) -> None:
        try:
            await self._blobs.delete(key)
        except SpoolUnavailable as error:
            self._log.trouble("a blob stays in the spool until it is swept", key=key, why=error)

    def _tell(self, step: Step, id_: str, account: str, first_seen: float) -> None:
        log = self._log
        queue = step.send.queue if step.send is not None else ""
        match step.event:
            case "forwarded":
                log.forwarded(id_, account, queue)
            case "delivered":
                log.delivered(id_, account, step.reason, self._clock.now() - first_seen)
            case "suppressed":
                log.suppressed(id_, account, step.reason)
            case "retrying":
                log.retrying(id_, account, queue, step.reason, step.attempt)
            case "failed":
                log.failed(id_, account, queue, step.reason)
            case "quarantined":
                log.quarantined(id_, account, step.reason)
            case "polled":
                pass
