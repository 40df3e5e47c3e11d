"""The one loop: consume, handle, make durable what follows, and only then let the broker forget.

It trusts no handler, and knows the Broker protocol but no implementation of it. Deliveries that
arrive together are handled together: all of them where a stage only computes, those of one lane
where it does I/O. There each is settled when it is answered for, with what else is at that moment.
What may be a message that kills its process is handled alone.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final, Protocol, TypeAlias

from shared.broker import Broker, Delivery, Send
from shared.clock import Clock
from shared.errors import BrokerUnavailable, DeliveryLost, Refused, SpoolMissing, SpoolUnavailable
from shared.faultpoint import reach_all
from shared.log import MailLog
from shared.queues import DELIVERY_LIMIT, RETRIED
from shared.settlement import RetryPolicy
from shared.stage import Case, Handling, Opened, Stage
from shared.tried import Tried

SUSPECT: Final = 2
"""Hand-outs without a settlement after which a message may be what crashes its process."""

ALONE: Final = 1.0
"""Seconds that a suspect is handled alone, at the most. What crashes its process does so when it is
handled; one that has not by then waits for a server, and is not waited for."""

VERGE: Final = DELIVERY_LIMIT // 2
LAST_CHANCE: Final = 60.0
"""Hand-outs after which a suspect is on its way to quarantine, and seconds that it is handled alone
then. Until that many, others that wait for a slow server die with the culprit; with so much time to
itself, and after all others, a sound message is delivered and gone."""

FAREWELL: Final = 0.02
"""Seconds between two messages of which one may be what crashes its process. A settlement is on its
way to the broker then, and not lost with the process: or the same neighbour would be there again
each time, and be taken for the culprit as well."""

HEAD_START: Final = 1.0
"""Seconds, at the most, by which suspects are held back. The wait is a random one: of the stages in
one process, the one with the culprit must not always be the first, or the others get nowhere."""


TOGETHER: Final = 128
"""Deliveries that are handled together at the most: while these wait for the disk, others are
computed."""

LINGER: Final = 0.01
"""Seconds for which a settlement waits for others, at the most, where a stage does I/O. What was
done is recorded by then, and nobody waits for it. A commit, or an answer of the broker, for each
message was a quarter of what it cost to deliver it to a server."""

Work: TypeAlias = Coroutine[Any, Any, None]


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
        tried: remembers what was refused, in a run that tries nothing twice.
    """

    def __init__(
        self,
        stage: Stage,
        broker: Broker,
        policy: RetryPolicy,
        log: MailLog,
        clock: Clock,
        blobs: Blobs,
        tried: Tried | None = None,
    ) -> None:
        self._stage = stage
        # A poll job is the name of an account. It was handed out again as the broker was away, or
        # its fetcher died, and in a line of suspects accounts would wait for each other.
        self._is_mail = stage.inbox in RETRIED
        self._broker = broker
        self._log = log
        self._clock = clock
        self._blobs = blobs
        self.tried = tried
        self._handling = Handling(stage, policy, log, clock)
        self._tasks: set[asyncio.Task[None]] = set()
        self._done: list[Case] = []
        self._suspects: list[Delivery] = []
        self._inspector: asyncio.Task[None] | None = None
        self.taken = 0
        """How many deliveries were taken in hand since the start; grows while anything moves.
        What is only put back, as it was tried in this run, does not count."""
        self.returns_at = 0.0
        """When the last of those comes back that wait for room (seconds since 1970, UTC)."""
        self._let_go = 0
        self._broken: BaseException | None = None
        self._ending = asyncio.Event()

    @property
    def inbox(self) -> str:
        """The queue that its stage consumes."""
        return self._stage.inbox

    @property
    def in_hand(self) -> int:
        """How many deliveries were taken and are not settled yet."""
        return self.taken - self._let_go

    async def run(self, stop: asyncio.Event, grace: float = 30.0) -> None:
        """Consume until ``stop`` is set, then finish what is in hand and return.

        Args:
            stop: set by whoever wants the stage to end.
            grace: seconds that what is in hand may take then; after that it is left to the broker,
                which hands it out again.

        Raises:
            Exception: something went wrong that must not, and what is in hand would stay there.
        """
        consuming = asyncio.create_task(self._consume())
        ends = [asyncio.create_task(event.wait()) for event in (stop, self._ending)]
        await asyncio.wait({consuming, *ends}, return_when=asyncio.FIRST_COMPLETED)
        end = asyncio.get_running_loop().time() + grace
        for task in (*ends, consuming):
            task.cancel()
        try:
            with suppress(asyncio.CancelledError):
                await consuming
        finally:
            await self._finish(end)
        if self._broken is not None:
            raise self._broken

    async def _consume(self) -> None:
        stage = self._stage
        async with aclosing(self._broker.consume(stage.inbox, stage.concurrency)) as deliveries:
            async for several in deliveries:
                self.taken += len(several)
                self._take(several)

    def _take(self, deliveries: Sequence[Delivery]) -> None:
        """Take in hand what came together."""
        ready = list[Delivery]()
        for delivery in deliveries:
            if self._is_mail and (delivery.redeliveries >= SUSPECT or self._resembles(delivery)):
                self._suspect(delivery)
            else:
                ready.append(delivery)
        for work in self._works(ready):
            self._start(work)

    def _works(self, deliveries: Sequence[Delivery]) -> Iterator[Work]:
        """Yield what is to be done with deliveries."""
        found: Sequence[Case | Opened]
        found = [self._handling.open(delivery) for delivery in deliveries]
        if self.tried is not None:
            found, left = self.tried.apart(found)
            if left:
                self.taken -= len(left)
                yield self._put_back(left)
        unreadable = [case for case in found if isinstance(case, Case)]
        if unreadable:
            yield self._settle_all(unreadable)
        for lane in self._handling.lanes([one for one in found if isinstance(one, Opened)]):
            for start in range(0, len(lane), TOGETHER):
                yield self._handle(lane[start : start + TOGETHER])

    def _start(self, work: Work) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._broken = self._broken or task.exception()
            self._ending.set()

    def _resembles(self, delivery: Delivery) -> bool:
        """Return whether it is a copy of a suspect: fetched anew, as its fetcher died with it."""
        return any(delivery.message_id == other.message_id for other in self._suspects)

    def _suspect(self, delivery: Delivery) -> None:
        # A message that crashes its process takes its neighbours' delivery counts up with its own.
        # Handled alone and in random order, the neighbours get away before the limit is reached.
        self._suspects.append(delivery)
        if self._inspector is None or self._inspector.done():
            self._inspector = asyncio.create_task(self._inspect())
            self._inspector.add_done_callback(self._ended)

    async def _inspect(self) -> None:
        await self._clock.sleep(random.uniform(0.0, HEAD_START))  # noqa: S311
        while self._suspects:
            delivery = self._next_suspect()
            alone = LAST_CHANCE if delivery.redeliveries >= VERGE else ALONE
            for work in self._works([delivery]):
                await self._watched(self._start(work), alone)
            self._settle_done()
            await self._clock.sleep(FAREWELL)

    def _next_suspect(self) -> Delivery:
        """Take one by chance; those that are on the verge of quarantine come last."""
        early = [n for n, one in enumerate(self._suspects) if one.redeliveries < VERGE]
        among = early or range(len(self._suspects))
        return self._suspects.pop(among[random.randrange(len(among))])  # noqa: S311

    async def _watched(self, task: asyncio.Task[None], alone: float) -> None:
        """Return when a suspect is done with, or has lived for so long that it will live on."""
        enough = asyncio.create_task(self._clock.sleep(alone))
        try:
            await asyncio.wait({task, enough}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            enough.cancel()

    async def _finish(self, end: float) -> None:
        """Settle what is in hand, until this moment of the event loop's clock at the latest."""
        if self._inspector is not None:
            self._inspector.cancel()
        clock = asyncio.get_running_loop().time
        # One that settles many begins others for those that could not be settled with the rest.
        while (self._tasks or self._done) and clock() < end:
            self._settle_done()
            await asyncio.wait(set(self._tasks), timeout=end - clock())
        late = set(self._tasks)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
            self._log.trouble("stopped with messages in hand", left_to_the_broker=self.in_hand)

    async def _handle(self, lane: list[Opened]) -> None:
        if self._stage.prompt:
            cases: list[Case] = []
            await self._handling.handle(lane, cases.append)
            await self._settle_all(cases)
            return
        await self._handling.handle(lane, self._settle_soon)

    def _settle_soon(self, case: Case) -> None:
        """Settle together with what else is done in these moments."""
        if not self._done:
            asyncio.get_running_loop().call_later(LINGER, self._settle_done)
        self._done.append(case)
        if len(self._done) >= TOGETHER:
            self._settle_done()

    def _settle_done(self) -> None:
        done, self._done = self._done, []
        if done:
            self._start(self._settle_all(done))

    async def _settle_all(self, cases: Sequence[Case]) -> None:
        reach_all([self._stage.name] * len(cases), "before-publish")
        simple = [case for case in cases if case.simple]
        answers = await self._broker.settle_all([(c.delivery, c.sends) for c in simple])
        for case, error in zip(simple, answers, strict=True):
            if error is None:
                await self._settled(case)
            else:
                self._start(self._settle(case))
        for case in cases:
            if not case.simple:
                self._start(self._settle(case))

    async def _copied(self, case: Case) -> Case:
        """Copy blobs, so that each envelope owns its own; where that fails, retry all of it."""
        try:
            for key, new_key in case.follows.copies:
                await self._blobs.copy(key, new_key)
        except (SpoolUnavailable, SpoolMissing) as error:
            self._log.spool_failed(error, case.account, case.id)
            return self._handling.retried(case, str(error))
        return case

    async def _settle(self, case: Case) -> None:
        if case.follows.after:
            await self._clock.sleep(case.follows.after)
        case = await self._copied(case)
        try:
            await self._insist(case.delivery, case.sends)
        except DeliveryLost as error:
            self._log.trouble("not settled; it will be handed out again", id=case.id, why=error)
            self._let_go += 1
            return
        await self._settled(case)

    async def _put_back(self, left: Sequence[tuple[Delivery, Send]]) -> None:
        """Let what was refused in this run wait on, as it is."""
        answers = await self._broker.settle_all([(delivery, [send]) for delivery, send in left])
        for (delivery, send), error in zip(left, answers, strict=True):
            if error is not None:
                with suppress(DeliveryLost):
                    await self._insist(delivery, [send])

    async def _settled(self, case: Case) -> None:
        now = self._clock.now()
        case.tell(self._log, now)
        if self.tried is not None:
            self.tried.note(case)
        if case.back_in:
            self.returns_at = max(self.returns_at, now + case.back_in)
        if case.follows.release is not None:
            await self._release(case.follows.release)
        self._let_go += 1

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
