"""From a stage's outcome to what is sent where: pure, so that every rule of it can be tested.

It knows retry tiers, giving up, Failed Mail and quarantine, and writes the headers that an operator
reads in the management UI. It sends nothing; the runner does.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple, TypeAlias, assert_never

from shared import wire
from shared.broker import Header, Send
from shared.log import printable
from shared.message import Envelope, Hop, Payload, Poll, Spooled
from shared.outcome import (
    Busy,
    DeadLetter,
    Done,
    Forward,
    Outcome,
    Quarantine,
    Retry,
    Split,
    Verdict,
)
from shared.queues import QUARANTINE, RETRIED, Tier, failed_queue, retry_queue

MailEvent: TypeAlias = Literal[
    "forwarded",
    "delivered",
    "suppressed",
    "polled",
    "retrying",
    "waiting",
    "failed",
    "quarantined",
]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a message is tried again, and when no longer.

    Attributes:
        tiers: the waits, in order; the last one repeats.
        give_up_after: seconds from the first failure to Failed Mail.

    Raises:
        ValueError: there is no tier.
    """

    tiers: tuple[Tier, ...]
    give_up_after: float

    def __post_init__(self) -> None:
        if not self.tiers:
            raise ValueError("a retry policy needs at least one tier")

    def tier(self, attempt: int, after: float | None) -> Tier:
        """Return where a message waits after its try number ``attempt`` (0 for the first).

        Args:
            attempt: how many tries failed before this one.
            after: seconds before which another try is pointless, None if nobody knows.
        """
        turn = min(attempt, len(self.tiers) - 1)
        if after is None:
            return self.tiers[turn]
        # A hint can shorten or lengthen the wait: the shortest tier that is long enough.
        return next((t for t in self.tiers if t.seconds >= after), self.tiers[-1])

    def pause(self, after: float) -> Tier:
        """Return where a message waits of which no try is counted: no longer than it has to.

        Args:
            after: seconds for which there is other work to do before it.
        """
        shortest = min(self.tiers, key=lambda tier: tier.seconds)
        fit = [tier for tier in self.tiers if tier.seconds <= after]
        return max(fit, key=lambda tier: tier.seconds, default=shortest)


# Of the next two there is one for each message at every stage. They are named tuples because those
# are made faster than a frozen dataclass.


class Consequence(NamedTuple):
    """One consequence of an outcome.

    Attributes:
        event: what it is called in logs and counts.
        reason: the receipt, or why it did not go on.
        send: what has to be durable before the delivery is forgotten; None where nothing follows.
        attempt: the attempt number that the message will have next.
        back_in: seconds after which it is back in its inbox, where that was no try.
    """

    event: MailEvent
    reason: str
    send: Send | None = None
    attempt: int = 0
    back_in: float = 0.0


