"""The one loop: consume, handle, make durable what follows, and only then let the broker forget.

Theory of operation
-------------------

The broker hands out deliveries, several at a time; of those that are not settled never more than
``Stage.concurrency``, but for the rest of an entry that several messages share. ``_take`` sorts
them. Each is decoded by ``StageHandler``; what cannot be decoded goes to quarantine as it is, and
what a newer version has written goes round until that takes it. The others are divided into lanes:
one for a stage that computes, and those that the stage names for one that does I/O, where a message
may also be alone. Each lane, in parts of ``TOGETHER``, is a task. The handler answers with an
outcome for each message, and ``SettlementRules`` turn that into a ``Settlement``: what is to be
sent, which blobs to copy before that and which to delete after it. A handler is not trusted: what
it raises is a Retry, of that message where the stage computes, else of all that it has not answered
for.

**What is durable when.** A handler has recorded what it has done (a UIDL, a delivery) before it
answers. Copies of blobs are durable before an envelope that names them is sent.
``Broker.settle_all`` makes the sends durable, and forgets a delivery after that. Then it is logged
and counted, and last of all the blob is deleted that nobody refers to any more. So whoever kills
this process between two of these steps causes something to be done twice, or a blob to be left
over, and nothing to be lost: the delivery is handed out again, and the ledger knows what was
delivered.

**Settling together** (``shared.settler``). A stage that computes has all of a lane settled in one
call. Where it does I/O, a settlement waits up to ``LINGER`` for others. What needs a copy or a
pause first, and what the broker did not take with the rest, is settled by itself, in a task of its
own.

**Retries** are no state of this process. A Retry is a send into a retry tier of its inbox, from
which the broker passes the message back, or into Failed Mail when it was tried for long enough. A
Busy waits in a tier as well, and no try is counted. A poll job has no tier: it is held here until
it may go back to its queue, or is dropped, and the schedule makes another one. ``RetryMemory``
keeps a run that is to end from trying the same twice.

**Suspects.** A message that was handed out ``SUSPECT`` times and never settled may be what crashes
its process: it is handled in another one (``shared.trial``), and what follows is settled here. If
no such process starts, it goes into a retry tier, and remains a suspect by its headers. After
``RENEW`` hand-outs a message is put back as a new entry, so that no broker gives it up by itself.

**Back-pressure.** What cannot be settled, as the broker refuses or is away, is tried again for as
long as the delivery is ours. It stays in hand, so nothing is handed out in its place, and sooner or
later the stage stands still. A delivery that is lost with its connection is let go: it comes again.

**The end.** When told to stop, ``run`` consumes no more, starts no further trial, and waits for
what is in hand for as long as ``grace``. What is left then is cancelled, and handed out again by
the broker. A task here that fails is a defect, and ends the stage in the same way, with its error.

It trusts no handler, and knows the Broker protocol but no implementation of it. Known limit: a
handler that computes for long holds up the event loop, and with it all else of this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import aclosing, suppress
from typing import Final

from shared.broker import HANDED_OUT, Broker, Delivery, Send
from shared.clock import Clock
from shared.errors import BrokerUnavailable, DeliveryLost, Refused
from shared.log import MailLog
from shared.queues import RETRIED, retry_queue
from shared.retry_memory import RetryMemory
from shared.settlement import RetryPolicy, Settlement
from shared.settler import BlobKeeper, Settler, Work
from shared.stage import DecodedDelivery, HandledDelivery, Stage, StageHandler
from shared.trial import Start, kept_headers
from shared.trial.suspects import Suspects

RENEW: Final = 10
"""Hand-outs after which a message is put back as a new entry, with which the broker counts anew: a
queue that an older version declared gives a message up after 20."""

PATIENCE: Final = 5.0
"""Seconds that the broker may take for that."""

TOGETHER: Final = 128
"""Deliveries that are handled together at the most: while these wait for the disk, others are
computed."""


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
        start: starts a process in which suspects are tried; None for a stage that has none, as poll
            jobs are handed out again because the broker was away.
    """

    def __init__(
        self,
        stage: Stage,
        broker: Broker,
        policy: RetryPolicy,
        log: MailLog,
        clock: Clock,
        blobs: BlobKeeper,
        tried: RetryMemory | None = None,
        start: Start | None = None,
    ) -> None:
        self._stage = stage
        self._policy = policy
        self._broker = broker
        self._log = log
        self._clock = clock
        self.tried = tried
        self._handling = StageHandler(stage, policy, log, clock)
        self._settler = Settler(
            stage.name, broker, blobs, self._handling.retry, self._start, log, clock, tried
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._suspects: Suspects | None = None
        if start is not None:
            self._suspects = Suspects(
                stage,
                start,
                self._settle_tried,
                self._postpone,
                self._start,
                self._note_end,
                clock,
                log,
            )
        self.taken = 0
        """How many deliveries were taken in hand since the start; grows while anything moves.
        What is only put back, as it was tried in this run, does not count."""
        self.put_off = 0
        """How often a suspect was put off, as no process started that would try it."""
        self._broken: BaseException | None = None
        self._ending = asyncio.Event()

    @property
    def inbox(self) -> str:
        """The queue that its stage consumes."""
        return self._stage.inbox

    @property
    def in_hand(self) -> int:
        """How many deliveries were taken and are not settled yet."""
        return self.taken - self._settler.let_go

    @property
    def returns_at(self) -> float:
        """When the last of those comes back that wait for room (seconds since 1970, UTC)."""
        return self._settler.returns_at

    @property
    def untried(self) -> float:
        """Seconds for which suspects cannot be tried, 0 while they can; from any thread."""
        return 0.0 if self._suspects is None else self._suspects.untried

    def warnings(self) -> Sequence[str]:
        """Return what somebody should look at; from any thread."""
        return () if self._suspects is None else self._suspects.warnings()

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
            if delivery.redeliveries >= RENEW:
                self._start(self._renew(delivery))
            elif not self._try_if_suspect(delivery):
                ready.append(delivery)
        for work in self._works(ready):
            self._start(work)

    def _try_if_suspect(self, delivery: Delivery) -> bool:
        """Have a message tried in another process, if it is a suspect."""
        suspects = self._suspects
        if suspects is None or not (
            delivery.redeliveries or HANDED_OUT in delivery.headers or suspects.any
        ):
            return False
        if not suspects.concerns(delivery):
            return False
        if self.tried is not None and self.tried.put_off(delivery):
            self.taken -= 1
            self._start(self._settler.put_back([(delivery, self._again_later(delivery))]))
            return True
        if self.tried is not None and self.tried.knows(delivery):
            return False  # it was read in this run, and goes back unhandled
        suspects.take(delivery)
        return True

    def _settle_tried(self, delivery: Delivery, follows: Settlement) -> None:
        """Settle what was handled in another process."""
        self._settler.settle_soon(self._handling.case(delivery, follows))

    def _postpone(self, delivery: Delivery) -> None:
        """Put off a suspect that cannot be tried: what it keeps here, sound mail would lack."""
        self.put_off += 1
        if self.tried is not None:
            self.tried.note_put_off(delivery)
        self._start(self._put_off(delivery))

    async def _put_off(self, delivery: Delivery) -> None:
        await self._settler.put_back([(delivery, self._again_later(delivery))])
        self._settler.let_go += 1

    def _again_later(self, delivery: Delivery) -> Send:
        """Return a message as it is, as a new entry that is back after the shortest time."""
        queue = retry_queue(self._stage.inbox, self._policy.pause(0.0))
        return Send(queue, delivery.body, delivery.message_id, kept_headers(delivery))

    async def _renew(self, delivery: Delivery) -> None:
        """Put a message back as a new entry, so that the broker counts anew; we do not."""
        inbox = self._stage.inbox
        waits = [retry_queue(inbox, self._policy.pause(0.0))] if inbox in RETRIED else []
        for queue in (inbox, *waits):
            again = Send(queue, delivery.body, delivery.message_id, kept_headers(delivery))
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._broker.settle(delivery, again)
            except DeliveryLost:
                pass
            except (Refused, BrokerUnavailable, TimeoutError):
                continue
            self._settler.let_go += 1
            return
        if not self._try_if_suspect(delivery):
            for work in self._works([delivery]):
                self._start(work)

    def _works(self, deliveries: Sequence[Delivery]) -> Iterator[Work]:
        """Yield what is to be done with deliveries."""
        found: Sequence[HandledDelivery | DecodedDelivery]
        found = [self._handling.decode(delivery) for delivery in deliveries]
        if self.tried is not None:
            found, left = self.tried.set_apart(found)
            if left:
                self.taken -= len(left)
                yield self._settler.put_back(left)
        unreadable = [case for case in found if isinstance(case, HandledDelivery)]
        if unreadable:
            yield self._settler.settle_all(unreadable)
        for lane in self._handling.lanes(
            [one for one in found if isinstance(one, DecodedDelivery)]
        ):
            for start in range(0, len(lane), TOGETHER):
                yield self._handle(lane[start : start + TOGETHER])

    def _start(self, work: Work) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._note_end)
        return task

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._broken = self._broken or task.exception()
            self._ending.set()

    async def _finish(self, end: float) -> None:
        """Settle what is in hand, until this moment of the event loop's clock at the latest."""
        if self._suspects is not None:
            self._settler.let_go += self._suspects.stop()
        clock = asyncio.get_running_loop().time
        # One that settles many begins others for those that could not be settled with the rest.
        while (self._tasks or self._settler.waiting) and clock() < end:
            self._settler.settle_done()
            await asyncio.wait(set(self._tasks), timeout=end - clock())
        late = set(self._tasks)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
            self._log.trouble("stopped with messages in hand", left_to_the_broker=self.in_hand)
        if self._suspects is not None:
            await self._suspects.close()

    async def _handle(self, lane: list[DecodedDelivery]) -> None:
        if self._stage.computes:
            handled: list[HandledDelivery] = []
            await self._handling.handle(lane, handled.append)
            await self._settler.settle_all(handled)
            return
        await self._handling.handle(lane, self._settler.settle_soon)
