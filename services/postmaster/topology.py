"""The commands ``topology declare`` and ``topology show``."""

from __future__ import annotations

import click

from services.postmaster import show
from services.postmaster.invocation import Invocation, pass_invocation
from services.postmaster.open import open_steward
from shared.queues import plan

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
    names = [queue.name for queue in plan(settings.retry.tiers)]
    if as_json:
        show.as_json({"declared": names})
    else:
        click.echo(f"declared: {len(names)} queues")


@topology.command("show")
@_json
@pass_invocation
def show_(invocation: Invocation, as_json: bool) -> None:
    """Show every queue, and how many messages wait in it."""
    settings = invocation.settings()
    with open_steward(settings) as steward:
        depths = steward.depths()
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
        )
        return
    show.table(
        ("queue", "kind", "back to", "messages"),
        (
            (q.name, q.kind, q.back_to or "", "absent" if (n := depths.get(q.name)) is None else n)
            for q in queues
        ),
        whole=("queue", "kind", "messages"),
    )
