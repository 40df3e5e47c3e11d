"""The commands ``spool list`` and ``spool sweep``: the large messages outside the queues."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from services.postmaster import orphans, show
from services.postmaster.absent import absent, words
from services.postmaster.invocation import Invocation, pass_invocation
from services.postmaster.opening import open_spool, open_steward
from services.postmaster.options import json_option, seconds
from shared.broker import Steward
from shared.clock import SystemClock
from shared.log import printable
from shared.settings.model import Settings

if TYPE_CHECKING:
    from shared.spool import StoredBlob

_COLUMNS = ("key", "size", "written")


@click.group(help="List and tidy up the spool, where large messages lie.")
def spool() -> None:
    """Group the two commands."""


@spool.command("list")
@json_option
@pass_invocation
def list_(invocation: Invocation, as_json: bool) -> None:
    """List the blobs in the spool, oldest first. The key is the id of the message.

    Drafts come last: messages that are being fetched just now, or were when their process was
    killed.
    """
    settings = invocation.settings()
    opened = open_spool(settings)
    blobs, drafts = asyncio.run(opened.blobs()), asyncio.run(opened.drafts())
    if as_json:
        show.as_json(
            [_record(blob) for blob in blobs] + [_record(d) | {"draft": True} for d in drafts]
        )
    elif blobs or drafts:
        _list([*blobs, *drafts], drafts)
    else:
        click.echo(_empty(settings))
    _tell(_troubles([*blobs, *drafts]), "looked at")


def _empty(settings: Settings) -> str:
    """Return what to say of a spool with nothing in it."""
    from shared.spool import folder_of

    folder = folder_of(settings.spool_url, settings.spool.options)
    if folder is None or folder.is_dir():
        return "The spool is empty."
    return f"There is no {printable(str(folder))} yet: the first large message makes it."


def _list(every: Sequence[StoredBlob], drafts: Sequence[StoredBlob]) -> None:
    _print(every)
    if drafts:
        size = show.size(sum(draft.size for draft in drafts))
        click.echo(
            f"drafts: {len(drafts)} ({size}): on their way in, or left by a process that was"
            " killed; these are cleared away when a fetcher starts"
        )


def _troubles(blobs: Sequence[StoredBlob]) -> dict[str, str]:
    """Return why blobs cannot be looked at, by key."""
    from shared.spool import said

    return {blob.key: said(blob.trouble) for blob in blobs if blob.trouble is not None}


def _tell(left: Mapping[str, str], what: str) -> None:
    """Say of each blob why something could not be done with it.

    Raises:
        ClickException: there is one.
    """
    for key, why in left.items():
        click.echo(f"{printable(key)}: {why}", err=True)
    if left:
        raise click.ClickException(f"{len(left)} could not be {what}; all others were")


@spool.command("sweep")
@click.option(
    "--older-than",
    "age",
    callback=seconds,
    metavar="AGE",
    help="Only blobs older than this, such as 7d (the default, or give_up_after and two days).",
)
@click.option("--dry-run", is_flag=True, help="Delete nothing; show what would be deleted.")
@click.option(
    "--force",
    is_flag=True,
    help="Sweep even while stages run over RabbitMQ; large messages that they hold may be lost.",
)
@json_option
@pass_invocation
def sweep_(
    invocation: Invocation, age: float | None, dry_run: bool, force: bool, as_json: bool
) -> None:
    """Delete blobs that no message in any queue refers to.

    Such blobs are left over where a process was killed at the wrong moment. Over RabbitMQ the
    stages have to be stopped meanwhile, because nobody can see what they have in hand, and it takes
    a minute; over the embedded broker they may run.
    """
    settings = invocation.settings()
    age = _allowed(settings, age)
    with open_steward(settings) as steward:
        held = _held(settings, steward, force)
    blobs = open_spool(settings)
    before = SystemClock().now() - age
    every = asyncio.run(blobs.blobs())
    found = orphans.orphans(every, held, before)
    left = {key: why for key, why in _troubles(every).items() if not held.hold(key)}
    deleted: Sequence[str] = ()
    if found and not dry_run:
        keep = orphans.AllBut({blob.key for blob in found})
        swept = asyncio.run(blobs.sweep(age, keep))
        deleted = swept.deleted
        left |= swept.left
    _report(found, deleted, dry_run, as_json)
    _tell(left, "swept")


def _allowed(settings: Settings, age: float | None) -> float:
    """Return the age to sweep at.

    Raises:
        UsageError: it is too young.
    """
    least = orphans.youngest(settings.retry.give_up_after)
    if age is None:
        return max(orphans.USUAL, least + orphans.DAY)
    if age < least:
        raise click.UsageError(
            f"--older-than: expected {show.duration(least)} at least, which is"
            " retry.give_up_after and a day"
        )
    return age


def _held(settings: Settings, steward: Steward, force: bool) -> orphans.References:
    """Return what the queues refer to.

    Raises:
        ClickException: not all of it can be seen.
    """
    if missing := absent(steward):
        raise click.ClickException(
            "nothing was swept, as not all messages can be seen: " + words(settings, missing)
        )
    _require_idle(steward, force)
    held = orphans.references(steward.everything())
    _require_idle(steward, force)
    return held


def _require_idle(steward: Steward, force: bool) -> None:
    busy = {} if force else steward.consumers()
    if busy:
        who = ", ".join(f"{queue} ({count})" for queue, count in busy.items())
        raise click.ClickException(
            f"nothing was swept: stages are running, as the consumers of these queues: {who}."
            " What they have in hand cannot be seen, and its blobs might be deleted."
            " Stop them meanwhile"
        )


def _report(
    found: Sequence[StoredBlob], deleted: Sequence[str], dry_run: bool, as_json: bool
) -> None:
    gone = [blob for blob in found if dry_run or blob.key in deleted]
    if as_json:
        show.as_json({"deleted": len(deleted), "orphans": [_record(blob) for blob in gone]})
        return
    if gone:
        _print(gone)
    size = show.size(sum(blob.size for blob in gone))
    verb = "to be deleted" if dry_run else "deleted"
    click.echo(f"{verb}: {len(gone)} ({size})")


def _record(blob: StoredBlob) -> dict[str, object]:
    if blob.trouble is not None:
        return {"key": blob.key, "size": None, "written": None}
    return {"key": blob.key, "size": blob.size, "written": show.time(blob.written)}


def _print(blobs: Sequence[StoredBlob]) -> None:
    show.table(_COLUMNS, map(_row, blobs), whole=_COLUMNS)


def _row(blob: StoredBlob) -> tuple[str, str, str]:
    if blob.trouble is not None:
        return blob.key, "?", "?"
    return blob.key, show.size(blob.size), show.minute(show.time(blob.written))
