"""``pop3-connector run``: all four stages in one process; with ``--once``, until all is drained.

What a run has come to is summed up in counts of events, and of the messages that wait at its end.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NoReturn

from services.deliverer.wiring import WIRING as DELIVERER
from services.drain import Drained, drain
from services.fetcher.wiring import WIRING as FETCHER
from services.parser.wiring import WIRING as PARSER
from services.postmaster.opening import open_steward
from services.process import Stopped, open_resources, serve, stop_on_signals
from services.rewriter.wiring import WIRING as REWRITER
from shared.broker.refusal_words import Doubt
from shared.clock import SystemClock
from shared.errors import BrokerRefuses, BrokerUnavailable
from shared.log import MailLog, Report
from shared.log_lines import LogLines
from shared.settings.model import Settings
from shared.waiting import until_there

WIRINGS: Final = (FETCHER, PARSER, REWRITER, DELIVERER)
COUNTED: Final = (
    "fetched",
    "delivered",
    "suppressed",
    "failed",
    "quarantined",
    "retrying",
    "left_undone",
)
TROUBLES: Final = ("failed", "quarantined", "accounts_failed")
INTERRUPTED: Final = 130
"""The exit status of a run that did not get to its end, as shells have it for SIGINT."""

DAMAGED: Final = 2
"""That of a run over a file that only its owner can mend."""


def main(
    settings: Settings,
    lines: LogLines,
    *,
    once: bool = False,
    as_json: bool = False,
    quiet: bool = False,
) -> int:
    """Run the connector; return the exit status.

    Args:
        settings: the configuration.
        lines: where log lines go.
        once: poll every account once, drain the pipeline, print a summary, and end.
        as_json: the summary is one JSON object on standard output.
        quiet: no summary where all is well.

    Raises:
        ConfigError: the settings do not lead to a broker, a database or a destination.
    """
    if not once:
        return serve(settings, lines, *WIRINGS, prepare=partial(_declare, settings, lines))
    return asyncio.run(_once(settings, lines, as_json, quiet))


async def _declare(settings: Settings, lines: LogLines) -> None:
    """Make the queues exist in RabbitMQ, waiting for it; the embedded broker has its own.

    Stages of their own process wait for ``topology declare`` instead: they may not configure.
    """
    if settings.broker.embedded:
        return
    log = MailLog("run", lines=lines)
    doubt = Doubt(SystemClock())

    def passes(error: BaseException) -> bool:
        wrong = isinstance(error, BrokerRefuses) and error.login
        return not doubt.over(login_refused=wrong) and isinstance(
            error, BrokerUnavailable | BrokerRefuses
        )

    outdated = await until_there(
        lambda: asyncio.to_thread(_declare_now, settings, log.trouble),
        passes,
        log.trouble,
        "waiting for the broker",
    )
    if outdated:
        log.trouble(
            "queues were declared by an earlier version",
            queues=", ".join(outdated),
            why="they are used on as they are; stop, and run topology migrate",
        )


def _declare_now(settings: Settings, report: Report) -> Sequence[str]:
    with open_steward(settings, report) as steward:
        return steward.declare()


async def _once(settings: Settings, lines: LogLines, as_json: bool, quiet: bool) -> int:
    stop = asyncio.Event()
    stop_on_signals(stop)
    counts: Counter[str] = Counter()
    started = time.monotonic()
    drained: Drained | None = None

    def summary(drained: Drained | None) -> str:
        found = _summary(settings, counts, drained, time.monotonic() - started)
        return json.dumps(found) + "\n" if as_json else _readable(found)

    with suppress(Stopped):
        declare = partial(_declare, settings, lines)
        async with open_resources(settings, lines, WIRINGS, stop, counts, declare) as (
            resources,
            assemblies,
        ):
            drained = await drain(resources, assemblies, stop)
            if drained.hung:
                lines.flush()
                _leave(
                    INTERRUPTED if stop.is_set() else max(1, _status(counts, drained)),
                    summary(drained),
                )
    status = INTERRUPTED if stop.is_set() else _status(counts, drained)
    if status or not quiet:
        sys.stdout.write(summary(drained))
    return status


def _leave(status: int, summary: str) -> NoReturn:
    """End the process as if it were killed: what hangs in it would keep it for ever otherwise.

    What is in hand is handed out again, as after any kill.
    """
    sys.stdout.write(summary)
    sys.stdout.flush()
    os._exit(status)


def _status(counts: Counter[str], drained: Drained | None) -> int:
    """Return 0 where all has arrived and every account could be polled; 2 over a damaged file."""
    if drained is not None and drained.damage:
        return DAMAGED
    if drained is None or drained.broken or any(counts[name] for name in TROUBLES):
        return 1
    waiting = counts["retrying"] if drained.waiting is None else drained.waiting
    return 1 if waiting else 0


def _summary(
    settings: Settings, counts: Counter[str], drained: Drained | None, seconds: float
) -> dict[str, object]:
    accounts = sum(1 for account in settings.accounts if account.enabled)
    return {
        "accounts": accounts,
        "accounts_failed": min(counts["accounts_failed"], accounts),
        **{name: counts[name] for name in COUNTED},
        "waiting": None if drained is None else drained.waiting,
        "bytes": counts["bytes"],
        "seconds": round(seconds, 3),
    }


def _readable(summary: dict[str, object]) -> str:
    width = max(map(len, summary))
    shown = {name: "unknown" if value is None else value for name, value in summary.items()}
    return "".join(f"{name:<{width}}  {value}\n" for name, value in shown.items())
