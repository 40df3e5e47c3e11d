"""``pop3-connector run``: all four stages in one process; with ``--once``, until all is drained.

Drained means: every account was polled, and nothing is left in the inboxes of the stages or in
their hands. Messages that wait for a retry are counted and not waited for.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final, cast

from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from services.deliverer.__main__ import PART as DELIVERER
from services.fetcher.__main__ import PART as FETCHER
from services.host import GRACE, Stopped, opened, runner, serve, stop_on_signals, unless
from services.parser.__main__ import PART as PARSER
from services.parts import Assembly, Resources
from services.postmaster.open import open_steward
from services.rewriter.__main__ import PART as REWRITER
from shared.errors import BrokerUnavailable
from shared.log import Lines, MailLog
from shared.message import Envelope, Poll
from shared.outcome import Outcome
from shared.queues import RETRIED
from shared.runner import Runner
from shared.settings import Settings
from shared.stage import Perform

PARTS: Final = (FETCHER, PARSER, REWRITER, DELIVERER)
COUNTED: Final = ("fetched", "delivered", "suppressed", "failed", "quarantined", "retrying")
TROUBLES: Final = ("failed", "quarantined", "retrying", "accounts_failed")
INTERRUPTED: Final = 130
"""The exit status of a run that did not get to its end, as shells have it for SIGINT."""

QUIET_LOOKS: Final = 3
LOOK_EVERY: Final = 0.05
LOOK_AGAIN: Final = 0.01
"""Seconds between two looks at a broker that tells exactly whether all is settled."""


def main(settings: Settings, lines: Lines, *, once: bool = False, as_json: bool = False) -> int:
    """Run the connector; return the exit status.

    Args:
        settings: the configuration.
        lines: where log lines go.
        once: poll every account once, drain the pipeline, print a summary, and end.
        as_json: the summary is one JSON object on standard output.

    Raises:
        ConfigError: the settings do not lead to a broker, a database or a destination.
    """
    if not once:
        return serve(settings, lines, *PARTS, prepare=partial(_declare, settings, lines))
    return asyncio.run(_once(settings, lines, as_json))


async def _declare(settings: Settings, lines: Lines) -> None:
    """Make the queues exist in RabbitMQ, waiting for it; the embedded broker has its own.

    Stages of their own process wait for ``topology declare`` instead: they may not configure.
    """
    if settings.broker.url is None:
        return
    log = MailLog("run", lines=lines)
    waits = AsyncRetrying(
        retry=retry_if_exception_type(BrokerUnavailable),
        wait=wait_exponential_jitter(0.2, 15),
        before_sleep=lambda call: log.trouble(
            "waiting for the broker", why=call.outcome.exception() if call.outcome else ""
        ),
    )
    await waits(asyncio.to_thread, _declare_now, settings)


def _declare_now(settings: Settings) -> None:
    with open_steward(settings) as steward:
        steward.declare()


async def _once(settings: Settings, lines: Lines, as_json: bool) -> int:
    stop = asyncio.Event()
    stop_on_signals(stop)
    counts: Counter[str] = Counter()
    started = time.monotonic()
    with suppress(Stopped):
        declare = partial(_declare, settings, lines)
        async with opened(settings, lines, PARTS, stop, counts, declare) as (resources, assemblies):
            await _drain(resources, assemblies, stop)
    summary = _summary(settings, counts, time.monotonic() - started)
    sys.stdout.write(json.dumps(summary) + "\n" if as_json else _readable(summary))
    if stop.is_set():
        return INTERRUPTED
    return 1 if any(counts[name] for name in TROUBLES) else 0


async def _drain(
    resources: Resources, assemblies: Sequence[Assembly], interrupted: asyncio.Event
) -> None:
    fetching, *consuming = assemblies
    stop = asyncio.Event()
    runners = [runner(assembly, resources) for assembly in consuming]
    runs = [asyncio.create_task(r.run(stop, GRACE)) for r in runners]
    try:
        await unless(interrupted, _poll_all(fetching, resources))
        await unless(interrupted, _quiet(resources, runners))
    finally:
        stop.set()
        await asyncio.gather(*runs)


async def _poll_all(fetching: Assembly, resources: Resources) -> None:
    """Poll every account once, whatever the schedule says."""
    places = asyncio.Semaphore(fetching.stage.concurrency)
    now = resources.clock.now()
    fetch = cast(Perform, fetching.stage.handle)

    async def poll(name: str) -> None:
        async with places:
            await fetch([Envelope(f"poll-{name}", name, Poll("once"), now)], _nobody_asks)

    names = [account.name for account in resources.settings.accounts if account.enabled]
    await asyncio.gather(*(poll(name) for name in names))


def _nobody_asks(_: int, __: Outcome | Exception) -> None:
    """Take what became of a poll; the fetcher has reported it."""


async def _quiet(resources: Resources, runners: Sequence[Runner]) -> None:
    """Return when nothing moves any more."""
    while True:
        drained = await _drained(resources)
        if drained is None:
            return await _still(resources, runners)
        if drained:
            return None
        await asyncio.sleep(LOOK_AGAIN)


async def _drained(resources: Resources) -> bool | None:
    try:
        return await resources.broker.drained(RETRIED)
    except BrokerUnavailable:
        return False


async def _still(resources: Resources, runners: Sequence[Runner]) -> None:
    """Return when nothing moves over a broker that does not tell what is handed out.

    A delivery can be between the broker and us, counted by neither for a moment; so several looks
    in a row have to find the same stillness.
    """
    quiet, taken = 0, -1
    while quiet < QUIET_LOOKS:
        now_taken = sum(r.taken for r in runners)
        still = now_taken == taken and not any(r.in_hand for r in runners)
        still = still and not await _waiting(resources)
        quiet, taken = (quiet + 1 if still else 0), now_taken
        await asyncio.sleep(LOOK_EVERY)


async def _waiting(resources: Resources) -> int:
    try:
        depths = await resources.broker.depths(RETRIED)
    except BrokerUnavailable:
        return 1
    return sum(depths.values())


def _summary(settings: Settings, counts: Counter[str], seconds: float) -> dict[str, object]:
    accounts = sum(1 for account in settings.accounts if account.enabled)
    return {
        "accounts": accounts,
        **{name: counts[name] for name in COUNTED},
        "bytes": counts["bytes"],
        "seconds": round(seconds, 3),
    }


def _readable(summary: dict[str, object]) -> str:
    width = max(map(len, summary))
    return "".join(f"{name:<{width}}  {value}\n" for name, value in summary.items())
