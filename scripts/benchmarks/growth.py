"""How costs grow: with the messages that are queued, the accounts that are polled, the replicas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from scripts.benchmarks.accounts import costs
from scripts.benchmarks.place import Drop, Place, open_place
from scripts.benchmarks.report import Chart, Result
from scripts.benchmarks.scale import Scale
from scripts.benchmarks.stages import QUEUED, Work, fetchers, pipeline

MAILDROPS: Final = 16
"""How many the fetchers share."""

ENOUGH: Final = 10_000
"""Messages to be measured at least, with few queued at a time."""


def growth(folder: Path, scale: Scale) -> Result:
    """What a message or a poll costs, from few to very many."""
    counts = (1_000, 20_000, 200_000) if scale.full else (1_000, 20_000)
    accounts, polls = ((10, 100, 1_000, 10_000), 2_000) if scale.full else ((10, 100), 200)
    users = [f"user{number}" for number in range(MAILDROPS)]
    with open_place(folder, users) as place:
        charts = [_queued(place, counts, embedded=True)]
        if place.broker is not None:
            charts.append(_queued(place, counts, embedded=False))
            charts.append(_replicas(place, users, scale))
    among = [bar for n in accounts for bar in costs(folder, n, polls).bars()]
    charts.append(Chart("growth-accounts", "CPU of a poll, ms, embedded", among))
    return Result("Growth", charts)


def _queued(place: Place, counts: Sequence[int], *, embedded: bool) -> Chart:
    """Let each stage work off so many messages; what one of them costs."""
    works = {count: _repeated(place, count, embedded=embedded) for count in counts}
    bars = [
        (f"{stage}, {count:,} queued", by_stage[stage].cpu_each)
        for stage in QUEUED
        for count, by_stage in works.items()
    ]
    if embedded:
        return Chart("growth-embedded", "CPU, µs a message, embedded", bars)
    for count, by_stage in works.items():
        broker = sum(work.broker_each for work in by_stage.values())
        bars.append((f"RabbitMQ itself, {count:,} queued, three hops", broker))
    return Chart("growth-rabbitmq", "CPU, µs a message, RabbitMQ", bars)


def _repeated(place: Place, count: int, *, embedded: bool) -> Mapping[str, Work]:
    """Do it again where so many are moved too quickly to be measured once."""
    done = pipeline(place, 1, count, embedded=embedded)
    for _ in range(ENOUGH // count - 1):
        more = pipeline(place, 1, count, embedded=embedded)
        done = {stage: work + more[stage] for stage, work in done.items()}
    return done


def _replicas(place: Place, users: Sequence[str], scale: Scale) -> Chart:
    """Let several processes of a stage share the work over RabbitMQ.

    A process takes up to 512 entries of 16 messages at once, so there have to be enough for all.
    """
    numbers, count = ((1, 2, 4), 60_000) if scale.full else ((1, 2), 20_000)
    server = place.provider
    drops = [Drop(server.host, server.pop3, user) for user in users]
    works = {
        replicas: {
            "fetcher": fetchers(place, drops, replicas, count // len(drops)),
            **pipeline(place, replicas, count, embedded=False),
        }
        for replicas in numbers
    }
    bars = [
        (f"{stage}, {replicas} of it", by_stage[stage].rate)
        for stage in ("fetcher", *QUEUED)
        for replicas, by_stage in works.items()
    ]
    return Chart("growth-replicas", "messages per second", bars)
