"""The connector as a contender: in one process, and as four processes over RabbitMQ.

Embedded it is ``run --once``, from the start of the program to its end. Over RabbitMQ the stages
are services that run already; the clock starts with the fetcher's process, and stops when the last
message is in its place. CPU time counts all four processes from then on, and RabbitMQ by itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Final

from bench_measure import Sample, count_files, cpu_of, peak_of, run, until
from bench_place import PASSWORD, Place
from bench_rivals import Drop

from tests.flow.connector import STAGES, Connector, connector

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


def embedded(place: Place, drops: Sequence[Drop], messages: int, to: To = to_maildir) -> Sample:
    """Run the connector in one process, once."""
    folder = place.fresh("embedded")
    url, count = to(place, folder)
    with connector(folder) as product:
        product.configure([table(drop) for drop in drops], url)
        sample = run(
            command(product, "run", "--once"), messages, folder / "log", env=_environment()
        )
    _check(count(), messages)
    return sample


def over_rabbitmq(
    place: Place, drops: Sequence[Drop], messages: int, to: To = to_maildir
) -> Sample:
    """Run the connector as one process for each stage."""
    assert place.broker is not None
    folder = place.fresh("rabbitmq")
    url, count = to(place, folder)
    vhost = place.broker.vhost()
    with connector(folder) as product:
        product.configure([table(drop) for drop in drops], url, place.broker.url(vhost))
        ready(place, product, vhost)
        before = usage(product)
        broker = cpu_of(place.broker_pid)
        started = perf_counter()
        product.start("fetcher")
        until(lambda: count() >= messages, PATIENCE, "the last message")
        wall = perf_counter() - started
        after = usage(product)
        memory = {name: peak_of(p.pid) for name, p in product.processes.items()}
        broker = cpu_of(place.broker_pid) - broker
    place.broker.drop_vhost(vhost)
    _check(count(), messages)
    cpu = sum(after.values()) - sum(before.values())
    return Sample(messages, wall, cpu, broker, memory)


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


def command(product: Connector, *arguments: str) -> list[str]:
    """Return a command line of the product."""
    return [sys.executable, "-m", "services", "--config", str(product.config), *arguments]


def usage(product: Connector) -> dict[str, float]:
    """Return the CPU seconds of each process so far."""
    return {name: cpu_of(process.pid) for name, process in product.processes.items()}


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}


def _check(found: int, messages: int) -> None:
    if found != messages:
        raise RuntimeError(f"{found} messages arrived, not {messages}")
