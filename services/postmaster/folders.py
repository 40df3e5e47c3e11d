"""The commands ``failed`` and ``quarantine``: the same five for each folder."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import click

from services.postmaster import parked, show
from services.postmaster.export import export
from services.postmaster.invocation import Invocation, pass_invocation
from services.postmaster.open import open_spool, open_steward
from services.postmaster.parked import FAILED, QUARANTINED, Chosen, Folder
from services.postmaster.selection import Filters, filtered, filters_in, selecting, selection_in
from shared.broker import Stored
from shared.broker.requeue import Order
from shared.clock import SystemClock
from shared.log import printable
from shared.settings_fields import MAILBOX

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_id = click.argument("id_", metavar="ID")

_AGAIN: Final = """Try messages again, directed anew: to the mailbox and destination that the
configuration names now for their account, or that you name here. Who has a message already does not
get it again."""


def _commands(folder: Folder) -> click.Group:
    """Return the group of commands that work on a folder."""
    about = f"See and settle the messages in {folder.title}. An ID can be cut to its beginning."
    group = click.Group(folder.name, help=about)
    for command in (_list, _show, _again, export, _drop):
        group.add_command(command(folder))
    return group


def _list(folder: Folder) -> click.Command:
    @click.command("list", help=f"List the messages in {folder.title}, oldest first.")
    @filtered
    @_json
    @pass_invocation
    def list_(invocation: Invocation, /, as_json: bool, **options: Any) -> None:
        filters = filters_in(options)
        with open_steward(invocation.settings()) as steward:
            messages = filter(filters.take, parked.browse(steward, folder))
            if as_json:
                show.as_json([show.record(message) for message in messages])
            else:
                title = folder.title[0].upper() + folder.title[1:]
                show.listed(messages, title if filters == Filters() else f"{title}, so filtered,")

    return list_


def _show(folder: Folder) -> click.Command:
    @click.command("show", help="Show a message: why it is here, its way so far, its header.")
    @_id
    @_json
    @pass_invocation
    def show_(invocation: Invocation, id_: str, as_json: bool) -> None:
        with open_steward(invocation.settings()) as steward:
            messages = parked.find(steward, folder, [id_])
        if as_json:
            show.as_json([show.details(message) for message in messages])
            return
        for message in messages:
            show.shown(message)

    return show_


def _again(folder: Folder) -> click.Command:
    @click.command(folder.again, help=_AGAIN)
    @selecting
    @click.option(
        "--recipient",
        "recipients",
        metavar="ADDR",
        multiple=True,
        callback=_addresses,
        help="Send them to this mailbox, not to that of their account; can be repeated.",
    )
    @click.option(
        "--destination", metavar="NAME", help="Have this destination take them, not the account's."
    )
    @_json
    @pass_invocation
    def again(
        invocation: Invocation,
        /,
        recipients: tuple[str, ...],
        destination: str | None,
        as_json: bool,
        **options: Any,
    ) -> None:
        selection, settings = selection_in(options), invocation.settings()
        if destination is not None and destination not in settings.every_destination:
            known = ", ".join(settings.every_destination)
            raise click.UsageError(f"no such destination; there are: {known}")
        order = Order(folder.again, SystemClock().now(), recipients, destination or "")
        with open_steward(settings) as steward:
            chosen = Chosen(selection.of(steward, folder))
            count = parked.send_again(steward, chosen, order)
        show.report({folder.done: count}, json_wanted=as_json)
        if count < chosen.count:
            raise click.ClickException(_stays(chosen.count - count, chosen.count))

    return again


def _addresses(
    _: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> tuple[str, ...]:
    for address in given:
        if not re.fullmatch(MAILBOX, address, re.ASCII):
            what = 'expected a mailbox, such as "sales@corp.example"'
            raise click.BadParameter(what, param=parameter)
    return tuple(dict.fromkeys(given))


def _stays(count: int, asked: int) -> str:
    return (
        f"{count} of {asked} messages stayed: gone from there meanwhile, or no envelope that this"
        " version can read and send where you want it"
    )


def _drop(folder: Folder) -> click.Command:
    @click.command("drop", help="Delete messages for good.")
    @selecting
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @_json
    @pass_invocation
    def drop(invocation: Invocation, /, yes: bool, as_json: bool, **options: Any) -> None:
        selection, settings = selection_in(options), invocation.settings()
        with open_steward(settings) as steward:
            chosen = Chosen(_noted(selection.of(steward, folder)))
            if chosen.count and not (yes or _confirmed(chosen, folder)):
                raise click.ClickException("nothing was dropped")
            dropped = asyncio.run(parked.drop(steward, open_spool(settings), chosen))
        show.report({"dropped": dropped.messages}, json_wanted=as_json)
        if dropped.left:
            raise click.ClickException(_left(dropped.left))
        if dropped.messages < chosen.count:
            stayed = chosen.count - dropped.messages
            raise click.ClickException(
                f"{stayed} of {chosen.count} messages were gone from there meanwhile"
            )

    return drop


def _noted(messages: Iterable[Stored]) -> Iterator[Stored]:
    """Yield the messages; say of which the message in the queue alone can be dropped."""
    for message in messages:
        if why := parked.without_blob(message):
            click.echo(f"only the message in the queue can be dropped: {why}", err=True)
        yield message


def _left(left: Mapping[str, str]) -> str:
    blobs = ", ".join(f"{printable(key)} ({why})" for key, why in left.items())
    return (
        f"the message is gone from its queue, but not from the spool: {blobs};"
        " spool sweep deletes it later"
    )


def _confirmed(chosen: Chosen, folder: Folder) -> bool:
    if not sys.stdin.isatty():
        raise click.ClickException("drop deletes for good; say --yes where nobody can be asked")
    ids = {id_ for found in chosen.ids.values() for id_ in found}
    what = ids.pop() if len(ids) == 1 else f"{chosen.count} messages in {folder.title}"
    return click.confirm(f"Delete {printable(what)} for good?", err=True)


failed = _commands(FAILED)
quarantine = _commands(QUARANTINED)
