"""The commands ``topology declare``, ``topology migrate`` and ``topology show``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import click

from services.postmaster import show
from services.postmaster.absent import STATUS, words
from services.postmaster.invocation import Invocation, pass_invocation
from services.postmaster.opening import open_management, open_steward
from services.postmaster.options import json_option
from services.postmaster.out_of_sight import QUEUES, thrown_out
from shared import failpoint
from shared.broker.management import WHERE, Management
from shared.broker.topology import FOREIGN, protected
from shared.errors import BrokerUnavailable, ConfigError
from shared.log import printable
from shared.queues import MOVING, QueueSpec, plan
from shared.settings.model import Settings
from shared.words import counted

REMOVED: Final = "removed"
"""The kind of a queue that the configuration no longer names, such as that of a retry tier."""

OUTDATED: Final = (
    "declared by an earlier version, and used on as they are; a policy that somebody sets on them"
    " can throw mail away. When the stages are stopped, run: pop3-connector topology migrate"
)


@click.group(help="Declare, migrate and show the queues at the broker.")
def topology() -> None:
    """Group the commands."""


@topology.command("declare")
@json_option
@click.option("--policies", is_flag=True, help="Also declare the policies that protect mail.")
@pass_invocation
def declare(invocation: Invocation, as_json: bool, policies: bool) -> None:
    """Declare every queue and exchange; harmless where they exist.

    With --policies, over the management API (broker.management_url) of a user with the tag
    policymaker.
    """
    settings = invocation.settings()
    failpoint.arm(invocation.environ)
    management = _require_management(settings) if policies else None
    with open_steward(settings) as steward:
        outdated = steward.declare()
        strays = steward.strays()
        neighbours = steward.neighbours()
    _tell(neighbours)
    if outdated:
        click.echo(f"{', '.join(outdated)}: {OUTDATED}", err=True)
    for queue, count in strays.items():
        click.echo(_stray(queue, count), err=True)
    made = plan if settings.broker.embedded else protected
    names = [queue.name for queue in made(settings.retry.tiers)]
    if as_json:
        show.as_json({"declared": names})
    else:
        click.echo(f"declared: {counted(len(names), 'queue')}")
    if management is not None:
        changed = management.declare()
        click.echo(f"policies: {', '.join(changed) or 'all as they should be'}", err=as_json)
        for name in management.displaced(queue.name for queue in protected(settings.retry.tiers)):
            click.echo(f"warning: {name}: another policy is in effect, not ours", err=True)
        for line in management.dangers(protected(settings.retry.tiers)):
            click.echo(f"warning: {line}", err=True)


@topology.command("migrate")
@click.option("--dry-run", is_flag=True, help="Only print what would be done.")
@pass_invocation
def migrate(invocation: Invocation, dry_run: bool) -> None:
    """Give queues that an earlier version declared the arguments of this one.

    Their messages are moved out and back, one by one. Stop the stages before; whatever interrupts
    it, no message is lost, and the next run goes on from there.
    """
    failpoint.arm(invocation.environ)
    with open_steward(invocation.settings()) as steward:
        if dry_run:
            lines = steward.outdated()
            for line in lines or ["change nothing"]:
                click.echo(f"would {line}")
            return
        changed = steward.migrate(click.echo)
    click.echo(f"changed: {counted(changed, 'queue')}")


@topology.command("show")
@json_option
@pass_invocation
@click.pass_context
def show_(context: click.Context, invocation: Invocation, as_json: bool) -> None:
    """Show every queue, and how many messages wait in it.

    A queue of the kind "removed" is no longer in the configuration, and still holds messages; so
    does one of the kind "held", which a policy has thrown out of quarantine, or "moving", which
    "topology migrate" has not put back yet. The exit status is 1 where a queue is absent.
    """
    settings = invocation.settings()
    with open_steward(settings) as steward:
        depths = steward.depths()
        strays = steward.strays()
        looked_into = steward.looked_into()
        neighbours = steward.neighbours()
        foreign = steward.foreign()
    _tell(neighbours)
    for name in foreign:
        click.echo(f"warning: {name}: {FOREIGN}", err=True)
    for name in looked_into:
        click.echo(
            f"warning: {printable(name)}: another command has messages of it in hand, and they are"
            " not counted; they go back when it ends",
            err=True,
        )
    for name, count in strays.items():
        if _kind(name) != REMOVED:
            click.echo(f"warning: {_stray(name, count)}", err=True)
    _warn(settings)
    _show(plan(settings.retry.tiers), depths, strays, as_json)
    if missing := [queue for queue, depth in depths.items() if depth is None]:
        click.echo(f"absent: {words(settings, missing)}", err=True)
        context.exit(STATUS)


def _show(
    queues: Sequence[QueueSpec],
    depths: Mapping[str, int | None],
    strays: Mapping[str, int],
    as_json: bool,
) -> None:
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
                {"queue": q, "kind": _kind(q), "wait": None, "back_to": None, "messages": n}
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
            *((queue, _kind(queue), "", count) for queue, count in strays.items()),
        ],
        whole=("queue", "kind", "messages"),
    )


def _kind(stray: str) -> str:
    """Return the kind of a queue that is in no topology."""
    return "held" if stray in QUEUES else "moving" if stray.endswith(MOVING) else REMOVED


def _stray(queue: str, count: int) -> str:
    named, messages = printable(queue), counted(count, "message")
    said = {
        "held": thrown_out(named, count),
        "moving": f"{named} holds {messages} of a topology migrate that did not come to its"
        " end; run it again",
        REMOVED: f"{named} is no longer in the configuration, and holds {messages};"
        " what waits out a retry tier goes back to its stage when its time is over",
    }
    return said[_kind(queue)]


def _tell(neighbours: Sequence[str]) -> None:
    for name in neighbours:
        click.echo(
            f"warning: the connector {printable(name)} uses this virtual host, too; give each one"
            " of its own, or their messages wait for each other",
            err=True,
        )


def _require_management(settings: Settings) -> Management:
    """Return the management API.

    Raises:
        ConfigError: nobody says where it is.
    """
    if (management := open_management(settings)) is None:
        expected = "expected http://user:password@host:15672, of a user with the tag policymaker"
        raise ConfigError(WHERE, f"it is not set; {expected}")
    return management


def _warn(settings: Settings) -> None:
    """Say what policies could do to mail, on standard error; it is no reason to show nothing."""
    if settings.broker.embedded:
        return
    found = [f"whether a policy could lose mail is not known: {WHERE} is not set"]
    try:
        if (management := open_management(settings)) is not None:
            found = management.dangers(protected(settings.retry.tiers))
    except (ConfigError, BrokerUnavailable) as error:
        found = [f"policies cannot be read: {error}"]
    for line in found:
        click.echo(f"warning: {line}", err=True)
