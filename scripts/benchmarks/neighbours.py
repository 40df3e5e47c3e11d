"""What a good destination notices of its neighbours: one is away, one is slow, one comes and goes.

A deliverer alone, with mail put into its inbox as the rewriter does: for the good destination a
message now and then, as many without its neighbours as beside them. Theirs comes first, more of it
than a deliverer has places, and goes on coming. What it takes to see that they are slow, the first
seconds show, which are a figure of their own. Measured is the time from the broker's word that it
has a message to its arrival at the server, which stores nothing; servers and clock are in this
process. So figures are of the machine, and their ratio of the deliverer.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Final

from scripts.benchmarks.connector import declare
from scripts.benchmarks.place import Place, open_place
from scripts.benchmarks.report import Chart, Result
from scripts.benchmarks.scale import Scale
from shared.broker import Broker
from shared.settings.model import RetrySettings
from tests.flow.addressed import put_addressed
from tests.flow.connector import connector
from tests.flow.queues import opened
from tests.servers.process import free_port
from tests.servers.smtp import DROP, smtp_server

RATE: Final = 10.0
"""Messages a second for the good destination."""

FIRST: Final = 600
"""Messages that wait for each of the others at the start."""

MORE: Final = 2.0
"""Messages a second for each of the others."""

SLOW: Final = 25.0
"""Seconds that the slow one takes over a message."""

FLAPS: Final = 10.0
"""Seconds after which the third one comes, or goes."""

SETTLING: Final = 5.0
"""The first seconds, which count by themselves."""

PATIENCE: Final = 120.0
"""Seconds for the last of the mail."""

_STARTED: Final = b"X-Put: "
_serial: Final = itertools.count()


def neighbours(folder: Path, scale: Scale) -> Result:
    """A good destination beside one that is dead, one that is slow, and one that flaps."""
    seconds = 120.0 if scale.full else 20.0
    bars, notes = [], []
    with open_place(folder) as place:
        for name, rabbitmq in (("embedded", False), ("RabbitMQ", True)):
            if rabbitmq and place.broker is None:
                continue
            found = {}
            for how in ("alone", "beside them"):
                print(f"  {name}, {how} ...", flush=True)
                beside = how != "alone"
                found[how] = asyncio.run(_delays(place, rabbitmq, beside, seconds))
                bars += [(f"{name}, {how}: {w}", v * 1e3) for w, v in _figures(found[how]).items()]
            alone, beside_them = (_figures(found[how])["99 of 100"] for how in found)
            notes.append(f"{name}: {beside_them / alone:.2f} times the p99 that it has alone")
    title = "A good destination beside a dead, a slow and a flapping one"
    return Result(title, [Chart("neighbours", "milliseconds", bars)], notes=notes)


def _figures(delays: list[float]) -> Mapping[str, float]:
    first = round(SETTLING * RATE)
    later = delays[first:]
    return {
        "median": median(later),
        "99 of 100": quantiles(later, n=100, method="inclusive")[-1],
        f"worst of {len(later)}": max(later),
        f"worst of the first {SETTLING:g} s": max(delays[:first]),
    }


async def _delays(place: Place, rabbitmq: bool, beside: bool, seconds: float) -> list[float]:
    """Return how long each message for the good destination took, in seconds."""
    home = place.fresh("neighbours")
    queues = place.broker.url(place.broker.vhost()) if rabbitmq and place.broker else None
    took: list[float] = []
    async with _servers(took) as servers:
        with connector(home) as product:
            product.configure(
                [],
                servers["good"],
                queues,
                **{f"destinations.{name}": {"url": url} for name, url in servers.items()},
            )
            declare(product)
            others = [name for name in servers if name != "good"] if beside else []
            async with opened(product, queues, RetrySettings().tiers, "rewriter") as broker:
                await asyncio.gather(*(_put(broker, name) for name in others for _ in range(FIRST)))
                product.start("deliverer")
                # Loading is not what is measured.
                await _until(lambda: product.count("deliverer", "started") > 0)
                count = round(RATE * seconds)
                async with asyncio.TaskGroup() as coming:
                    coming.create_task(_coming(broker, "good", count, RATE))
                    for name in others:
                        coming.create_task(_coming(broker, name, round(MORE * seconds), MORE))
                await _until(lambda: len(took) >= count)
    return took


async def _until(true: Callable[[], bool]) -> None:
    """Wait for a condition, and let the servers work meanwhile."""
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110  (files and lists tell it)
            await asyncio.sleep(0.1)


async def _coming(broker: Broker, name: str, count: int, rate: float) -> None:
    begun = time.monotonic()
    async with asyncio.TaskGroup() as putting:
        for number in range(count):
            await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
            putting.create_task(_put(broker, name))


async def _put(broker: Broker, name: str) -> None:
    head = b"Subject: %d\r\n" % next(_serial) + _STARTED + b"%d\r\n" % time.monotonic_ns()
    await put_addressed(broker, name, [name], [head + b"\r\n" + 40 * (100 * b"x" + b"\r\n")])


@asynccontextmanager
async def _servers(took: list[float]) -> AsyncGenerator[dict[str, str], None]:
    """Run the mail servers; yield their URLs by name.

    Args:
        took: gets how long each message for the good one took.
    """

    def arrived(key: str, _: int) -> None:
        if key == "END":
            line = good.received[-1].raw.split(_STARTED, 1)[1]
            took.append((time.monotonic_ns() - int(line.partition(b"\r")[0])) / 1e9)

    def flapping(_: str, __: int) -> str | None:
        return DROP if time.monotonic() % (2 * FLAPS) < FLAPS else None

    async with AsyncExitStack() as stack:
        good = await stack.enter_async_context(smtp_server(rule=arrived))
        slow = await stack.enter_async_context(smtp_server(slow=SLOW))
        flaps = await stack.enter_async_context(smtp_server(rule=flapping))
        dead = f"smtp://127.0.0.1:{free_port()}"
        yield {"dead": dead, "slow": slow.url, "flapping": flaps.url, "good": good.url}
