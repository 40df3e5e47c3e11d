"""Keeps a channel to publish over: opened, lost and opened again, and renewed where it is stubborn.

It has a connection of its own: a broker that is short of memory or disk stops reading from
connections that publish, and acknowledgements of deliveries must not wait behind that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from shared.backoff import Backoff
from shared.broker import Send
from shared.broker.rabbitmq.channel import ChannelEnded
from shared.broker.rabbitmq.confirms import ConfirmChannel
from shared.broker.rabbitmq.connection import MailConnection
from shared.broker.rabbitmq.kept_connection import FIRST_PAUSE, KeptConnection
from shared.broker.rabbitmq.lasting_refusals import LastingRefusals, Renewed
from shared.clock import Clock
from shared.errors import BrokerUnavailable, ConfigError
from shared.log import Report
from shared.supervision import supervise

LONGEST_PAUSE: Final = 5.0

_NOT_FOUND: Final = 404


class Publisher:
    """Publishes, over one channel at a time.

    Args:
        kept: the connection for it.
        exchange: where to publish.
        report: is told of losses.
        clock: times the pauses.
    """

    def __init__(self, kept: KeptConnection, exchange: str, report: Report, clock: Clock) -> None:
        self._kept = kept
        self._exchange = exchange
        self._report = report
        self._clock = clock
        self._backoff = Backoff(clock, FIRST_PAUSE, LONGEST_PAUSE, jitter=True)
        self._channel: ConfirmChannel | None = None
        self._open: list[ConfirmChannel] = []  # those that are retired, too
        self._stubborn = LastingRefusals(clock, self._want)
        self._wanted: asyncio.Queue[Renewed] = asyncio.Queue()
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether messages can be published just now."""
        return self._channel is not None and self._channel.is_open

    @property
    def oldest(self) -> tuple[float, str] | None:
        """Since when a confirm is waited for, and of which queue; None where all are there."""
        return min((each.oldest for each in self._open if each.oldest is not None), default=None)

    @property
    def unroutable(self) -> tuple[str, ...]:
        """The queues from which messages come back just now."""
        return self._stubborn.unroutable

    async def start(self) -> None:
        """Return once messages can be published."""
        what = f"keeps a channel to publish to {self._exchange}"
        self._task = supervise(self._keep, what, self._clock)
        await self._ready.wait()

    def publish(
        self, groups: Sequence[Sequence[Send]], *, unbundled: bool = False
    ) -> asyncio.Future[list[Exception | None]]:
        """Publish each group whole, or nothing of it; see ``ConfirmChannel.publish``.

        Raises:
            BrokerUnavailable: there is no channel just now.
        """
        if self._channel is None:
            raise BrokerUnavailable("not connected to the broker just now")
        return self._channel.publish(groups, unbundled=unbundled)

    async def close(self) -> None:
        """Keep no channel open any longer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _keep(self) -> None:
        while True:
            try:
                connection = await self._kept.connection()
            except (BrokerUnavailable, ConfigError):
                return  # it is closed, or was refused: its owner has been told
            channel = await self._open_channel(connection)
            if channel is not None:
                await self._until_end(channel)
            await self._backoff.pause()

    async def _open_channel(self, connection: MailConnection) -> ConfirmChannel | None:
        channel = ConfirmChannel(self._exchange, self._stubborn, self._clock)
        try:
            await channel.open(connection)
        except ChannelEnded as error:
            channel.close()
            self._tell(error)
            return None
        self._open = [each for each in self._open if not each.ended.done()] + [channel]
        return channel

    async def _until_end(self, channel: ConfirmChannel) -> None:
        self._backoff.note_success()
        self._channel = channel
        self._ready.set()
        try:
            while (wanted := await self._wanted_of(channel)) is not None:
                channel = await self._renew(channel, wanted)
            self._tell(channel.ended.result())
        finally:
            self._channel = None
            self._ready.clear()

    async def _wanted_of(self, channel: ConfirmChannel) -> Renewed | None:
        """Return what is to be renewed; None when the channel has ended."""
        wanted = asyncio.create_task(self._wanted.get())
        either: list[asyncio.Future[Any]] = [channel.ended, wanted]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            wanted.cancel()
        return None if channel.ended.done() else wanted.result()

    async def _renew(self, channel: ConfirmChannel, wanted: Renewed) -> ConfirmChannel:
        """Return the channel to go on with: what is on its way goes over the old one to its end."""
        if wanted == "connection":
            self._kept.drop()
        elif self._kept.up and (fresh := await self._open_channel(self._kept.now())) is not None:
            channel.retire()
            self._channel = channel = fresh
        return channel

    def _want(self, wanted: Renewed, queue: str) -> None:
        self._report(f"publishes refused for a while; trying another {wanted}", queue=queue)
        self._wanted.put_nowait(wanted)

    def _tell(self, error: ChannelEnded) -> None:
        if error.code == _NOT_FOUND:
            what = "cannot publish: the topology is not declared yet"
        elif self._kept.up:
            what = "publishing channel lost"
        else:
            return
        self._report(what, exchange=self._exchange, reason=str(error))
