"""Measures how late accounts are polled, and what a poll costs; prints a line for each figure.

    scripts/measure-fairness [ACCOUNTS]        (default 10,000)

Two hours of three fetchers with the real schedule, ledger, queues and POP3 client, in simulated
time and without sockets: see ``tests.simulation.day`` for what happens in them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from statistics import median

from tests.simulation.day import END, Size, live

KINDS = {
    "large": "at one large provider",
    "office": "with office hours",
    "soonest": "with poll_soonest",
    "first": "the one with its first synchronisation",
}


def say(what: str, value: float, unit: str) -> None:
    """Print a figure."""
    print(f"{what:<66} {value:>10,.1f} {unit}", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Measure with so many accounts."""
    accounts = int(arguments[0]) if arguments else 10_000
    first = 10 * accounts
    size = Size(
        accounts,
        every=600.0,
        first=first,
        bytes_each=2_000,
        pace=5_000 / first,
        latency=min(1.0, 2_000 / accounts),
        connections=8,
    )
    found = live(size)
    for kind, words in KINDS.items():
        late = sorted(found.late[kind])
        say(f"polls of accounts {words}", len(late), "")
        say("  late: median", median(late), "s")
        say("  late: 99 of 100 less than", late[len(late) * 99 // 100], "s")
        say("  late: worst", late[-1], "s")
    say("due at the end: longest", max(found.overdue, default=0.0), "s")
    say("fetch-now --all: until the last one was polled", found.all_took, "s")
    say(f"first synchronisation of {first:,}: the last session began after", found.first_took, "s")
    say("  messages that did not come", found.first_left, "")
    say("maildrops with two sessions at once", found.doubles, "")
    say("logins without the lease", found.unleased, "")
    say("logins before LOGIN-DELAY was over", found.early, "")
    say("accounts that were never polled", found.never, "")
    say("polls a second", found.polls / END, "/s")
    say("CPU for a poll, of all that is simulated", time.process_time() / found.polls * 1e3, "ms")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
