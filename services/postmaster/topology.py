"""The commands ``topology declare`` and ``topology show``."""

from __future__ import annotations

from typing import Final

import click

from services.postmaster import show
from services.postmaster.invocation import Invocation, pass_invocation
from services.postmaster.open import open_steward
from shared.log import printable
from shared.queues import plan

REMOVED: Final = "removed"
"""The kind of a queue that the configuration no longer names, such as that of a retry tier."""

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(help="The queues at the broker.")
def topology() -> None:
    """Group the two commands."""


@topology.command("declare")
@_json
@pass_invocation
def declare(invocation: Invocation, as_json: bool) -> None:
    """Make every queue and exchange exist; harmless where they do."""
    settings = invocation.settings()
    with open_steward(settings) as steward:
        steward.declare()
        strays = steward.strays()
    for queue, count in strays.items():
        click.echo(_stray(queue, count), err=True)
    names = [queue.name for queue in plan(settings.retry.tiers)]
    if as_json:
        show.as_json({"declared": names})
    else:
        click.echo(f"declared: {len(names)} queues")


@topology.command("show")
@_json
@pass_invocation
def show_(invocation: Invocation, as_json: bool) -> None:
    """Show every queue, and how many messages wait in it.

    A queue of the kind "removed" is no longer in the configuration, and holds messages still.
    """
    settings = invocation.settings()
    with open_steward(settings) as steward:
        depths = steward.depths()
        strays = steward.strays()
    queues = plan(settings.retry.tiers)
    if as_json:
        show.as_json(
            [
                {
                    "queue": queue.name,
                    "kind": queue.kind,
                    "wait": queue.ttl,
                    "back_to": queue.back_to,
                    "messages": depths.get(queue.name),
                }
                for queue in queues
            ]
            + [
                {"queue": q, "kind": REMOVED, "wait": None, "back_to": None, "messages": n}
                for q, n in strays.items()
            ]
        )
        return
    show.table(
        ("queue", "kind", "back to", "messages"),
        [
            *(
                (q.name, q.kind, q.back_to or "", "absent" if (n := depths[q.name]) is None else n)
                for q in queues
            ),
            *((queue, REMOVED, "", count) for queue, count in strays.items()),
        ],
        whole=("queue", "kind", "messages"),
    )


def _stray(queue: str, count: int) -> str:
    return (
        f"{printable(queue)} is no longer in the configuration, and holds {count} messages;"
        " what waits out a retry tier goes back to its stage when its time is over"
    )
