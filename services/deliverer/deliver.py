"""The deliverer's story: a message directed to mailboxes is claimed, delivered, recorded.

At least once, and never twice where it can be avoided: the ledger says who has a message already, a
claim keeps other processes off it meanwhile, and what was delivered is recorded before the outcome
returns. It trusts the couriers to tell temporary from permanent. If the ledger is away after a
delivery, the message stays in hand until it is back: put off, it would come to another process,
which delivers it again if the claim has expired meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from services.deliverer.breaker import Breaker
from services.deliverer.courier import ClaimLost, Courier, Letter, Result
from shared.claims import Claim
from shared.clock import Clock
from shared.errors import SpoolUnavailable, StateUnavailable, Unreachable
from shared.faultpoint import reach
from shared.log import printable
from shared.message import Addressed, Envelope, Inline, Spooled
from shared.outcome import DeadLetter, Done, Outcome, Retry, Split, Verdict

CLAIMED_ELSEWHERE: Final = 10.0
"""Seconds after which to ask again for a message that another process has in hand."""


FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 5.0
"""Seconds between two tries to record a delivery."""


UNRECORDED: Final = "the ledger of deliveries is out of reach: what was delivered stays in hand"


class Report(Protocol):
    """Where trouble is told, such as ``MailLog.trouble``."""

    def __call__(self, what: str, /, **about: object) -> None:
        """Say what is wrong, and about what."""


def _silent(what: str, /, **about: object) -> None:
    """Report to nobody."""


class Deliveries(Protocol):
    """The ledger of finished deliveries. Every call may raise StateUnavailable."""

    async def claim(self, id_: str, destination: str) -> Claim | None:
        """Claim a message for this process; None where another, or another task, has it in hand."""

    async def finish(self, id_: str, destination: str, receipts: Mapping[str, str]) -> None:
        """Record these recipients as delivered and drop the claim, durably and in one step.

        Where it raises, the claim still holds.
        """

    async def unclaim(self, id_: str, destination: str) -> None:
        """Drop the claim; where it raises, the claim expires by itself."""

    def holds(self, id_: str, destination: str) -> bool:
        """Return whether the claim is ours without doubt; it may have expired unnoticed."""


class Blobs(Protocol):
    """What the deliverer needs of the spool."""

    def chunks(self, key: str) -> AsyncIterator[bytes]:
        """Yield a blob; raise SpoolMissing or SpoolUnavailable."""


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
        report: Report = _silent,
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

    async def handle(self, envelope: Envelope[Addressed]) -> Outcome:
        """Deliver a message to those of its recipients who do not have it yet.

        Raises:
            SpoolMissing: it is large, and not in the spool.
            SpoolUnavailable: it is large, and the spool cannot be read.
        """
        destination = envelope.payload.destination
        if destination not in self._couriers:
            return DeadLetter(
                f"there is no destination {destination!a}: configure [destinations.{destination}]"
                " with a url, or direct the message elsewhere, and requeue it"
            )
        away = self._away(destination)
        if away is not None:
            return away
        try:
            return await self._claimed(envelope)
        except StateUnavailable as error:
            return Retry(f"the ledger of deliveries is out of reach: {error}")

    async def close(self) -> None:
        """Let go of every destination."""
        for courier in self._couriers.values():
            await courier.close()

    def _away(self, destination: str) -> Retry | None:
        breaker = self.breakers[destination]
        seconds = breaker.remaining()
        why = f"destination {destination} is left alone for a while: {breaker.why}"
        return Retry(why, after=seconds) if seconds else None

    async def _claimed(self, envelope: Envelope[Addressed]) -> Outcome:
        key = (envelope.id, envelope.payload.destination)
        claim = await self._deliveries.claim(*key)
        if claim is None:
            return Retry("another process has this message in hand", after=CLAIMED_ELSEWHERE)
        receipts: dict[str, str] = {}
        try:
            outcome = await self._undelivered(envelope, claim, receipts)
        except BaseException:
            with suppress(StateUnavailable):  # the error in hand tells more
                await self._let_go(key, receipts)
            raise
        reach("deliverer", "before-ledger")
        await self._let_go(key, receipts)
        reach("deliverer", "after-ledger")
        return outcome

    async def _let_go(self, key: tuple[str, str], receipts: Mapping[str, str]) -> None:
        if not receipts:
            await self._deliveries.unclaim(*key)
            return None
        pause = FIRST_PAUSE
        while True:
            try:
                return await self._deliveries.finish(*key, receipts)
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

    async def _undelivered(
        self, envelope: Envelope[Addressed], claim: Claim, receipts: dict[str, str]
    ) -> Outcome:
        mail = envelope.payload
        waiting = [r for r in dict.fromkeys(mail.recipients) if r not in claim.delivered]
        if not waiting:
            return Done("had been delivered before", event="suppressed")
        away = self._away(mail.destination)  # again: others tried it while this one was claimed
        if away is not None:
            return away
        letter = self._letter(envelope.id, mail, claim.replay)
        try:
            with self.breakers[mail.destination].attempt() as attempt:
                courier = self._couriers[mail.destination]
                results = await courier.deliver(letter, mail.sender, waiting)
                attempt.down = next((r.reply for r in results.values() if r.lost), None)
        except ClaimLost as error:
            return Retry(str(error), after=CLAIMED_ELSEWHERE)
        except Unreachable as error:
            return Retry(str(error))
        receipts.update((r, x.reply) for r, x in results.items() if x.verdict == "delivered")
        return outcome_of(mail, results)

    def _letter(self, id_: str, mail: Addressed, replay: bool) -> Letter:
        raw = mail.raw
        size = len(mail.prefix) + raw.size
        held = partial(self._deliveries.holds, id_, mail.destination)
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


def outcome_of(mail: Addressed, results: Mapping[str, Result]) -> Outcome:
    """Return what the results for each recipient mean for the message.

    Recipients of ``mail`` without a result had the message before, and need nothing more.
    """
    found: list[Verdict] = []
    by_verdict = {
        verdict: {r: result for r, result in results.items() if result.verdict == verdict}
        for verdict in ("delivered", "temporary", "permanent")
    }
    if done := by_verdict["delivered"]:
        found.append(Done(_reason(done)))
    if later := by_verdict["temporary"]:
        found.append(Retry(_reason(later), payload=_only(mail, later)))
    if never := by_verdict["permanent"]:
        found.append(DeadLetter(_reason(never), payload=_only(mail, never)))
    return found[0] if len(found) == 1 else Split(tuple(found))


def _only(mail: Addressed, recipients: Iterable[str]) -> Addressed | None:
    kept = tuple(recipients)
    return None if kept == mail.recipients else replace(mail, recipients=kept)


def _reason(results: Mapping[str, Result]) -> str:
    """Return the replies as one line; where they differ, each with those whom it is about."""
    about: dict[str, list[str]] = {}
    for recipient, result in results.items():
        about.setdefault(result.reply, []).append(printable(recipient))
    if len(about) == 1:
        return next(iter(about))
    return "; ".join(f"{', '.join(names)}: {reply}" for reply, names in about.items())
