"""The embedded broker: the queues of one machine in one SQLite file, without a server.

It keeps the promises of the Broker protocol as RabbitMQ does, and shares one contract suite with
it: sends are durable before the delivery is forgotten, both in one transaction; what is handed out
is invisible to others; what a killed process had is handed out again, at once. Several processes
may open one file, on one machine.

This module is the event loop's side. All work on the file is done by one thread, which gets what
was asked for in one pass of the loop together (see ``worker``).

Known limits: not over NFS, where neither WAL nor locks hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from shared.broker import Delivery, Send
from shared.broker.embedded.jobs import (
    AskDrained,
    Cancel,
    Consumer,
    Count,
    Job,
    JobResults,
    Lease,
    Stop,
    Subscribe,
    Transfer,
    TransferPart,
)
from shared.broker.embedded.statements import row
from shared.broker.embedded.worker import Worker
from shared.clock import Clock, SystemClock
from shared.errors import BrokerUnavailable, DeliveryLost, Refused
from shared.queues import Tier, plan


class EmbeddedBroker:
    """A Broker over a SQLite file.

    It belongs to the event loop in which it is opened. After a BrokerUnavailable it goes on as
    before: deliveries that were not settled are still held, and can be settled again.

    Args:
        path: the queue file; it is made if it is missing, with its directory.
        tiers: the retry tiers; the topology is declared when the file is opened.
        name: who opens it, for whoever looks into the file.
        clock: the time, for the retry tiers.
        patience: seconds to wait for another process's transaction before an operation fails.
        lacking: whether room on the disk is short, so that none may lie idle in the file.
        scarce: whether there is so little that only what makes room may be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        tiers: Sequence[Tier],
        name: str,
        clock: Clock | None = None,
        patience: float = 5.0,
        lacking: Callable[[], bool] = lambda: False,
        scarce: Callable[[], bool] = lambda: False,
    ) -> None:
        self._path = path.resolve()  # the locks lie beside the file itself
        self._queues = plan(tiers)
        self._name = name
        self._clock = clock or SystemClock()
        self._patience = patience
        self._lacking = lacking
        self._scarce = scarce
        self._worker: Worker | None = None
        self._consumers: set[Consumer] = set()
        self._waiting: list[Job] = []

    async def open(self) -> None:
        """See ``Broker.open``.

        Raises:
            ConfigError: the file can never be used: not writable, not ours, of a newer version.
        """
        loop = asyncio.get_running_loop()

        def post(results: JobResults) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._take, results)

        worker = Worker(
            self._path,
            self._queues,
            self._name,
            self._clock,
            self._patience,
            post,
            self._lacking,
            self._scarce,
        )
        opened = loop.create_future()
        worker.start(opened)
        try:
            await opened
        except asyncio.CancelledError:
            worker.halt()
            worker.submit([Stop(loop.create_future())])
            raise
        self._worker = worker

    async def close(self) -> None:
        """See ``Broker.close``."""
        worker = self._worker
        if worker is None:
            return
        for consumer in self._consumers:
            consumer.ended = True
            consumer.wake.set()
        done = asyncio.get_running_loop().create_future()
        self._submit(Stop(done))
        self._worker = None
        worker.submit(self._take_jobs())
        with suppress(BrokerUnavailable):  # then the others see by the lock that we are gone
            await done

    async def consume(self, queue: str, prefetch: int) -> AsyncGenerator[Sequence[Delivery], None]:
        """See ``Broker.consume``; it ends when the broker is closed, too.

        Raises:
            BrokerUnavailable: the broker is not open.
        """
        consumer = Consumer(queue, prefetch)
        self._submit(Subscribe(consumer))
        self._consumers.add(consumer)
        try:
            while True:
                await consumer.wake.wait()
                if consumer.ended:
                    return
                consumer.wake.clear()
                if consumer.buffer:
                    arrived, consumer.buffer = consumer.buffer, []
                    yield _mark_yielded(arrived)
        finally:
            self._consumers.discard(consumer)
            if not consumer.ended:
                with suppress(BrokerUnavailable):  # the worker gives them back when it can
                    await self._cancel(consumer)

    async def settle(self, delivery: Delivery, *sends: Send) -> None:
        """See ``Broker.settle``; all is one transaction.

        Raises:
            BrokerUnavailable: the file could not be written; the delivery is still ours.
        """
        (error,) = await self.settle_all([(delivery, sends)])
        if error is not None:
            raise error

    async def settle_all(
        self, settlements: Sequence[tuple[Delivery, Sequence[Send]]]
    ) -> list[Exception | None]:
        """See ``Broker.settle_all``."""
        parts = [self._part(delivery, sends) for delivery, sends in settlements]
        asked = [part for part in parts if isinstance(part, TransferPart)]
        answers = iter(await self._transfer(asked))
        return [next(answers) if isinstance(part, TransferPart) else part for part in parts]

    def _part(self, delivery: Delivery, sends: Sequence[Send]) -> TransferPart | Exception:
        if not isinstance(delivery.tag, Lease) or self._worker is None:
            return DeliveryLost("the delivery is another broker's, or was given back at the close")
        try:
            return TransferPart([row(send) for send in sends], delivery.tag)
        except Refused as error:
            return error

    async def _transfer(self, parts: Sequence[TransferPart]) -> Sequence[Exception | None]:
        """Have many parts done for one job, and one future to wait for."""
        if not parts:
            return ()
        done: asyncio.Future[list[Exception | None]] = asyncio.get_running_loop().create_future()
        try:
            self._submit(Transfer(parts, done))
            return await done
        except BrokerUnavailable as error:
            return [error] * len(parts)

    async def publish(self, *sends: Send) -> None:
        """See ``Broker.publish``; all of the sends are taken, or none."""
        (error,) = await self._transfer([TransferPart([row(send) for send in sends], None)])
        if error is not None:
            raise error

    async def depths(self, queues: Iterable[str]) -> Mapping[str, int]:
        """See ``Broker.depths``."""
        done: asyncio.Future[Mapping[str, int]] = asyncio.get_running_loop().create_future()
        self._submit(Count(tuple(queues), done))
        return await done

    async def drained(self, queues: Iterable[str]) -> bool:
        """See ``Broker.drained``; a message goes on in one transaction, so none is in between."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._submit(AskDrained(tuple(queues), done))
        return await done

    @property
    def strays(self) -> Mapping[str, int]:
        """How many messages were in each queue that the topology does not name, at the opening."""
        return {} if self._worker is None else self._worker.strays

    @property
    def connected(self) -> bool:
        """See ``Broker.connected``."""
        return self._worker is not None and self._worker.trouble is None

    @property
    def blocked(self) -> str | None:
        """Why the file takes no messages just now (disk full, locked), or None."""
        return None if self._worker is None else self._worker.trouble

    @property
    def unsubscribed(self) -> Sequence[str]:
        """No queue: to consume one is to be in a list of this process."""
        return ()

    @property
    def unroutable(self) -> Sequence[str]:
        """The queues to which nothing leads: none, all lead to their file."""
        return ()

    @property
    def unconfirmed(self) -> float:
        """Zero: what the file does not accept is reported by ``blocked``."""
        return 0.0

    @property
    def damage(self) -> str | None:
        """Why the file will not be used again by itself (it is damaged, or was made unusable)."""
        return None if self._worker is None else self._worker.damage

    async def _cancel(self, consumer: Consumer) -> None:
        done = asyncio.get_running_loop().create_future()
        self._submit(Cancel(consumer, done))
        await done

    def _submit(self, job: Job) -> None:
        if self._worker is None:
            raise BrokerUnavailable(f"{self._path}: the broker is not open")
        self._waiting.append(job)
        if len(self._waiting) == 1:
            # Not at once: what else is ready in this pass of the loop goes along.
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        if self._waiting and self._worker is not None:
            self._worker.submit(self._take_jobs())

    def _take_jobs(self) -> list[Job]:
        jobs, self._waiting = self._waiting, []
        return jobs

    def _take(self, results: JobResults) -> None:
        for future, answer in results.answers:
            if future.done():  # its caller was cancelled
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        if results.evicted:
            for consumer in self._consumers:
                consumer.buffer.clear()
        for consumer, deliveries in results.leased:
            consumer.buffer.extend(deliveries)
            consumer.wake.set()


def _mark_yielded(deliveries: list[Delivery]) -> list[Delivery]:
    for delivery in deliveries:
        if isinstance(delivery.tag, Lease):
            delivery.tag.yielded = True
    return deliveries