class Settlement(NamedTuple):
    """All that follows from one outcome, to be settled together.

    Attributes:
        copies: blobs to copy first, as pairs of keys, so that each envelope owns its own.
        release: the key of the blob that nobody refers to afterwards, or None.
        after: seconds for which the delivery is held before that.
    """

    steps: tuple[Consequence, ...]
    copies: tuple[tuple[str, str], ...] = ()
    release: str | None = None
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class SettlementRules:
    """What follows from the outcomes of one stage.

    Attributes:
        stage: its name.
        inbox: the queue it consumes.
        outbox: the queue that Forward goes to; None for the last stage.
        policy: the retry schedule.
    """

    stage: str
    inbox: str
    outbox: str | None
    policy: RetryPolicy

    def settlement(self, e: Envelope[Payload], outcome: Outcome, now: float) -> Settlement:
        """Return what follows from an outcome.

        Args:
            e: what the stage was given.
            outcome: what it said.
            now: seconds since 1970 (UTC).
        """
        if isinstance(outcome, Retry) and self.inbox not in RETRIED:
            return self._put_back(e, outcome)
        verdicts = outcome.verdicts if isinstance(outcome, Split) else (outcome,)
        key = _key(e.payload)
        if key is not None:
            return self._settle_spooled(e, key, verdicts, now)
        steps: list[Consequence] = []
        for verdict in verdicts:
            if isinstance(verdict, Done):
                steps.append(Consequence(verdict.event, verdict.receipt))
            continuing = _continuing(verdict, e.payload)
            steps += [self._step(e, verdict, payload, now) for payload in continuing]
        return Settlement(_some(steps))

    def _put_back(self, e: Envelope[Payload], retry: Retry) -> Settlement:
        """Return what follows for a poll job, which has no tiers.

        With a hint it goes back to its queue after that; else the schedule makes another one.
        """
        if retry.after is None:
            return Settlement((Consequence("polled", retry.reason),))
        headers: dict[str, Header] = {"account": e.account, "reason": printable(retry.reason)}
        send = Send(self.inbox, wire.encode(replace(e, attempt=e.attempt + 1)), e.id, headers)
        return Settlement((Consequence("polled", retry.reason, send),), after=retry.after)

    def _settle_spooled(
        self, e: Envelope[Payload], key: str, verdicts: Sequence[Verdict], now: float
    ) -> Settlement:
        """Return what follows where a blob is to go with one envelope, or with none."""
        steps: list[Consequence] = []
        copies: list[tuple[str, str]] = []
        owned = False
        for verdict in verdicts:
            for payload in _continuing(verdict, e.payload):
                mine = payload
                if _key(payload) == key and owned:
                    fresh = f"{key}.{secrets.token_hex(4)}"
                    copies.append((key, fresh))
                    mine = _with_key(payload, fresh)
                owned = owned or _key(mine) == key
                steps.append(self._step(e, verdict, mine, now))
            if isinstance(verdict, Done):
                steps.append(Consequence(verdict.event, verdict.receipt))
        return Settlement(_some(steps), tuple(copies), None if owned else key)

    def _step(
        self, e: Envelope[Payload], verdict: Verdict, payload: Payload, now: float
    ) -> Consequence:
        match verdict:
            case Forward():
                return self._forward(e, payload, now)
            case Retry(reason, after):
                return self._retry(e, payload, reason, after, now)
            case Busy(reason, after):
                return self._busy(e, payload, reason, after, now)
            case DeadLetter(reason):
                return self._keep(e, "failed", failed_queue(self.inbox), payload, reason, now)
            case Quarantine(reason):
                return self._keep(e, "quarantined", QUARANTINE, payload, reason, now)
            case Done():
                raise TypeError("nothing continues after Done")
            case _:
                assert_never(verdict)

    def _forward(self, e: Envelope[Payload], payload: Payload, now: float) -> Consequence:
        if self.outbox is None:
            raise TypeError(f"stage {self.stage} has no outbox to forward to")
        trail = (*e.trail, Hop(self.stage, now))
        onward: Envelope[Payload] = Envelope(
            e.id, e.account, payload, e.first_seen, trail=trail, requeue=e.requeue
        )
        send = Send(self.outbox, wire.onward(onward), e.id, {"account": e.account})
        return Consequence("forwarded", self.outbox, send)

    def _retry(
        self, e: Envelope[Payload], payload: Payload, reason: str, after: float | None, now: float
    ) -> Consequence:
        first = e.first_failure
        if first is not None and now - first >= self.policy.give_up_after:
            why = f"{reason} (given up after {_span(now - first)})"
            return self._keep(e, "failed", failed_queue(self.inbox), payload, why, now)
        queue = retry_queue(self.inbox, self.policy.tier(e.attempt, after))
        return self._keep(e, "retrying", queue, payload, reason, now)

    def _busy(
        self, e: Envelope[Payload], payload: Payload, reason: str, after: float, now: float
    ) -> Consequence:
        """Let it wait as it is: neither its attempts nor its first failure change."""
        kept = replace(e, payload=payload)
        tier = self.policy.pause(after)
        headers = failure_headers(kept, reason, stage=self.stage, inbox=self.inbox, now=now)
        send = Send(retry_queue(self.inbox, tier), wire.encode(kept), e.id, headers)
        return Consequence("waiting", reason, send, e.attempt, tier.seconds)

    def _keep(
        self,
        e: Envelope[Payload],
        event: MailEvent,
        queue: str,
        payload: Payload,
        reason: str,
        now: float,
    ) -> Consequence:
        kept: Envelope[Payload] = replace(
            e,
            payload=payload,
            attempt=e.attempt + 1,
            first_failure=now if e.first_failure is None else e.first_failure,
        )
        headers = failure_headers(kept, reason, stage=self.stage, inbox=self.inbox, now=now)
        return Consequence(
            event, reason, Send(queue, wire.encode(kept), e.id, headers), kept.attempt
        )


