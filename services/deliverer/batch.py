"""A batch: messages on their way to one destination together, each an attempt of its own.

Plain bookkeeping between the story of a delivery and a courier. What a courier reports is noted at
once, so that a delivery is known whatever happens to its batch after that. What the results for
each recipient mean for the message as a whole is found out here too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from services.deliverer.breaker import Permit
from services.deliverer.courier import ClaimLost, CourierResult, PutAside, Result, same_for_all
from shared.errors import Unreachable
from shared.ledger import Claim, DeliveryKey
from shared.log import printable
from shared.message import Addressed, Envelope
from shared.outcome import Busy, DeadLetter, Done, Outcome, Retry, Split, Verdict

CLAIMED_ELSEWHERE: Final = 10.0
"""Seconds after which to ask again for a message that another process has in hand."""

NOBODY: Final = (
    "the message has no recipient: give its account a mailbox, or a rule that directs it to one,"
    " and requeue it"
)

_UNTOLD: Final = RuntimeError("the courier told nothing of this message")


@dataclass(slots=True, eq=False)
class Attempt:
    """A message that we have claimed, on its way.

    Attributes:
        index: that of its message among those it came with.
        waiting: the recipients that do not have it yet.
        permit: the breaker's leave to try the destination, while that is under way.
        outcome: what became of it, or what kept it from that, once that is known.
        receipts: what the far end said, by recipient that has it now.
    """

    index: int
    envelope: Envelope[Addressed]
    delivery: DeliveryKey
    claim: Claim
    waiting: Sequence[str]
    permit: Permit | None = None
    outcome: Outcome | Exception = _UNTOLD
    receipts: Mapping[str, str] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Whether it is known what became of it."""
        return self.outcome is not _UNTOLD

    @property
    def keeps_mark(self) -> bool:
        """Whether a try of a dead process is still in doubt, and no try was counted since."""
        uncounted = isinstance(self.outcome, Busy | Exception)
        return self.claim.replay and uncounted and not self.receipts

    def note(self, delivered: CourierResult) -> None:
        """Note what a courier reports."""
        if isinstance(delivered, Unreachable):
            self._end_permit(str(delivered))
            self.outcome = Retry(str(delivered))
        elif isinstance(delivered, PutAside):
            self.abandon()
            self.outcome = Busy(str(delivered), delivered.after)
        elif isinstance(delivered, Exception):
            self.abandon()
            lost = isinstance(delivered, ClaimLost)
            self.outcome = Retry(str(delivered), CLAIMED_ELSEWHERE) if lost else delivered
        else:
            if len(delivered) < len(self.waiting):
                untold = [r for r in self.waiting if r not in delivered]
                delivered = {**same_for_all(untold, Result("temporary", str(_UNTOLD))), **delivered}
            self._end_permit(next((x.reply for x in delivered.values() if x.lost), None))
            self.receipts = {r: x.reply for r, x in delivered.items() if x.verdict == "delivered"}
            self.outcome = _outcome_of(self.envelope.payload, delivered)

    def _end_permit(self, down: str | None) -> None:
        if self.permit is not None:
            self.permit.end(down)
            self.permit = None

    def abandon(self) -> None:
        """Note that it was given up, which says nothing about the destination."""
        if self.permit is not None:
            self.permit.abandon()
            self.permit = None


def attempt_for(
    index: int, envelope: Envelope[Addressed], delivery: DeliveryKey, claim: Claim
) -> Attempt:
    """Return the attempt to deliver a message to those of its recipients who do not have it yet."""
    waiting = list(dict.fromkeys(envelope.payload.recipients))
    if claim.delivered:
        waiting = [recipient for recipient in waiting if recipient not in claim.delivered]
    made = Attempt(index, envelope, delivery, claim, waiting)
    if not envelope.payload.recipients:
        made.outcome = DeadLetter(NOBODY)
    elif not waiting:
        made.outcome = Done("had been delivered before", event="suppressed")
    return made


class Batch:
    """Attempts under way.

    Attributes:
        open: those that ``wait_known`` has not returned yet.
    """

    def __init__(self, attempts: Collection[Attempt]) -> None:
        self.open = set(attempts)
        self._known = [attempt for attempt in attempts if attempt.known]
        self._news = asyncio.Event()

    def note(self, attempt: Attempt, delivered: CourierResult) -> None:
        """Note what a courier reports."""
        attempt.note(delivered)
        self._known.append(attempt)
        self._news.set()

    def note_courier_ended(self, courier: asyncio.Task[None]) -> None:
        """Note that nothing more will be reported: what nothing is known of yet, fails.

        Args:
            courier: what the courier was asked to do; it is done.
        """
        error = None if courier.cancelled() else courier.exception()
        for attempt in self.open:
            if not attempt.known:
                attempt.abandon()
                attempt.outcome = error if isinstance(error, Exception) else _UNTOLD
                self._known.append(attempt)
        self._news.set()

    async def wait_known(self) -> Sequence[Attempt]:
        """Return the attempts of which the outcome has become known."""
        while not self._known:
            self._news.clear()
            await self._news.wait()
        known, self._known = self._known, []
        self.open.difference_update(known)
        return known


def _outcome_of(mail: Addressed, results: Mapping[str, Result]) -> Outcome:
    """Return what the results for each recipient mean for the message.

    Recipients of ``mail`` without a result had the message before, and need nothing more.
    """
    if {result.verdict for result in results.values()} == {"delivered"}:
        return Done(_reason(results))
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
    replies = {result.reply for result in results.values()}
    if len(replies) == 1:
        return replies.pop()
    about: dict[str, list[str]] = {}
    for recipient, result in results.items():
        about.setdefault(result.reply, []).append(printable(recipient))
    return "; ".join(f"{', '.join(names)}: {reply}" for reply, names in about.items())
