"""A stage, a function from an envelope to an outcome, and what follows from a delivery to it.

Here a delivery is decoded, handed to the stage, and its outcome turned into what is to be settled.
No handler is trusted: what one raises is a temporary failure of that message alone. Nothing is sent
here, and nothing waited for but a handler that does I/O.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias, cast

from shared import wire
from shared.broker import Delivery, Send
from shared.clock import Clock
from shared.envelope_check import require_ours
from shared.errors import (
    BrokerUnavailable,
    NewerSchema,
    Refused,
    SpoolMissing,
    SpoolUnavailable,
    StateUnavailable,
    Undecodable,
)
from shared.failpoint import reach, reach_all
from shared.log import MailLog
from shared.message import Envelope, Payload
from shared.outcome import Answer, Outcome, Retry
from shared.queues import RETRIED, retry_queue
from shared.settlement import Consequence, RetryPolicy, Settlement, SettlementRules, undecodable

NOT_OURS: Final = 1.0
"""Seconds for which a newer version's message is held that goes back to where it came from."""

SPOOL: Final = (SpoolMissing, SpoolUnavailable)
EXPECTED: Final = (StateUnavailable, BrokerUnavailable, Refused, *SPOOL)
"""What a handler may raise when something it needs is away; all else is a defect to be logged."""

Compute: TypeAlias = Callable[[Envelope[Any]], Outcome]
"""A stage that only computes: what is to become of one message."""

Perform: TypeAlias = Callable[[Sequence[Envelope[Any]], Answer], Awaitable[None]]
"""A stage that does I/O, for messages of one lane. It answers for each as soon as it knows; what it
has not answered for when it returns has gone wrong."""