def undecodable(
    body: bytes, message_id: str, reason: str, *, stage: str, inbox: str, now: float
) -> Consequence:
    """Return the step for bytes that are no envelope: to quarantine as they are."""
    headers: dict[str, Header] = {
        "reason": printable(reason),
        "stage": stage,
        "inbox": inbox,
        "failed-at": _iso(now),
        "size": len(body),
    }
    return Consequence("quarantined", reason, Send(QUARANTINE, body, message_id, headers))


def _some(steps: list[Consequence]) -> tuple[Consequence, ...]:
    """Return what follows from an outcome; one from which nothing does would lose the message."""
    if not steps:
        raise ValueError("the outcome does not say what is to become of the message")
    return tuple(steps)


def _continuing(verdict: Verdict, whole: Payload) -> Sequence[Payload]:
    if isinstance(verdict, Forward):
        return verdict.payloads
    if isinstance(verdict, Done):
        return ()
    return (whole if verdict.payload is None else verdict.payload,)


def failure_headers(
    envelope: Envelope[Payload], reason: str, *, stage: str, inbox: str, now: float
) -> dict[str, Header]:
    """Return what an operator reads on a message that waits, failed, or is quarantined.

    What went before a requeue counts: the first failure is the very first, the tries are all tries.

    Args:
        envelope: the message.
        reason: why it did not go on.
        stage: who says so.
        inbox: the queue to which a requeue returns it.
        now: seconds since 1970 (UTC).
    """
    first = now if envelope.first_failure is None else envelope.first_failure
    before = () if envelope.requeue is None else envelope.requeue.failures
    headers: dict[str, Header] = {
        "account": envelope.account,
        "reason": printable(reason),
        "stage": stage,
        "inbox": inbox,
        "attempts": envelope.attempt + sum(failure.attempts for failure in before),
        "first-failure": _iso(min((first, *(failure.first for failure in before)))),
        "failed-at": _iso(now),
    }
    payload = envelope.payload
    if not isinstance(payload, Poll):
        summary = payload.summary
        headers |= {
            "from": printable(summary.from_, 200),
            "subject": printable(summary.subject, 200),
            "message-id": printable(summary.message_id, 200),
            "size": payload.raw.size,
        }
    return headers


def _key(payload: Payload) -> str | None:
    if isinstance(payload, Poll) or not isinstance(payload.raw, Spooled):
        return None
    return payload.raw.key


def _with_key(payload: Payload, key: str) -> Payload:
    if isinstance(payload, Poll) or not isinstance(payload.raw, Spooled):
        return payload
    return replace(payload, raw=replace(payload.raw, key=key))


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


_UNITS: Final = ((86_400, "days"), (3_600, "hours"), (60, "minutes"), (1, "seconds"))


def _span(seconds: float) -> str:
    size, unit = next((u for u in _UNITS if seconds >= u[0]), _UNITS[-1])
    return f"{seconds / size:.3g} {unit}"
