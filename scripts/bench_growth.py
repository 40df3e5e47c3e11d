"""How costs grow: with the messages that are queued, the accounts that are polled, the replicas."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final

from bench_connector import PATIENCE, embedded, table, usage
from bench_measure import cpu_of
from bench_place import USER, Drop, Load, Place, message, open_place
from bench_report import Bar, Chart, Result
from bench_scale import Scale

from shared.broker import Broker
from shared.message import Envelope, Fetched, Hop, Inline
from shared.outbox import Outbox
from shared.queues import INCOMING, PARSED
from shared.settings import Retry
from tests.flow.connector import Connector, connector
from tests.flow.queues import opened

SIZE: Final = 2_000
CHUNK: Final = 500


def growth(folder: Path, scale: Scale) -> Result:
    """What a message or a poll costs, from few to very many."""
    charts = []
    counts = (1_000, 20_000, 200_000) if scale.full else (500, 2_000)
    with open_place(folder) as place:
        queued = [
            bar for b in _brokers(place) for count in counts for bar in _queued(place, b, count)
        ]
        charts.append(Chart("growth-queued", "CPU of a parser, µs a message", queued))
        if place.broker is not None:
            rates = [_replicas(place, n, 20_000 if scale.full else 1_000) for n in (1, 2, 4)]
            charts.append(Chart("growth-replicas", "messages per second", rates))
    polls = [_accounts(folder, n) for n in ((100, 1_000, 10_000) if scale.full else (100, 300))]
    charts.append(Chart("growth-accounts", "CPU of a poll with nothing new, ms, embedded", polls))
    return Result("Growth", charts)


def _brokers(place: Place) -> Sequence[str]:
    return ("embedded",) if place.broker is None else ("embedded", "RabbitMQ")


def _queued(place: Place, broker: str, count: int) -> list[Bar]:
    """Let a parser work off so many messages; what one of them costs."""
    with _filled(place, broker, count) as (product, url):
        before = 0.0 if url is None else _broker_cpu(place)
        cpu, seconds = _parsed(product, url, 1, count)
        broker_cpu = 0.0 if url is None else _broker_cpu(place) - before
    found = [(f"{count:,} queued, {broker}", cpu / count * 1e6)]
    if url is not None:
        found.append((f"RabbitMQ itself, {count:,} queued", broker_cpu / count * 1e6))
    print(f"  {count:,} queued, {broker}: {count / seconds:,.0f}/s", flush=True)
    return found


def _replicas(place: Place, replicas: int, count: int) -> Bar:
    with _filled(place, "RabbitMQ", count) as (product, url):
        _, seconds = _parsed(product, url, replicas, count)
    print(f"  {replicas} parsers: {count / seconds:,.0f}/s", flush=True)
    return f"{replicas} parser{'s' if replicas > 1 else ''} over RabbitMQ", count / seconds


@contextmanager
def _filled(place: Place, broker: str, count: int) -> Iterator[tuple[Connector, str | None]]:
    """Yield an installation with so many messages in the parser's inbox, and its broker's URL."""
    home, server = place.fresh("growth"), place.broker
    vhost = "" if broker == "embedded" or server is None else server.vhost()
    url = server.url(vhost) if vhost and server is not None else None
    with connector(home) as product:
        product.configure([table(place.drop)], f"maildir://{home}/mail", url)
        declared = product.cli("topology", "declare")
        if declared.returncode:
            raise RuntimeError(declared.stderr)
        asyncio.run(_fill(product, url, count))
        yield product, url
    if vhost and server is not None:
        server.drop_vhost(vhost)


async def _fill(product: Connector, url: str | None, count: int) -> None:
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
    async with opened(product, url, Retry().tiers, "fetcher") as broker:
        outbox = Outbox(broker, INCOMING)
        while chunk := list(islice(envelopes, CHUNK)):
            await outbox.put(*chunk)


def _parsed(product: Connector, url: str | None, replicas: int, count: int) -> tuple[float, float]:
    """Return the CPU seconds of all parsers, and how long it took from the first message moved."""
    product.start("parser", *(f"parser#{n}" for n in range(2, replicas + 1)))
    return asyncio.run(_worked_off(product, url, count))


async def _worked_off(product: Connector, url: str | None, count: int) -> tuple[float, float]:
    async with opened(product, url, Retry().tiers, "fetcher") as broker:
        began = await _moved(broker, 1)
        started, before = time.perf_counter(), sum(usage(product).values())
        await _moved(broker, count)
        seconds = time.perf_counter() - started
        cpu = sum(usage(product).values()) - before
    whole = count / max(1, count - began)
    return cpu * whole, seconds * whole


async def _moved(broker: Broker, count: int) -> int:
    """Wait until so many messages wait for the next stage; return how many do."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = (await broker.depths((PARSED,)))[PARSED]
        if found >= count:
            return found
        await asyncio.sleep(max(0.002, count / 1_000_000))
    raise RuntimeError(f"waited {PATIENCE:g} seconds in vain for {count} messages")


def _broker_cpu(place: Place) -> float:
    return cpu_of(place.broker_pid)


def _accounts(folder: Path, count: int) -> Bar:
    """Poll so many accounts that have nothing new, embedded; what one poll costs."""
    users = [f"user{number}" for number in range(count)]
    with open_place(folder / f"accounts-{count}", users, with_broker=False) as place:
        server = place.provider
        drops = [Drop(server.host, server.pop3, user) for user in users]
        none = embedded(place, Load(drops[:1], []))
        sample = embedded(place, Load(drops, []))
    print(f"  {count:,} accounts: {count / sample.wall:,.0f} polls/s", flush=True)
    return f"among {count:,} accounts", (sample.cpu - none.cpu) / (count - 1) * 1e3
