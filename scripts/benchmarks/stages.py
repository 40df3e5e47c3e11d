"""Stages by themselves: their queues are filled first, then processes of one of them work them off.

How many messages a process has moved is asked of its own ``/metrics``, so seldom that the answers
cost next to nothing: queues count entries, and over RabbitMQ several messages share one.
"""

from __future__ import annotations

import asyncio
import re
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final

from scripts.benchmarks.connector import LIMITS, PATIENCE, cpu, declare, due, table
from scripts.benchmarks.measure import cpu_of, until
from scripts.benchmarks.place import USER, Drop, Load, Place, message
from shared.message import Envelope, Fetched, Hop, Inline
from shared.metrics import EVENTS
from shared.queue_publisher import QueuePublisher
from shared.queues import INCOMING
from shared.settings.model import RetrySettings
from tests.flow.connector import Connector, connector
from tests.flow.queues import opened
from tests.servers.process import free_port

SIZE: Final = 2_000
CHUNK: Final = 500
QUEUED: Final = ("parser", "rewriter", "deliverer")
"""The stages that have their messages from a queue, from first to last."""

MOVED: Final = {
    "fetcher": "fetched",
    "parser": "forwarded",
    "rewriter": "forwarded",
    "deliverer": "delivered",
}
"""The event of each stage by which a message has left it."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a stage has done while it was looked at.

    Attributes:
        messages: that left it in that time; none, if it was too quick to be looked at.
        cpu: seconds of CPU of all its processes.
        broker: seconds of CPU of RabbitMQ, 0 without.
        seconds: on the clock.
    """

    messages: int
    cpu: float
    broker: float
    seconds: float

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.messages / self.seconds

    @property
    def cpu_each(self) -> float:
        """Microseconds of CPU of the stage for a message."""
        return self.cpu / self.messages * 1e6

    @property
    def broker_each(self) -> float:
        """Microseconds of CPU of RabbitMQ for a message."""
        return self.broker / self.messages * 1e6

    def __add__(self, other: Work) -> Work:
        """Return both together."""
        return Work(
            self.messages + other.messages,
            self.cpu + other.cpu,
            self.broker + other.broker,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True, slots=True)
class Installation:
    """A connector of its own, with its queues.

    Attributes:
        product: its configuration and its processes.
        place: where it runs.
        url: of its virtual host of RabbitMQ, None for the embedded broker.
    """

    product: Connector
    place: Place
    url: str | None


@contextmanager
def installation(place: Place, drops: Sequence[Drop], *, embedded: bool) -> Iterator[Installation]:
    """Yield one with empty queues; its destination is a Maildir."""
    home, server = place.fresh("stages"), place.broker
    vhost = server.vhost() if server is not None and not embedded else None
    url = server.url(vhost) if server is not None and vhost is not None else None
    with connector(home) as product:
        product.configure(
            [table(drop) for drop in drops], f"maildir://{home}/mail/{{local}}", url, limits=LIMITS
        )
        declare(product)
        yield Installation(product, place, url)
    if server is not None and vhost is not None:
        server.drop_vhost(vhost)


def pipeline(place: Place, replicas: int, count: int, *, embedded: bool) -> Mapping[str, Work]:
    """Let so many messages go through parser, rewriter and deliverer, one stage after the other.

    Returns:
        What each stage did, with so many processes of it.
    """
    with installation(place, [place.drop], embedded=embedded) as ours:
        asyncio.run(_fill(ours, count))
        return {stage: _worked_off(ours, stage, replicas, count) for stage in QUEUED}


def fetchers(place: Place, drops: Sequence[Drop], replicas: int, messages: int) -> Work:
    """Let so many fetchers over RabbitMQ empty maildrops of so many messages each."""
    load = Load(drops, [message(number, SIZE) for number in range(messages)])
    place.empty(load)
    with installation(place, drops, embedded=False) as ours:
        ports = _started(ours.product, "fetcher", replicas)
        until(lambda: _polls(ours.product) >= len(drops), PATIENCE, "a first poll of each")
        place.fill(load)
        due(ours.product, drops, ours.url)
        return _measured(ours, "fetcher", ports, load.messages, after=0)


def _polls(product: Connector) -> int:
    return sum(product.count(name, "polled") for name in product.processes)


async def _fill(ours: Installation, count: int) -> None:
    now = time.time()
    envelopes = (
        Envelope(
            f"{number:032x}",
            USER,
            Fetched(Inline(message(number, SIZE)), f"u{number}", "pop.example.net:995"),
            now,
            trail=(Hop("fetcher", now),),
        )
        for number in range(count)
    )
    async with opened(ours.product, ours.url, RetrySettings().tiers, "fetcher") as broker:
        incoming = QueuePublisher(broker, INCOMING)
        while chunk := list(islice(envelopes, CHUNK)):
            await incoming.put(*chunk)


def _worked_off(ours: Installation, stage: str, replicas: int, count: int) -> Work:
    """Start a stage before its full inbox; stop it when it has moved everything."""
    ports = _started(ours.product, stage, replicas)
    work = _measured(ours, stage, ports, count, after=1)
    for name in list(ours.product.processes):
        ours.product.stop(name)
    return work


def _started(product: Connector, stage: str, replicas: int) -> Sequence[int]:
    """Start the processes; return the ports at which they are asked."""
    ports = [free_port() for _ in range(replicas)]
    for number, port in enumerate(ports, 1):
        name = stage if number == 1 else f"{stage}#{number}"
        product.start(name, POP3_CONNECTOR__MONITOR__LISTEN=f"127.0.0.1:{port}")
    return ports


def _measured(
    ours: Installation, stage: str, ports: Sequence[int], count: int, *, after: int
) -> Work:
    """Return what is done from when each process has moved so many to the last message."""
    started = _until(stage, ports, lambda moved: min(moved) >= after or sum(moved) >= count, 0.002)
    began, before, broker = time.perf_counter(), cpu(ours.product), _broker_cpu(ours)
    _until(stage, ports, lambda moved: sum(moved) >= count, max(0.01, count / 400_000))
    seconds = time.perf_counter() - began
    used, broker = cpu(ours.product) - before, _broker_cpu(ours) - broker
    work = Work(count - sum(started), used, broker, seconds)
    print(f"  {len(ports)} of {stage}, {count:,}: {work.rate:,.0f}/s", flush=True)
    return work


def _until(
    stage: str, ports: Sequence[int], enough: Callable[[Sequence[int]], bool], pause: float
) -> Sequence[int]:
    """Ask, with pauses, until the processes have moved enough; return how many each has."""
    end = time.monotonic() + PATIENCE
    while not enough(moved := [_moved(stage, port) for port in ports]):
        if time.monotonic() > end:
            raise RuntimeError(f"{stage}: {sum(moved)} messages after {PATIENCE:g} seconds")
        time.sleep(pause)
    return moved


def _moved(stage: str, port: int) -> int:
    """Ask a process how many messages it has moved; 0 while it cannot be asked yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read().decode()
    except OSError:
        return 0
    counter = f'{EVENTS}{{event="{MOVED[stage]}",stage="{stage}"}} '
    found = re.search(f"^{re.escape(counter)}(.+)$", text, re.MULTILINE)
    return int(float(found[1])) if found else 0


def _broker_cpu(ours: Installation) -> float:
    return 0.0 if ours.url is None else cpu_of(ours.place.broker_pid)
