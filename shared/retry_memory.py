"""What a stage has refused in this run, for a run that tries nothing twice (``run --once``).

A message that was put into a retry tier in this run can be back before the run has ended: a tier
may be shorter than a round of tries. It is told by its id and the number of its attempt, and goes
into its tier again as it is. What had been put there before this run is not known here, and is
tried; nor is what waits for room, of which no try is counted. A suspect that could not be tried, as
no process started for it, is not tried again in this run either.

Known limits: the tier is that of the attempt, whatever hint there was the first time. A copy of a
message that has as many attempts behind it is left alone with it, for this run.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared import wire
from shared.broker import Delivery, Send
from shared.queues import retry_queue
from shared.settlement import RetryPolicy
from shared.stage import DecodedDelivery, HandledDelivery


class RetryMemory:
    """Remembers what was refused, and whether all of an inbox has been looked at since.

    Args:
        inbox: the queue that its stage consumes.
        policy: the retry schedule.
    """

    def __init__(self, inbox: str, policy: RetryPolicy) -> None:
        self._inbox = inbox
        self._policy = policy
        self._refused: set[tuple[str, int]] = set()
        self._ids: set[str] = set()
        self._put_off: set[str] = set()
        self._met: set[tuple[str, int]] = set()
        self.been_round = False
        """Whether one message has come twice since ``begin_round``. An inbox hands out in order:
        then all that lay in it at the first time has been handed out as well."""

    def begin_round(self) -> None:
        """Begin to watch for a message that comes twice."""
        self._met.clear()
        self.been_round = False

    def knows(self, delivery: Delivery) -> bool:
        """Return whether a message of this id was refused in this run."""
        return delivery.message_id in self._ids

    def note_put_off(self, delivery: Delivery) -> None:
        """Remember a suspect that could not be tried."""
        self._put_off.add(delivery.message_id)

    def put_off(self, delivery: Delivery) -> bool:
        """Return whether a message of this id is such a one; it has to be put back."""
        if delivery.message_id not in self._put_off:
            return False
        key = delivery.message_id, -1
        self.been_round = self.been_round or key in self._met
        self._met.add(key)
        return True

    def note(self, case: HandledDelivery) -> None:
        """Remember what goes into a retry tier."""
        for step in case.settlement.steps:
            if step.event == "retrying":
                self._refused.add((case.id, step.attempt))
                self._ids.add(case.id)

    def set_apart(
        self, found: Sequence[HandledDelivery | DecodedDelivery]
    ) -> tuple[Sequence[HandledDelivery | DecodedDelivery], list[tuple[Delivery, Send]]]:
        """Return what is to be handled, and what was refused in this run with where it goes."""
        if not self._refused:
            return found, []
        fresh = list[HandledDelivery | DecodedDelivery]()
        left = list[tuple[Delivery, Send]]()
        for one in found:
            key = _key(one)
            if key not in self._refused:
                fresh.append(one)
                continue
            self.been_round = self.been_round or key in self._met
            self._met.add(key)
            left.append((one.delivery, self._back(one)))
        return fresh, left

    def _back(self, one: HandledDelivery | DecodedDelivery) -> Send:
        if isinstance(one, HandledDelivery):  # of a newer version: it goes round as it is
            return one.sends[0]
        delivery, envelope = one
        queue = retry_queue(self._inbox, self._policy.tier(envelope.attempt - 1, None))
        return Send(queue, wire.encode(envelope), envelope.id, delivery.headers)


def _key(one: HandledDelivery | DecodedDelivery) -> tuple[str, int]:
    if isinstance(one, DecodedDelivery):
        return one.envelope.id, one.envelope.attempt
    (step,) = one.settlement.steps
    return (one.id, step.attempt) if step.event == "retrying" else ("", -1)