def alone(_: Envelope[Any]) -> None:
    """Return the lane of messages that are never handled together with others."""


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
        lane: of a stage that does I/O, with which others a message may be handled; None for a
            message that is handled alone.
    """

    name: str
    inbox: str
    payload: type[Payload]
    outbox: str | None
    handle: Compute | Perform
    concurrency: int
    lane: Callable[[Envelope[Any]], str | None] = alone

    @property
    def computes(self) -> bool:
        """Whether it only computes, and answers at once."""
        return not inspect.iscoroutinefunction(self.handle)


class DecodedDelivery(NamedTuple):
    """A delivery, and the envelope that was in it."""

    delivery: Delivery
    envelope: Envelope[Any]


class HandledDelivery(NamedTuple):
    """A delivery, and what follows from it.

    Attributes:
        envelope: what was in it, None where it could not be decoded.
    """

    delivery: Delivery
    envelope: Envelope[Any] | None
    settlement: Settlement

    @property
    def id(self) -> str:
        """The id of the message."""
        return self.delivery.message_id if self.envelope is None else self.envelope.id

    @property
    def account(self) -> str:
        """The account it came from, "" if nobody knows."""
        return "" if self.envelope is None else self.envelope.account

    @property
    def sends(self) -> list[Send]:
        """What is to be durable before the delivery is forgotten."""
        return [step.send for step in self.settlement.steps if step.send is not None]

    @property
    def simple(self) -> bool:
        """Whether it can be settled as it is: nothing is to be copied or waited for."""
        return not self.settlement.copies and not self.settlement.after

    @property
    def back_in(self) -> float:
        """Seconds after which all of the message is back that waits for room; 0 if none does."""
        steps = self.settlement.steps
        # Nearly always there is one; each message is asked at every stage.
        return steps[0].back_in if len(steps) == 1 else max([step.back_in for step in steps])

    def log_events(self, log: MailLog, now: float) -> None:
        """Log and count what has become of the message.

        Args:
            now: seconds since 1970 (UTC).
        """
        for step in self.settlement.steps:
            self._tell(step, log, now)

    def _tell(self, step: Consequence, log: MailLog, now: float) -> None:
        id_, account = self.id, self.account
        queue = step.send.queue if step.send is not None else ""
        match step.event:
            case "forwarded":
                log.forwarded(id_, account, queue)
            case "delivered":
                first_seen = now if self.envelope is None else self.envelope.first_seen
                log.delivered(id_, account, step.reason, now - first_seen)
            case "suppressed":
                log.suppressed(id_, account, step.reason)
            case "retrying":
                log.retrying(id_, account, queue, step.reason, step.attempt)
            case "waiting":
                log.waiting(id_, account, queue, step.reason)
            case "failed":
                log.failed(id_, account, queue, step.reason)
            case "quarantined":
                log.quarantined(id_, account, step.reason)
            case "polled":
                pass


class StageHandler:
    """Has a stage handle deliveries.

    Args:
        stage: which one.
        policy: the retry schedule.
        log: told of handlers that raise what they should not.
        clock: the time.
    """

    def __init__(self, stage: Stage, policy: RetryPolicy, log: MailLog, clock: Clock) -> None:
        self._stage = stage
        self._route = SettlementRules(stage.name, stage.inbox, stage.outbox, policy)
        self._log = log
        self._clock = clock

    def decode(self, delivery: Delivery) -> DecodedDelivery | HandledDelivery:
        """Return a delivery with its envelope; what follows, where that cannot be decoded."""
        stage = self._stage
        try:
            envelope = wire.decode(delivery.body, stage.payload)
            if not wire.made_here(delivery.body):
                require_ours(envelope)
            queue, _, id_, headers, redeliveries, tag = delivery
            # The body goes: the message would be held twice for as long as it is in hand.
            return DecodedDelivery(Delivery(queue, b"", id_, headers, redeliveries, tag), envelope)
        except Undecodable as error:
            step = undecodable(
                delivery.body,
                delivery.message_id,
                str(error),
                stage=stage.name,
                inbox=stage.inbox,
                now=self._clock.now(),
            )
            return HandledDelivery(delivery, None, Settlement((step,)))
        except NewerSchema as error:
            return HandledDelivery(delivery, None, self._send_round(delivery, str(error)))

    def lanes(self, opened: Sequence[DecodedDelivery]) -> list[list[DecodedDelivery]]:
        """Return deliveries as they are to be handled: together, or apart from each other."""
        if self._stage.computes:
            return [list(opened)]
        apart: list[list[DecodedDelivery]] = []
        together: dict[str, list[DecodedDelivery]] = {}
        for one in opened:
            lane = self._stage.lane(one.envelope)
            if lane is None:
                apart.append([one])
            else:
                together.setdefault(lane, []).append(one)
        return [*apart, *together.values()]

    async def handle(
        self, lane: list[DecodedDelivery], tell: Callable[[HandledDelivery], None]
    ) -> None:
        """Have the stage handle the deliveries of one lane.

        Args:
            lane: the deliveries; they are let go of one by one.
            tell: is told what follows for each, as soon as it is known.
        """
        if self._stage.computes:
            self._compute(lane, tell)
        else:
            await self._perform(lane, tell)

    def _compute(
        self, lane: Sequence[DecodedDelivery], tell: Callable[[HandledDelivery], None]
    ) -> None:
        handle, monotonic = cast(Compute, self._stage.handle), self._clock.monotonic
        for delivery, envelope in lane:
            started = monotonic()
            reach(envelope.id, "handled")
            answer: Outcome | Exception
            try:
                answer = handle(envelope)
            except Exception as error:  # noqa: BLE001  (unknown means temporary, and only this one)
                answer = error
            self._log.handled(monotonic() - started)
            tell(HandledDelivery(delivery, envelope, self._settlement(envelope, answer)))

    async def _perform(
        self, lane: list[DecodedDelivery], tell: Callable[[HandledDelivery], None]
    ) -> None:
        handle, monotonic = cast(Perform, self._stage.handle), self._clock.monotonic
        started = monotonic()
        reach_all((envelope.id for _, envelope in lane), "handled")
        envelopes = [envelope for _, envelope in lane]
        waiting = dict(enumerate(lane))
        lane.clear()

        def answer(place: int, answered: Outcome | Exception) -> None:
            delivery, envelope = waiting[place]
            self._log.handled(monotonic() - started)
            tell(HandledDelivery(delivery, envelope, self._settlement(envelope, answered)))
            del waiting[place]  # not before: should this fail, it is answered for once more

        handling = handle(envelopes, answer)
        del envelopes
        wrong: Exception = RuntimeError("it did not say what became of this message")
        try:
            await handling
        except Exception as error:  # noqa: BLE001  (unknown means temporary, and only this lane)
            wrong = error
        for place in list(waiting):
            answer(place, wrong)

    def retry(self, case: HandledDelivery, reason: str) -> HandledDelivery:
        """Return a case in which all of the message is tried again."""
        if case.envelope is None:
            return case
        return case._replace(settlement=self._settlement(case.envelope, Retry(reason)))

    def case(self, delivery: Delivery, follows: Settlement) -> HandledDelivery:
        """Return a delivery with what follows, which was found out elsewhere."""
        found = self.decode(delivery)
        return (
            found._replace(settlement=follows)
            if isinstance(found, HandledDelivery)
            else HandledDelivery(*found, follows)
        )

    def _send_round(self, delivery: Delivery, reason: str) -> Settlement:
        """Send a newer version's message round a tier, as it is, until a newer worker takes it.

        An inbox without tiers gets it back, after a moment. Dropped, a poll job would leave its
        account unpolled for as long as the schedule takes it for queued.
        """
        queue, after = self._stage.inbox, NOT_OURS
        if queue in RETRIED:
            queue, after = retry_queue(queue, self._route.policy.tiers[0]), 0.0
        headers = {**delivery.headers, "reason": reason}
        send = Send(queue, delivery.body, delivery.message_id, headers)
        return Settlement((Consequence("retrying", reason, send),), after=after)

    def _retry_after(self, envelope: Envelope[Any], error: Exception) -> Retry:
        if isinstance(error, SPOOL):
            self._log.spool_failed(error, envelope.account, envelope.id)
        if isinstance(error, EXPECTED):
            return Retry(str(error))
        self._log.crashed(envelope.id, envelope.account, error)
        return Retry(f"{type(error).__name__} in the {self._stage.name}: {error}")

    def _settlement(self, envelope: Envelope[Any], answer: Outcome | Exception) -> Settlement:
        if isinstance(answer, Exception):
            answer = self._retry_after(envelope, answer)
        try:
            return self._route.settlement(envelope, answer, self._clock.now())
        except Exception as error:  # noqa: BLE001  (an outcome that cannot be carried out)
            self._log.crashed(envelope.id, envelope.account, error)
            again = Retry(f"{type(error).__name__}: {error}")
            return self._route.settlement(envelope, again, self._clock.now())
