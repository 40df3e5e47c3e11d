"""The deliverer's story: a message directed to mailboxes is claimed, delivered, recorded.

At least once, and never twice where it can be avoided: the ledger says who has a message already, a
claim keeps other processes off it meanwhile, and what was delivered is recorded before the outcome
returns. It trusts the couriers to tell temporary from permanent. If the ledger is away after a
delivery, the message stays in hand until it is back: put off, it would come to another process,
which delivers it again if the claim has expired meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from services.deliverer.breaker import Breaker
from services.deliverer.courier import ClaimLost, Courier, Delivered, Letter, Post
from services.deliverer.outcomes import outcome_of
from shared.claims import Claim, Delivery, Finished
from shared.clock import Clock
from shared.errors import SpoolUnavailable, StateUnavailable, Unreachable
from shared.faultpoint import reach_all
from shared.log import Report, silent
from shared.message import Addressed, Envelope, Inline, Spooled
from shared.outcome import DeadLetter, Done, Outcome, Retry

CLAIMED_ELSEWHERE: Final = 10.0
"""Seconds after which to ask again for a message that another process has in hand."""

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 5.0
"""Seconds between two tries to record a delivery."""

UNRECORDED: Final = "the ledger of deliveries is out of reach: what was delivered stays in hand"


class Deliveries(Protocol):
    """The ledger of finished deliveries. Every call but ``holds`` may raise StateUnavailable."""

    async def claim(self, deliveries: Sequence[Delivery]) -> Sequence[Claim | None]:
        """Claim messages for this process; None where another, or another task, has one in hand."""

    async def finish(self, finished: Sequence[Finished]) -> None:
        """Record recipients as delivered and drop the claims, durably and in one step.

        Where it raises, the claims still hold.
        """

    async def unclaim(self, deliveries: Sequence[Delivery]) -> None:
        """Drop the claims; where it raises, they expire by themselves."""

    def holds(self, delivery: Delivery) -> bool:
        """Return whether the claim is ours without doubt; it may have expired unnoticed."""


class Blobs(Protocol):
    """What the deliverer needs of the spool."""

    def chunks(self, key: str) -> AsyncIterator[bytes]:
        """Yield a blob; raise SpoolMissing or SpoolUnavailable."""


@dataclass(slots=True)
class _Errand:
    """A message that we have claimed, on its way.

    Attributes:
        waiting: the recipients that do not have it yet.
        outcome: what became of it, or what kept it from that; None while nobody knows.
        receipts: what the far end said, by recipient that has it now.
    """

    envelope: Envelope[Addressed]
    delivery: Delivery
    claim: Claim
    waiting: Sequence[str]
    outcome: Outcome | Exception | None = None
    receipts: Mapping[str, str] = field(default_factory=dict)


class Deliverer:
    """Delivers messages to named destinations.

    Args:
        couriers: the courier of each destination, by its name.
        deliveries: the ledger.
        blobs: where large messages lie.
        clock: the time.
        report: is told that deliveries cannot be recorded.
        threshold: unreachable tries in a row that open the breaker of a destination.
    """

    def __init__(
        self,
        couriers: Mapping[str, Courier],
        deliveries: Deliveries,
        blobs: Blobs,
        clock: Clock,
        *,
        report: Report = silent,
        threshold: int = 5,
    ) -> None:
        self._couriers = couriers
        self._deliveries = deliveries
        self._blobs = blobs
        self._clock = clock
        self._report = report
        self._tell_at = 0.0
        self.breakers: Mapping[str, Breaker] = {
            name: Breaker(clock, threshold=threshold) for name in couriers
        }
        """The breaker of each destination, by its name."""

    def lane(self, envelope: Envelope[Addressed]) -> str | None:
        """Return with which other messages one is delivered: those to the same folders.

        Alone goes what can take long by itself: to a server, or large.
        """
        mail = envelope.payload
        courier = self._couriers.get(mail.destination)
        joint = courier is not None and courier.joint and isinstance(mail.raw, Inline)
        return mail.destination if joint else None

    async def handle(
        self, envelopes: Sequence[Envelope[Addressed]]
    ) -> Sequence[Outcome | Exception]:
        """Deliver messages of one lane to those of their recipients who do not have them yet.

        Returns:
            For each what became of it; SpoolMissing or SpoolUnavailable for one that is large and
            cannot be read.
        """
        destination = envelopes[0].payload.destination
        if destination not in self._couriers:
            return [_nowhere(destination)] * len(envelopes)
        away = self._away(destination)
        if away is not None:
            return [away] * len(envelopes)
        try:
            return await self._claimed(destination, envelopes)
        except StateUnavailable as error:
            return [Retry(f"the ledger of deliveries is out of reach: {error}")] * len(envelopes)

    async def close(self) -> None:
        """Let go of every destination."""
        for courier in self._couriers.values():
            await courier.close()

    def _away(self, destination: str) -> Retry | None:
        breaker = self.breakers[destination]
        seconds = breaker.remaining()
        why = f"destination {destination} is left alone for a while: {breaker.why}"
        return Retry(why, after=seconds) if seconds else None

    async def _claimed(
        self, destination: str, envelopes: Sequence[Envelope[Addressed]]
    ) -> Sequence[Outcome | Exception]:
        deliveries = [Delivery(envelope.id, destination) for envelope in envelopes]
        claims = await self._deliveries.claim(deliveries)
        errands = [
            None if claim is None else _errand(envelope, delivery, claim)
            for envelope, delivery, claim in zip(envelopes, deliveries, claims, strict=True)
        ]
        ours = [errand for errand in errands if errand is not None]
        try:
            await self._deliver(destination, [errand for errand in ours if errand.waiting])
        except BaseException:
            await self._let_go(ours)
            raise
        reach_all(["deliverer"] * len(ours), "before-ledger")
        await self._let_go(ours)
        reach_all(["deliverer"] * len(ours), "after-ledger")
        return [_outcome(errand) for errand in errands]

    async def _let_go(self, errands: Sequence[_Errand]) -> None:
        done = [Finished(e.delivery, e.receipts) for e in errands if e.receipts]
        if done:
            await self._recorded(done)
        rest = [errand.delivery for errand in errands if not errand.receipts]
        if rest:
            with suppress(StateUnavailable):  # they expire by themselves
                await self._deliveries.unclaim(rest)

    async def _recorded(self, done: Sequence[Finished]) -> None:
        """Record what was delivered, however long that takes."""
        pause = FIRST_PAUSE
        while True:
            try:
                return await self._deliveries.finish(done)
            except StateUnavailable as error:
                self._tell(error)
                await self._clock.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _tell(self, error: StateUnavailable) -> None:
        """Report that deliveries cannot be recorded: for all that are held, once in a while."""
        now = self._clock.monotonic()
        if now >= self._tell_at:
            self._tell_at = now + LONGEST_PAUSE
            self._report(UNRECORDED, why=error)

    async def _deliver(self, destination: str, errands: Sequence[_Errand]) -> None:
        """Deliver to one destination, and note with each errand what became of it."""
        if not errands:
            return
        away = self._away(destination)  # again: others tried it while these were claimed
        if away is not None:
            for errand in errands:
                errand.outcome = away
            return
        posts = [Post(self._letter(e), e.envelope.payload.sender, e.waiting) for e in errands]
        with self.breakers[destination].attempt() as attempt:
            delivered = await self._couriers[destination].deliver(posts)
            attempt.down = next(filter(None, map(_down, delivered)), None)
        for errand, results in zip(errands, delivered, strict=True):
            _note(errand, results)

    def _letter(self, errand: _Errand) -> Letter:
        mail, replay = errand.envelope.payload, errand.claim.replay
        raw, id_ = mail.raw, errand.envelope.id
        size = len(mail.prefix) + raw.size
        held = partial(self._deliveries.holds, errand.delivery)
        if isinstance(raw, Inline):
            return Letter(id_, mail.prefix, size, partial(_once, raw.data), raw.data, replay, held)
        return Letter(id_, mail.prefix, size, partial(self._blob, raw), None, replay, held)

    async def _blob(self, raw: Spooled) -> AsyncIterator[bytes]:
        """Yield a blob, and do not end well if it is not as long as the message was."""
        size = 0
        async for chunk in self._blobs.chunks(raw.key):
            size += len(chunk)
            yield chunk
        if size != raw.size:
            raise SpoolUnavailable(f"blob {raw.key} has {size} bytes, and should have {raw.size}")


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _nowhere(destination: str) -> DeadLetter:
    return DeadLetter(
        f"there is no destination {destination!a}: configure [destinations.{destination}]"
        " with a url, or direct the message elsewhere, and requeue it"
    )


def _errand(envelope: Envelope[Addressed], delivery: Delivery, claim: Claim) -> _Errand:
    waiting = list(dict.fromkeys(envelope.payload.recipients))
    if claim.delivered:
        waiting = [recipient for recipient in waiting if recipient not in claim.delivered]
    errand = _Errand(envelope, delivery, claim, waiting)
    if not waiting:
        errand.outcome = Done("had been delivered before", event="suppressed")
    return errand


def _outcome(errand: _Errand | None) -> Outcome | Exception:
    if errand is None:
        return Retry("another process has this message in hand", after=CLAIMED_ELSEWHERE)
    if errand.outcome is None:
        return RuntimeError("the courier told nothing of this message")
    return errand.outcome


def _down(delivered: Delivered) -> str | None:
    """Return how the destination went away, None if it did not."""
    if isinstance(delivered, Exception):
        return str(delivered) if isinstance(delivered, Unreachable) else None
    return next((result.reply for result in delivered.values() if result.lost), None)


def _note(errand: _Errand, delivered: Delivered) -> None:
    if isinstance(delivered, ClaimLost):
        errand.outcome = Retry(str(delivered), after=CLAIMED_ELSEWHERE)
    elif isinstance(delivered, Unreachable):
        errand.outcome = Retry(str(delivered))
    elif isinstance(delivered, Exception):
        errand.outcome = delivered
    else:
        errand.receipts = {r: x.reply for r, x in delivered.items() if x.verdict == "delivered"}
        errand.outcome = outcome_of(errand.envelope.payload, delivered)
