"""Settles what was handled: makes durable what follows, tells of it, and lets the delivery go.

How that fits in stands in ``shared.runner``. It trusts the broker to say what has become of each
settlement. What it does not take, it is offered again for as long as the delivery is ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeAlias

from shared.backoff import Backoff
from shared.broker import HANDED_OUT, Broker, Delivery, Send
from shared.clock import Clock
from shared.errors import BrokerUnavailable, DeliveryLost, Refused, SpoolMissing, SpoolUnavailable
from shared.failpoint import reach_all
from shared.log import MailLog
from shared.retry_memory import RetryMemory
from shared.stage import HandledDelivery
from shared.trial import hand_outs

TOGETHER: Final = 128
"""Settlements that wait for each other, at the most."""

LINGER: Final = 0.01
"""Seconds for which a settlement waits for others, at the most, where a stage does I/O. What was
done is recorded by then, and nobody waits for it. Without, each message that a server answers for
has a commit, or an answer of the broker, of its own."""

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
"""Seconds between two tries to settle, while the broker will not: doubled each time, up to this."""

Work: TypeAlias = Coroutine[Any, Any, None]


class BlobKeeper(Protocol):
    """What the runner needs of the spool."""

    async def copy(self, key: str, new_key: str) -> None:
        """Copy a blob, durably."""

    async def delete(self, key: str) -> None:
        """Delete a blob; no error where there is none."""


class Settler:
    """Settles the deliveries of one stage.

    Args:
        stage: its name.
        broker: where its deliveries came from.
        blobs: the spool, for copies and for deleting what nobody refers to any more.
        retry: returns a case in which all of a message is tried again, for a reason.
        spawn: starts a task that the end of the stage waits for.
        log: told of everything that happens to mail.
        clock: the time.
        tried: is told what was refused, in a run that tries nothing twice.

    Attributes:
        let_go: how many deliveries were settled, or lost.
        returns_at: when the last of those comes back that wait for room (seconds since 1970, UTC).
    """

    def __init__(
        self,
        stage: str,
        broker: Broker,
        blobs: BlobKeeper,
        retry: Callable[[HandledDelivery, str], HandledDelivery],
        spawn: Callable[[Work], object],
        log: MailLog,
        clock: Clock,
        tried: RetryMemory | None,
    ) -> None:
        self._stage = stage
        self._broker = broker
        self._blobs = blobs
        self._retry = retry
        self._spawn = spawn
        self._log = log
        self._clock = clock
        self._tried = tried
        self._done: list[HandledDelivery] = []
        self.let_go = 0
        self.returns_at = 0.0

    @property
    def waiting(self) -> bool:
        """Whether anything waits to be settled with others."""
        return bool(self._done)

    def settle_soon(self, case: HandledDelivery) -> None:
        """Settle together with what else is done in these moments."""
        if not self._done:
            asyncio.get_running_loop().call_later(LINGER, self.settle_done)
        self._done.append(case)
        if len(self._done) >= TOGETHER:
            self.settle_done()

    def settle_done(self) -> None:
        """Settle now what waits for others."""
        if self._done:
            self._spawn(self.settle_all(self._done))
            self._done = []  # not before: what nobody settles stays in hand

    async def settle_all(self, handled: Sequence[HandledDelivery]) -> None:
        """Settle what is done; for what is not taken with the rest, tasks are begun."""
        reach_all([self._stage] * len(handled), "before-publish")
        simple = [case for case in handled if case.simple]
        answers = await self._broker.settle_all([(c.delivery, _sends(c)) for c in simple])
        for case, error in zip(simple, answers, strict=True):
            if error is None:
                await self._note_settled(case)
            else:
                self._spawn(self._settle(case))
        for case in handled:
            if not case.simple:
                self._spawn(self._settle(case))

    async def _copy_blobs(self, case: HandledDelivery) -> HandledDelivery:
        """Copy blobs, so that each envelope owns its own; where that fails, retry all of it."""
        try:
            for key, new_key in case.settlement.copies:
                await self._blobs.copy(key, new_key)
        except (SpoolUnavailable, SpoolMissing) as error:
            self._log.spool_failed(error, case.account, case.id)
            return self._retry(case, str(error))
        return case

    async def _settle(self, case: HandledDelivery) -> None:
        if case.settlement.after:
            await self._clock.sleep(case.settlement.after)
        case = await self._copy_blobs(case)
        try:
            await self._insist(case.delivery, _sends(case))
        except DeliveryLost as error:
            self._log.trouble("not settled; it will be redelivered", id=case.id, why=error)
            self.let_go += 1
            return
        await self._note_settled(case)

    async def put_back(self, left: Sequence[tuple[Delivery, Send]]) -> None:
        """Let what was refused in this run, or cannot be tried now, wait on as it is."""
        answers = await self._broker.settle_all([(delivery, [send]) for delivery, send in left])
        for (delivery, send), error in zip(left, answers, strict=True):
            if error is not None:
                with suppress(DeliveryLost):
                    await self._insist(delivery, [send])

    async def _note_settled(self, case: HandledDelivery) -> None:
        now = self._clock.now()
        case.log_events(self._log, now)
        if self._tried is not None:
            self._tried.note(case)
        if case.back_in:
            self.returns_at = max(self.returns_at, now + case.back_in)
        if case.settlement.release is not None:
            await self._release(case.settlement.release)
        self.let_go += 1

    async def _insist(self, delivery: Delivery, sends: Sequence[Send]) -> None:
        """Settle; while the broker will not, hold the delivery: that is the back-pressure."""
        backoff = Backoff(self._clock, FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            try:
                return await self._broker.settle(delivery, *sends)
            except DeliveryLost:
                raise
            except (Refused, BrokerUnavailable) as error:
                self._log.trouble("settling failed; it is retried", why=error)
                await backoff.pause()

    async def _release(self, key: str) -> None:
        try:
            await self._blobs.delete(key)
        except SpoolUnavailable as error:
            self._log.trouble("a blob stays in the spool until it is swept", key=key, why=error)


def _sends(case: HandledDelivery) -> list[Send]:
    """Return what is to be durable; what waits for another try stays a suspect meanwhile.

    It may not have been handled at all, as the claim of a process that crashed with it still runs.
    """
    if not hand_outs(case.delivery):
        return case.sends
    again = ("retrying", "waiting")
    return [
        step.send._replace(headers={**step.send.headers, HANDED_OUT: hand_outs(case.delivery)})
        if step.event in again
        else step.send
        for step in case.settlement.steps
        if step.send is not None
    ]
