"""The deliverer's story: a message directed to mailboxes is claimed, delivered, recorded.

At least once, and never twice where it can be avoided: the ledger says who has a message already, a
claim keeps other processes off it meanwhile, and what was delivered is recorded before the outcome
returns. It trusts the couriers to tell temporary from permanent. If the ledger is away after a
delivery, the message stays in hand until it is back: put off, it would come to another process,
which delivers it again if the claim has expired meanwhile. It is written down elsewhere, in case
this process ends first; and nothing more is delivered that could not be recorded either.

Known limit: what the far end has taken when this process is killed, and before it was recorded,
comes twice, unless the courier can see that it is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Final, Protocol

from services.deliverer.batch import CLAIMED_ELSEWHERE, Attempt, Batch, attempt_for
from services.deliverer.breaker import Breaker
from services.deliverer.courier import (
    ClaimLost,
    Courier,
    DeliveryRequest,
    MailContent,
    MailObject,
)
from services.deliverer.unrecorded import Unrecorded
from shared.backoff import Backoff
from shared.clock import Clock
from shared.errors import SpoolUnavailable, StateUnavailable, Unstorable
from shared.failpoint import reach_all
from shared.ledger import Claim, DeliveryKey, Finished
from shared.log import Report, silent
from shared.message import Addressed, Envelope, Inline, Spooled
from shared.outcome import Answer, Busy, DeadLetter, Outcome, Retry

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 5.0
"""Seconds between two tries to record a delivery."""

WAITING: Final = "messages wait for capacity at their destination"
WAITING_TOLD_EVERY: Final = 300.0
"""Seconds between two log lines about it: a long backlog is no trouble once it is known."""

UNRECORDED: Final = (
    "the delivery ledger is unavailable: delivered messages are held until it is back"
)

KEPT_BACK: Final = "not delivered: earlier deliveries cannot be recorded at the moment"


class Deliveries(Protocol):
    """The ledger of finished deliveries. Calls that are awaited may raise StateUnavailable."""

    async def claim(self, deliveries: Sequence[DeliveryKey]) -> Sequence[Claim | Unstorable | None]:
        """Claim messages for this process.

        None where another, or another task, has one in hand; Unstorable where nobody ever can.
        """

    async def finish(self, finished: Sequence[Finished]) -> None:
        """Record recipients as delivered and drop the claims, durably and in one step.

        Where it raises, the claims still hold.
        """

    async def unclaim(self, deliveries: Sequence[DeliveryKey]) -> None:
        """Drop the claims; where it raises, they expire by themselves."""

    def let_expire(self, deliveries: Sequence[DeliveryKey]) -> None:
        """Hold claims no longer, nor drop them: whoever is next to claim is told of a replay."""

    def holds(self, delivery: DeliveryKey) -> bool:
        """Return whether the claim is ours beyond doubt; it may have expired unnoticed."""


class BlobReader(Protocol):
    """What the deliverer needs of the spool."""

    def chunks(self, key: str, *, length: int | None) -> AsyncGenerator[bytes, None]:
        """Yield a blob of so many bytes; raise SpoolMissing, or SpoolUnavailable if it has not."""


class Deliverer:
    """Delivers messages to named destinations.

    Args:
        couriers: the courier of each destination, by its name.
        deliveries: the ledger.
        blobs: where large messages lie.
        clock: the time.
        report: is told that deliveries cannot be recorded.
        threshold: unreachable tries in a row that open the breaker of a destination.
        unrecorded: where deliveries are written down that the ledger does not take.
    """

    def __init__(
        self,
        couriers: Mapping[str, Courier],
        deliveries: Deliveries,
        blobs: BlobReader,
        clock: Clock,
        *,
        report: Report = silent,
        threshold: int = 5,
        unrecorded: Unrecorded | None = None,
    ) -> None:
        self._couriers = couriers
        self._deliveries = deliveries
        self._blobs = blobs
        self._clock = clock
        self._report = report
        self._report_again_at = 0.0
        self._report_waiting_at: dict[str, float] = {}  # by destination
        self._unrecorded = unrecorded or Unrecorded(None)
        self._reading_back = asyncio.Lock()
        self._read_back = False
        self._held_up = 0  # how many wait for the ledger to take what was delivered
        self.breakers: Mapping[str, Breaker] = {
            name: Breaker(clock, threshold=threshold) for name in couriers
        }
        """The breaker of each destination, by its name."""

    def lane(self, envelope: Envelope[Addressed]) -> str | None:
        """Return with which other messages one is delivered: small ones, to the same destination.

        A large one is delivered alone: the others would wait until it has been read.
        """
        mail = envelope.payload
        return mail.destination if isinstance(mail.raw, Inline) else None

    async def handle(self, envelopes: Sequence[Envelope[Addressed]], answer: Answer) -> None:
        """Deliver messages of one lane to those of their recipients who do not have them yet.

        Args:
            envelopes: the messages.
            answer: is told what became of each as soon as that is recorded; SpoolMissing or
                SpoolUnavailable for one that is large and cannot be read.
        """
        destination = envelopes[0].payload.destination
        deliveries = [DeliveryKey(envelope.id, destination) for envelope in envelopes]
        claims = await self._claim(destination, deliveries)
        if not isinstance(claims, Sequence):
            for index in range(len(envelopes)):
                answer(index, claims)
            return
        attempts: list[Attempt] = []
        for index, claim in enumerate(claims):
            if claim is None:
                why = "another process is delivering this message"
                answer(index, Retry(why, after=CLAIMED_ELSEWHERE))
            elif isinstance(claim, Unstorable):
                why = "not delivered, as it could not be recorded: the state database says"
                answer(index, DeadLetter(f"{why} {claim}"))
            else:
                attempts.append(attempt_for(index, envelopes[index], deliveries[index], claim))
        del envelopes  # each is let go of when it was delivered
        await self._carry_out(destination, attempts, answer)

    async def close(self) -> None:
        """Close all couriers."""
        for courier in self._couriers.values():
            await courier.close()

    async def _claim(
        self, destination: str, deliveries: Sequence[DeliveryKey]
    ) -> Sequence[Claim | Unstorable | None] | Outcome:
        """Claim messages; where nothing can be delivered there now, return the outcome of all."""
        if destination not in self._couriers:
            return _unknown_destination(destination)
        down = self._retry_if_down(destination)
        if down is not None:
            return down
        try:
            await self._record_earlier()
            return await self._deliveries.claim(deliveries)
        except StateUnavailable as error:
            return Retry(f"the delivery ledger is unavailable: {error}")

    async def _record_earlier(self) -> None:
        """Record what a process had to leave behind unrecorded, before anything is claimed."""
        async with self._reading_back:
            if not self._read_back:
                if found := await self._unrecorded.read():
                    await self._deliveries.finish(found)
                    await self._unrecorded.strike(found)
                self._read_back = True

    def _retry_if_down(self, destination: str) -> Retry | None:
        breaker = self.breakers[destination]
        seconds = breaker.remaining()
        if not seconds:
            return None
        why = f"destination {destination} is not tried for a while: {breaker.why}"
        return Retry(why, after=seconds)

    async def _carry_out(self, destination: str, attempts: list[Attempt], answer: Answer) -> None:
        """Deliver, and record what was delivered before anybody is told of it."""
        begun = self._begin(destination, attempts)
        batch = Batch(attempts)
        attempts.clear()
        requests = [
            DeliveryRequest(self._mail_object(attempt), partial(batch.note, attempt))
            for attempt in begun
        ]
        delivering = asyncio.create_task(self._couriers[destination].deliver(requests))
        delivering.add_done_callback(batch.note_courier_ended)
        del requests, begun
        try:
            while batch.open:
                known = await batch.wait_known()
                reach_all(["deliverer"] * len(known), "before-ledger")
                await self._record_and_release(known)
                reach_all(["deliverer"] * len(known), "after-ledger")
                for attempt in known:
                    if isinstance(attempt.outcome, Busy):
                        self._report_waiting(destination, attempt.outcome)
                    answer(attempt.index, attempt.outcome)
            await delivering
        except BaseException:
            delivering.cancel()
            await asyncio.wait({delivering})
            await self._abandon(batch.open)
            raise

    def _begin(self, destination: str, attempts: Sequence[Attempt]) -> list[Attempt]:
        """Begin those attempts that may be made, and return them; note why others may not."""
        begun: list[Attempt] = []
        for attempt in attempts:
            if attempt.known:
                continue
            down = self._retry_if_down(destination)  # others tried it while these were claimed
            if down is not None:
                attempt.outcome = down
                continue
            attempt.permit = self.breakers[destination].permit()
            begun.append(attempt)
        return begun

    async def _record_and_release(self, attempts: Collection[Attempt]) -> None:
        self._keep_marks(attempts)
        done, rest = _split_by_receipts(attempts)
        if done:
            await self._record(done)
        await self._unclaim(rest)

    async def _abandon(self, attempts: Collection[Attempt]) -> None:
        """Give up what is under way; what may have been delivered all the same is marked so."""
        self._deliveries.let_expire([each.delivery for each in attempts if not each.known])
        known = [each for each in attempts if each.known]
        self._keep_marks(known)
        done, rest = _split_by_receipts(known)
        if done:
            try:
                await self._finish(done)
            except StateUnavailable:
                await self._unrecorded.write(done)
                rest += [delivery for delivery, _ in done]
        await self._unclaim(rest)

    def _keep_marks(self, attempts: Collection[Attempt]) -> None:
        """Leave it to the next claim to be told of a replay, where this one came to nothing."""
        self._deliveries.let_expire([each.delivery for each in attempts if each.keeps_mark])

    async def _unclaim(self, deliveries: Sequence[DeliveryKey]) -> None:
        if deliveries:
            with suppress(StateUnavailable):  # they expire by themselves
                await self._deliveries.unclaim(deliveries)

    async def _record(self, done: Sequence[Finished]) -> None:
        """Record what was delivered, however long that takes."""
        try:
            await self._finish(done)
        except StateUnavailable as error:
            self._held_up += 1
            await self._record_when_back(done, error)
            self._held_up -= 1

    async def _finish(self, done: Sequence[Finished]) -> None:
        try:
            await self._deliveries.finish(done)
        except asyncio.CancelledError:  # nobody knows whether it was recorded
            await self._unrecorded.write(done)
            raise

    async def _record_when_back(self, done: Sequence[Finished], error: StateUnavailable) -> None:
        """Write down what was delivered, and record it when the ledger is back."""
        backoff, written = Backoff(self._clock, FIRST_PAUSE, LONGEST_PAUSE), False
        while True:
            if not written:
                written = await self._unrecorded.write(done)
            self._report_unrecorded(error)
            await backoff.pause()
            try:
                await self._deliveries.finish(done)
            except StateUnavailable as again:
                error = again
            else:
                return await self._unrecorded.strike(done)

    def _holds(self, delivery: DeliveryKey) -> bool:
        if self._held_up:
            raise ClaimLost(KEPT_BACK)
        return self._deliveries.holds(delivery)

    def _report_unrecorded(self, error: StateUnavailable) -> None:
        """Report that deliveries cannot be recorded: for all that are held, once in a while."""
        now = self._clock.monotonic()
        if now >= self._report_again_at:
            self._report_again_at = now + LONGEST_PAUSE
            self._report(UNRECORDED, why=error)

    def _report_waiting(self, destination: str, busy: Busy) -> None:
        """Report that messages wait for room, and why: for each destination, once in a while."""
        now = self._clock.monotonic()
        if now >= self._report_waiting_at.get(destination, 0.0):
            self._report_waiting_at[destination] = now + WAITING_TOLD_EVERY
            self._report(WAITING, destination=destination, why=busy.reason)

    def _mail_object(self, attempt: Attempt) -> MailObject:
        return MailObject(self._content(attempt), attempt.envelope.payload.sender, attempt.waiting)

    def _content(self, attempt: Attempt) -> MailContent:
        envelope, mail = attempt.envelope, attempt.envelope.payload
        # An earlier try may have ended without our knowing how, in this process or in another.
        tried = envelope.attempt > 0 or envelope.requeue is not None
        replay = attempt.claim.replay or tried
        raw, id_ = mail.raw, envelope.id
        size = len(mail.prefix) + raw.size - mail.skip
        held = partial(self._holds, attempt.delivery)
        if isinstance(raw, Inline):
            data = raw.data[mail.skip :] if mail.skip else raw.data
            return MailContent(id_, mail.prefix, size, partial(_once, data), data, replay, held)
        chunks = partial(self._blob, raw, mail.skip)
        return MailContent(id_, mail.prefix, size, chunks, None, replay, held)

    async def _blob(self, raw: Spooled, skip: int) -> AsyncGenerator[bytes, None]:
        """Yield a blob; raise SpoolUnavailable if it ends before the message does, or after."""
        size = 0
        async with aclosing(self._blobs.chunks(raw.key, length=raw.size)) as chunks:
            async for chunk in chunks:
                yield chunk[max(0, skip - size) :]
                size += len(chunk)
        if size != raw.size:
            raise SpoolUnavailable(f"blob {raw.key} has {size} bytes, and should have {raw.size}")


async def _once(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data


def _split_by_receipts(attempts: Collection[Attempt]) -> tuple[list[Finished], list[DeliveryKey]]:
    """Return what is to be recorded of these, and of which the claim is only to be dropped."""
    done = [Finished(each.delivery, each.receipts) for each in attempts if each.receipts]
    rest = [each.delivery for each in attempts if not (each.receipts or each.keeps_mark)]
    return done, rest


def _unknown_destination(destination: str) -> Retry:
    # Not for good: a rewriter may have been told of a new destination before this process was.
    return Retry(
        f"there is no destination {destination!a} here: configure [destinations.{destination}]"
        " with a url, and restart the deliverer; the message is tried again until then"
    )
