"""A house of several fetchers over one state database and one queue file, in simulated time."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from services.fetcher.account import Account, first_polls
from services.fetcher.fetch import CONCURRENCY, Fetcher
from services.fetcher.interfaces import FetcherContext
from services.fetcher.schedule import Scheduler
from shared.broker import Delivery
from shared.broker.embedded.broker import EmbeddedBroker
from shared.clock import Clock
from shared.log import MailLog
from shared.message import Poll
from shared.queue_publisher import QueuePublisher
from shared.queues import INCOMING, POLL, Tier
from shared.runner import Runner
from shared.settlement import RetryPolicy
from shared.spool import Spool
from shared.stage import Stage
from shared.state import State
from tests.simulation.loop import Process

TIERS = (Tier("30s", 30),)
OWNER = "machine-{0}/place-{0}:1:1:0"
"""Of another machine each: that it was killed is not seen there, its leases have to expire."""


class House:
    """What the fetchers share, and what is known of them.

    Attributes:
        due: when each account is due next, by the fetcher that polled it last (since 1970).
        came: how often each message came, by its id.
        counts: what happened to mail.
        said: how often each thing was said.
        states: of the fetchers.
    """

    def __init__(
        self, folder: Path, accounts: Mapping[str, Account], clock: Clock, connections: int = 8
    ) -> None:
        self.folder = folder
        self.accounts = accounts
        self.clock = clock
        self.connections = connections
        self.due: dict[str, float] = {}
        self.came: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.said: Counter[str] = Counter()
        self.states: dict[Process, State] = {}
        self.taking = Process("parser")

    def broker(self, name: str) -> EmbeddedBroker:
        return EmbeddedBroker(self.folder / "queue.db", tiers=TIERS, name=name, clock=self.clock)

    async def state(self, name: str) -> State:
        url = f"sqlite:///{self.folder / 'state.db'}"
        return await State.open(url, owner=OWNER.format(name), clock=self.clock)

    def start(self, name: str) -> Process:
        """Start another fetcher."""
        process = Process(name)
        process.start(self._run(process))
        return process

    def leased_by(self, account: str) -> list[Process]:
        """Return which living fetchers take the lease on an account for theirs."""
        return [
            process
            for process, state in self.states.items()
            if process.alive and f"account:{account}" in state._leases._names
        ]

    def end(self) -> None:
        """Kill all."""
        for process in (*self.states, self.taking):
            if process.alive:
                process.kill()

    async def _run(self, process: Process) -> None:
        state, broker = await self.state(process.name), self.broker(process.name)
        self.states[process] = state
        process.killed.append(state._database.close)
        await broker.open()
        log, spool = _Counts(self.counts, self.said), Spool(str(self.folder / "spool"))
        context = FetcherContext(
            state,
            _Watched(state, self.due),
            QueuePublisher(broker, INCOMING),
            spool,
            131_072,
            log,
            self.clock,
        )
        fetcher = Fetcher(self.accounts, context, self.connections)

        async def waiting() -> int:
            return (await broker.depths([POLL]))[POLL]

        first = first_polls(self.accounts.values())
        schedule = Scheduler(
            list(self.accounts),
            state,
            QueuePublisher(broker, POLL),
            waiting,
            log,
            self.clock,
            blocked=lambda: broker.blocked,
            first=first,
        )
        stage = Stage("fetcher", POLL, Poll, None, fetcher.handle, CONCURRENCY)
        runner = Runner(stage, broker, RetryPolicy(TIERS, 86_400.0), log, self.clock, spool)
        stop = asyncio.Event()
        await asyncio.gather(runner.run(stop), schedule.run(stop))

    def take_in(self) -> None:
        """Take what comes into the inbox of the parser from now on."""
        self.taking.start(self._take_in())

    async def _take_in(self) -> None:
        broker = self.broker("parser")
        await broker.open()
        async for deliveries in broker.consume(INCOMING, 512):
            self.came.update(delivery.message_id for delivery in deliveries)
            nothing: list[tuple[Delivery, Sequence[Any]]] = [(d, ()) for d in deliveries]
            await broker.settle_all(nothing)


class _Counts(MailLog):
    """Counts what is said, and says nothing."""

    def __init__(self, counts: Counter[str], said: Counter[str]) -> None:
        super().__init__("fetcher", counts)
        self._said = said

    def _say(self, level: int, event: str, /, **about: object) -> None:
        self._said[event] += 1

    _say_some = _say

    def trouble(self, what: str, /, **about: object) -> None:
        self._said[what] += 1

    def account_failed(
        self, account: str, reason: str, again_in: float, *, ours: bool = False
    ) -> None:
        self._said["account failed"] += 1


class _Watched:
    """A schedule that is looked over the shoulder."""

    def __init__(self, state: State, due: dict[str, float]) -> None:
        self._state = state
        self._due = due

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)

    async def record_poll(self, account: str, **end: Any) -> object:
        self._due[account] = end["next_poll"]
        return await self._state.record_poll(account, **end)
