"""The connector as a contender: as a program that runs once, and as the service that it is.

``run --once`` is measured from the start of the program to its end, as mpop is. A service, in one
process or as four over RabbitMQ, has been started before and has polled every maildrop while it was
still empty. Then mail comes in. The clock starts when a poll job for each account is put into the
queue, as the schedule does when an account is due, and stops when the last message is in its place
and the last one is deleted on the server, as mpop ends when it has deleted them.
CPU time counts the connector's processes from then on until they are seen to be done, and RabbitMQ
by itself.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from scripts.benchmarks.arrivals import Arrivals, Folders, last_arrival, last_departure
from scripts.benchmarks.measure import Sample, cpu_of, peak_of, run, until
from scripts.benchmarks.place import PASSWORD, Drop, Load, Place
from shared.message import Envelope, Poll
from shared.queue_publisher import QueuePublisher
from shared.queues import POLL
from shared.settings.model import RetrySettings
from tests.flow.connector import STAGES, Connector, connector
from tests.flow.queues import opened

PATIENCE: Final = 1_800.0

LIMITS: Final = {"connections_per_host": 32, "flood_limit": 1_000_000}
"""All accounts are at one host, which takes them: as many at a time as a fetcher polls at all."""


def table(drop: Drop, **more: object) -> dict[str, object]:
    """Return the configuration of an account."""
    return {
        "name": drop.user,
        "host": drop.host,
        "port": drop.port,
        "tls": "none",
        "username": drop.user,
        "password": PASSWORD,
        "keep": "delete",
        "mailbox": f"{drop.user}@corp.example",
        "poll_every": "1h",
        **more,
    }


def to_maildir(_: Place, folder: Path) -> tuple[str, Arrivals]:
    """Return a destination URL for Maildirs, and what arrives there."""
    mail = folder / "mail"
    return f"maildir://{mail}/{{local}}", Folders(mail, ("*/new",))


def to_lmtp(place: Place, _: Path) -> tuple[str, Arrivals]:
    """Return the destination URL of the mail server, and what arrives there."""
    return f"lmtp://{place.lmtp.host}:{place.lmtp.port}?tls=none", place.lmtp.arrivals()


To = Callable[[Place, Path], tuple[str, Arrivals]]


def embedded(place: Place, load: Load, to: To = to_maildir) -> Sample:
    """Run the connector in one process, once."""
    place.fill(load)
    folder = place.fresh("embedded")
    url, arrivals = to(place, folder)
    with connector(folder) as product:
        product.configure([table(drop) for drop in load.drops], url, limits=LIMITS)
        sample = run(
            command(product, "run", "--once"), load.messages, folder / "log", env=_environment()
        )
    last_arrival(arrivals, load.messages, 10)
    return sample


def embedded_running(place: Place, load: Load, to: To = to_maildir) -> Sample:
    """Let mail come to the connector that runs in one process."""
    folder = place.fresh("running")
    url, arrivals = to(place, folder)
    with connector(folder) as product:
        product.configure([table(drop) for drop in load.drops], url, limits=LIMITS)
        _first_poll(place, product, load, "run", None)
        return _polled(place, product, load, None, arrivals)


def over_rabbitmq(place: Place, load: Load, to: To = to_maildir) -> Sample:
    """Let mail come to the connector that runs as one process for each stage."""
    assert place.broker is not None
    folder = place.fresh("rabbitmq")
    url, arrivals = to(place, folder)
    vhost = place.broker.vhost()
    queues = place.broker.url(vhost)
    with connector(folder) as product:
        product.configure([table(drop) for drop in load.drops], url, queues, limits=LIMITS)
        ready(place, product, vhost)
        _first_poll(place, product, load, "fetcher", queues)
        before = cpu_of(place.broker_pid)
        sample = _polled(place, product, load, queues, arrivals)
        broker = cpu_of(place.broker_pid) - before
    place.broker.drop_vhost(vhost)
    return Sample(sample.messages, sample.wall, sample.cpu, broker, sample.memory)


def ready(place: Place, product: Connector, vhost: str) -> None:
    """Start all stages but the fetcher, and wait until each consumes its queue."""
    assert place.broker is not None
    broker = place.broker
    declare(product)
    product.start(*STAGES[1:])
    until(lambda: _consumers(broker.api("GET", "consumers/" + vhost)) >= 3, 120, "three stages")


def declare(product: Connector) -> None:
    """Declare the queues, as an operator does.

    Raises:
        RuntimeError: the broker did not take them.
    """
    declared = product.cli("topology", "declare")
    if declared.returncode:
        raise RuntimeError(declared.stderr)


def _consumers(found: Sequence[Mapping[str, object]]) -> int:
    return len(found)


def _first_poll(
    place: Place, product: Connector, load: Load, name: str, queues: str | None
) -> None:
    """Start the process that polls, and wait until it has found nothing in any maildrop."""
    place.empty(load)
    product.start(name)
    due(product, load.drops, queues)  # the schedule would take its time: it spreads first polls
    until(lambda: product.count(name, "polled") >= len(load.drops), 120, "a first poll of each")


def _polled(
    place: Place, product: Connector, load: Load, queues: str | None, arrivals: Arrivals
) -> Sample:
    """Let mail come in and the accounts be due; measure until all is delivered and deleted."""
    place.fill(load)
    before = cpu(product)
    started = due(product, load.drops, queues)
    arrived = last_arrival(arrivals, load.messages, PATIENCE)
    ended = max(arrived, last_departure(place.maildrops(load), PATIENCE))
    used = cpu(product) - before
    memory = {name: peak_of(pid) for name, pid in _pids(product).items()}
    return Sample(load.messages, (ended - started) / 1e9, used, memory=memory)


def due(product: Connector, drops: Sequence[Drop], queues: str | None) -> int:
    """Queue a poll job for each account, as the schedule does; return when, in nanoseconds."""

    async def queue() -> int:
        async with opened(product, queues, RetrySettings().tiers, "fetcher") as broker:
            started = time.time_ns()
            await QueuePublisher(broker, POLL).put(*jobs(drops))
            return started

    return asyncio.run(queue())


def jobs(drops: Sequence[Drop]) -> Sequence[Envelope[Poll]]:
    """Return a poll job for each account."""
    now = time.time()
    return [Envelope(f"poll-{drop.user}", drop.user, Poll(), now) for drop in drops]


def command(product: Connector, *arguments: str) -> list[str]:
    """Return a command line of the product."""
    return [sys.executable, "-m", "services", "--config", str(product.config), *arguments]


def cpu(product: Connector) -> float:
    """Return the CPU seconds of all processes so far."""
    return sum(map(cpu_of, _pids(product).values()))


def _pids(product: Connector) -> dict[str, int]:
    return {n: p.pid for n, p in product.processes.items() if p.pid is not None}


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
