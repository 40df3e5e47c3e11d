"""A fetcher with a real ledger, broker and spool, for the tests of polls and of the schedule."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from services.fetcher.account import MAX_SIZE, Account, Intake
from services.fetcher.fetch import ONCE, Fetcher
from services.fetcher.interfaces import FetcherContext, SessionLimits
from services.fetcher.large_listings import ListingTurns
from services.fetcher.schedule import Scheduler
from shared import wire
from shared.broker.embedded.broker import EmbeddedBroker
from shared.broker.embedded.steward import EmbeddedSteward
from shared.log import MailLog
from shared.message import Envelope, Fetched, Inline, Poll
from shared.metrics import Metrics
from shared.outcome import Outcome
from shared.queue_publisher import QueuePublisher
from shared.queues import INCOMING, POLL, Tier
from shared.spool import Spool
from shared.state import State, new_owner
from shared.timetable import Timetable
from tests.clock import ManualClock
from tests.servers.pop3 import Pop3Server
from tests.unit.fetcher.pop3_session import MAIL, login

TIERS = (Tier("30s", 30),)
NO_LIMITS = Intake()
UIDLS = [f"u{n}" for n in range(1, 201)]


@dataclass
class Desk:
    """A fetcher with all that it works with."""

    folder: Path
    broker: EmbeddedBroker
    steward: EmbeddedSteward
    state: State
    spool: Spool
    log: MailLog
    clock: ManualClock
    outcomes: list[Outcome | Exception] = field(default_factory=list)

    async def poll(
        self,
        server: Pop3Server,
        *,
        keep: float = 0.0,
        limits: SessionLimits | None = None,
        outbox: str = INCOMING,
        jobs: int = 1,
        lacking: Callable[[int], str | None] = lambda _: None,
        reason: str = "due",
        turns: ListingTurns | None = None,
        soonest: float | None = None,
        floor: float = 0.0,
        intake: Intake = NO_LIMITS,
        max_size: int = MAX_SIZE,
        timetable: Timetable | None = None,
        **changes: Any,
    ) -> Counter[str]:
        """Poll the maildrop, by so many jobs at a time; return what happened."""
        often = timetable or Timetable.always(300.0)
        there = replace(login(server), **changes)
        account = Account(
            "sales", there, often, keep, max_size, soonest=soonest, floor=floor, intake=intake
        )
        context = FetcherContext(
            self.state,
            self.state,
            QueuePublisher(self.broker, outbox),
            self.spool,
            2_000,
            self.log,
            self.clock,
            lacking,
            turns or ListingTurns(),
            limits=limits or SessionLimits(),
        )
        self.log.counts.clear()
        fetcher = Fetcher({"sales": account}, context)
        job = Envelope("poll-sales", "sales", Poll(reason), 0.0)

        def answer(_: int, outcome: Outcome | Exception) -> None:
            self.outcomes.append(outcome)

        await asyncio.gather(*(fetcher.handle([job], answer) for _ in range(jobs)))
        while fetcher._underway:  # one that has let go of its job
            await asyncio.sleep(0)
        return Counter(self.log.counts)

    async def poll_all(
        self,
        server: Pop3Server,
        names: Sequence[str],
        *,
        connections: int = 8,
        fewer: int | None = None,
        reason: str = "due",
    ) -> int:
        """Poll these accounts at the same server at once; return how many sessions it saw open."""
        accounts = {
            name: Account(name, login(server), Timetable.always(300.0), 0.0) for name in names
        }
        context = FetcherContext(
            self.state,
            self.state,
            QueuePublisher(self.broker, INCOMING),
            self.spool,
            2_000,
            self.log,
            self.clock,
        )
        await self.state.claim_due(names, hold=1_800)
        limited = {} if fewer is None else {a.server: fewer for a in accounts.values()}
        fetcher = Fetcher(accounts, context, connections, limited)
        jobs = [
            asyncio.create_task(
                fetcher.handle([Envelope(f"poll-{name}", name, Poll(reason), 0.0)], _nobody_asks)
            )
            for name in names
        ]
        most = 0
        async with asyncio.timeout(20):
            while fetcher._underway or not all(job.done() for job in jobs):
                most = max(most, server.open)
                await asyncio.sleep(0)
                if reason == ONCE and not server.open:  # it waits for its time
                    await self.clock.skip()
        return most

    def scheduler(
        self,
        *names: str,
        outbox: QueuePublisher | None = None,
        blocked: str | None = None,
        first: Mapping[str, float] | None = None,
    ) -> Scheduler:
        outbox = outbox or QueuePublisher(self.broker, POLL)
        return Scheduler(
            names,
            self.state,
            outbox,
            self.waiting,
            self.log,
            self.clock,
            blocked=lambda: blocked,
            first=first or {},
        )

    async def waiting(self) -> int:
        return (await self.broker.depths([POLL]))[POLL]

    async def due_in(self, account: str) -> float:
        """Return seconds until an account is due again."""
        return (await self.state.accounts())[account].next_poll - self.clock.now()

    def jobs(self) -> list[str]:
        return [wire.decode(m.body, Poll).account for m in self.steward.browse(POLL)]

    def incoming(self) -> list[Envelope[Fetched]]:
        return [wire.decode(m.body, Fetched) for m in self.steward.browse(INCOMING)]

    def raws(self) -> list[bytes]:
        return [e.payload.raw.data for e in self.incoming() if isinstance(e.payload.raw, Inline)]


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Desk]:
    clock = ManualClock()
    broker = EmbeddedBroker(folder / "queue.db", tiers=TIERS, name="test")
    await broker.open()
    steward = EmbeddedSteward(folder / "queue.db", TIERS)
    url = f"sqlite:///{folder / 'state.db'}"
    state = await State.open(url, owner=new_owner(), clock=clock)
    spool = Spool(str(folder / "spool"))
    try:
        log = MailLog("fetcher", metrics=Metrics(served=True))
        yield Desk(folder, broker, steward, state, spool, log, clock)
    finally:
        await state.close()
        steward.close()
        await broker.close()


def _nobody_asks(_: int, __: Outcome | Exception) -> None:
    """Take what became of a poll."""


async def turns_until(condition: Callable[[], bool]) -> None:
    """Let everything run until this holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


def some(count: int, **more: Any) -> Pop3Server:
    return Pop3Server(MAIL[:count], UIDLS[:count], **more)


def deleted(server: Pop3Server) -> list[int]:
    return sorted(int(c.split()[1]) for c in server.commands if c.startswith("DELE"))
