"""The connector as a contender: as a program that runs once, and as the service that it is.

``run --once`` is measured from the start of the program to its end, as mpop is. A service, in one
process or as four over RabbitMQ, has been started before and has polled every maildrop while it was
still empty. Then mail comes in. The clock starts when a poll job for each account is put into the
queue, as the schedule does when an account is due, and stops when the last message is in its place.
CPU time counts the connector's processes from then on, and RabbitMQ by itself.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Final

from bench_measure import Sample, count_files, cpu_of, peak_of, run, until
from bench_place import PASSWORD, Drop, Load, Place

from shared.message import Envelope, Poll
from shared.outbox import Outbox
from shared.queues import POLL
from shared.settings import Retry
from tests.flow.connector import STAGES, Connector, connector
from tests.flow.queues import opened

PATIENCE: Final = 1_800.0


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


def to_maildir(_: Place, folder: Path) -> tuple[str, Callable[[], int]]:
    """Return a destination URL for Maildirs, and what counts the messages there."""
    mail = folder / "mail"

    def count() -> int:
        return sum(count_files(user / "new") for user in mail.iterdir()) if mail.exists() else 0

    return f"maildir://{mail}/{{local}}", count


def to_lmtp(place: Place, _: Path) -> tuple[str, Callable[[], int]]:
    """Return the destination URL of the local mail server, and what counts the messages there."""
    users = [user.name for user in place.local.home.iterdir()]
    url = f"lmtp://{place.local.host}:{place.local.lmtp}?tls=none"
    return url, lambda: sum(place.arrived(user) for user in users)


To = Callable[[Place, Path], tuple[str, Callable[[], int]]]


def embedded(place: Place, load: Load, to: To = to_maildir) -> Sample:
    """Run the connector in one process, once."""
    place.fill(load)
    folder = place.fresh("embedded")
    url, count = to(place, folder)
    with connector(folder) as product:
        product.configure([table(drop) for drop in load.drops], url)
        sample = run(
            command(product, "run", "--once"), load.messages, folder / "log", env=_environment()
        )
    _check(count(), load.messages)
    return sample


def embedded_running(place: Place, load: Load, to: To = to_maildir) -> Sample:
    """Let mail come to the connector that runs in one process."""
    folder = place.fresh("running")
    url, count = to(place, folder)
    with connector(folder) as product:
        product.configure([table(drop) for drop in load.drops], url)
        _first_poll(place, product, load, "run")
        return _polled(place, product, load, None, count)


def over_rabbitmq(place: Place, load: Load, to: To = to_maildir) -> Sample:
    """Let mail come to the connector that runs as one process for each stage."""
    assert place.broker is not None
    folder = place.fresh("rabbitmq")
    url, count = to(place, folder)
    vhost = place.broker.vhost()
    queues = place.broker.url(vhost)
    with connector(folder) as product:
        product.configure([table(drop) for drop in load.drops], url, queues)
        ready(place, product, vhost)
        _first_poll(place, product, load, "fetcher")
        before = cpu_of(place.broker_pid)
        sample = _polled(place, product, load, queues, count)
        broker = cpu_of(place.broker_pid) - before
    place.broker.drop_vhost(vhost)
    return Sample(sample.messages, sample.wall, sample.cpu, broker, sample.memory)


def ready(place: Place, product: Connector, vhost: str) -> None:
    """Start all stages but the fetcher, and wait until each consumes its queue."""
    assert place.broker is not None
    broker = place.broker
    declared = product.cli("topology", "declare")
    if declared.returncode:
        raise RuntimeError(declared.stderr)
    product.start(*STAGES[1:])
    until(lambda: _consumers(broker.api("GET", "consumers/" + vhost)) >= 3, 120, "three stages")


def _consumers(found: Sequence[Mapping[str, object]]) -> int:
    return len(found)


def _first_poll(place: Place, product: Connector, load: Load, name: str) -> None:
    """Start the process that polls, and wait until it has found nothing in any maildrop."""
    place.empty(load)
    product.start(name)
    until(lambda: product.count(name, "polled") >= len(load.drops), 120, "a first poll of each")


def _polled(
    place: Place, product: Connector, load: Load, queues: str | None, count: Callable[[], int]
) -> Sample:
    """Let mail come in and the accounts be due; measure until all of it is delivered."""
    place.fill(load)
    before = sum(usage(product).values())
    started = _due(product, load, queues)
    until(lambda: count() >= load.messages, PATIENCE, "the last message")
    wall = perf_counter() - started
    cpu = sum(usage(product).values()) - before
    memory = {name: peak_of(pid) for name, pid in _pids(product).items()}
    _check(count(), load.messages)
    return Sample(load.messages, wall, cpu, memory=memory)


def _due(product: Connector, load: Load, queues: str | None) -> float:
    """Queue a poll job for each account, as the schedule does; return when that began."""
    now = time.time()
    jobs = [Envelope(f"poll-{drop.user}", drop.user, Poll(), now) for drop in load.drops]

    async def queue() -> float:
        async with opened(product, queues, Retry().tiers, "fetcher") as broker:
            started = perf_counter()
            await Outbox(broker, POLL).put(*jobs)
            return started

    return asyncio.run(queue())


def command(product: Connector, *arguments: str) -> list[str]:
    """Return a command line of the product."""
    return [sys.executable, "-m", "services", "--config", str(product.config), *arguments]


def usage(product: Connector) -> dict[str, float]:
    """Return the CPU seconds of each process so far."""
    return {name: cpu_of(pid) for name, pid in _pids(product).items()}


def _pids(product: Connector) -> dict[str, int]:
    return {n: p.pid for n, p in product.processes.items() if p.pid is not None}


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}


def _check(found: int, messages: int) -> None:
    if found != messages:
        raise RuntimeError(f"{found} messages arrived, not {messages}")
