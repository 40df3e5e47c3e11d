"""What a poll and a message cost among few accounts and among very many, in one process.

The connector runs as a service and has polled every account once. Then all accounts are due, as
often as it takes for enough polls: first with nothing new for them, then with a message for each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.benchmarks.arrivals import Folders, check
from scripts.benchmarks.connector import LIMITS, PATIENCE, cpu, due, jobs, table
from scripts.benchmarks.measure import until
from scripts.benchmarks.place import Drop, Place, message, open_place
from scripts.benchmarks.report import Bar
from shared.broker.embedded.broker import EmbeddedBroker
from shared.queue_publisher import QueuePublisher
from shared.queues import POLL, RETRIED
from shared.settings.model import RetrySettings
from tests.flow.connector import Connector, connector
from tests.flow.queues import opened

PROCESS: Final = "run"


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU among so many accounts, in milliseconds.

    Attributes:
        accounts: how many there are.
        idle: of a poll that finds nothing.
        message: of a poll that fetches a message, and of its way into a Maildir.
    """

    accounts: int
    idle: float
    message: float

    def bars(self) -> Sequence[Bar]:
        """Return the figures with what they are."""
        among = f"among {self.accounts:,} accounts"
        return [(f"nothing new, {among}", self.idle), (f"a message, {among}", self.message)]


def costs(folder: Path, count: int, polls: int) -> Costs:
    """Measure with so many accounts, each polled as often as it takes for so many polls."""
    users = [f"user{number}" for number in range(count)]
    with open_place(folder / f"accounts-{count}", users, with_broker=False) as place:
        server, home = place.provider, place.fresh("accounts")
        drops = [Drop(server.host, server.pop3, user) for user in users]
        with connector(home) as product:
            product.configure(
                [table(drop) for drop in drops], f"maildir://{home}/mail/{{local}}", limits=LIMITS
            )
            product.start(PROCESS)
            due(product, drops, None)  # the schedule would take its time: it spreads first polls
            until(lambda: product.count(PROCESS, "polled") >= count, PATIENCE, "a poll of each")
            found = asyncio.run(_costs(place, product, drops, max(1, polls // count)))
    print(f"  {count:,} accounts: {found.idle:.2f}, {found.message:.2f} ms", flush=True)
    return found


async def _costs(place: Place, product: Connector, drops: Sequence[Drop], rounds: int) -> Costs:
    async with opened(product, None, RetrySettings().tiers, "fetcher") as broker:
        assert isinstance(broker, EmbeddedBroker)
        before = cpu(product)
        for _ in range(rounds):
            await _poll(broker, drops)
        between = cpu(product)
        for turn in range(rounds):
            for number, drop in enumerate(drops, turn * len(drops)):
                place.provider.put(drop.user, message(number))
            await _poll(broker, drops)
        after = cpu(product)
    arrived = Folders(product.folder, ("mail/*/new",))
    check(arrived, len(drops) * rounds)
    each = 1e3 / (len(drops) * rounds)
    return Costs(len(drops), (between - before) * each, (after - between) * each)


async def _poll(broker: EmbeddedBroker, drops: Sequence[Drop]) -> None:
    """Let all accounts be due; return when they are polled, and what came is delivered."""
    await QueuePublisher(broker, POLL).put(*jobs(drops))
    end = time.monotonic() + PATIENCE
    while not await broker.drained((POLL, *RETRIED)):
        if time.monotonic() > end:
            raise RuntimeError(f"{len(drops)} accounts: not polled in {PATIENCE:g} seconds")
        await asyncio.sleep(0.02)
