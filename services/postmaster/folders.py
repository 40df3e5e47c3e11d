"""The commands ``failed`` and ``quarantine``: the same five for each folder."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import closing
from itertools import islice
from typing import Any, Final

import click

from services.postmaster import mail_folder, show
from services.postmaster.absent import open_folder
from services.postmaster.export import export
from services.postmaster.invocation import Invocation, pass_invocation
from services.postmaster.mail_folder import (
    FAILED,
    QUARANTINED,
    Chosen,
    Dropped,
    MailFolder,
    Matching,
    MessageChoice,
    Sent,
)
from services.postmaster.opening import open_spool
from services.postmaster.options import json_option, require_confirmed, yes_option
from services.postmaster.out_of_sight import unlisted
from services.postmaster.selection import (
    Filters,
    Selection,
    filtered,
    filters_in,
    newest,
    selecting,
    selection_in,
)
from shared import failpoint
from shared.broker import Steward, Stored
from shared.broker.requeue import Order
from shared.clock import SystemClock
from shared.errors import BrokerUnavailable, Refused
from shared.log import printable
from shared.settings.fields import MAILBOX

_id = click.argument("id_", metavar="ID")

NEWEST: Final = 100
"""Messages that are listed, newest first, if nothing else is said: so many are held in memory."""

_AGAIN: Final = """Try messages again, directed anew: to the mailbox and destination that the
configuration names now for their account, or that you name here. Recipients who have a message
already do not get it again."""


def _commands(folder: MailFolder) -> click.Group:
    """Return the group of commands that work on a folder."""
    about = f"List, show and resolve messages in {folder.title}. An ID may be abbreviated."
    group = click.Group(folder.name, help=about)
    for command in (_list, _show, _again, export, _drop):
        group.add_command(command(folder))
    return group


def _list(folder: MailFolder) -> click.Command:
    @click.command("list", help=f"List the messages in {folder.title}, oldest first in each queue.")
    @filtered
    @click.option("--limit", metavar="N", type=click.IntRange(min=1), help="List at most N.")
    @click.option(
        "--newest",
        "newest_first",
        is_flag=True,
        help=f"Newest first: as many as --limit says, or {NEWEST}.",
    )
    @json_option
    @pass_invocation
    def list_(
        invocation: Invocation,
        /,
        limit: int | None,
        newest_first: bool,
        as_json: bool,
        **options: Any,
    ) -> None:
        filters, settings = filters_in(options), invocation.settings()
        with (
            open_folder(settings, folder) as (steward, missing),
            closing(mail_folder.browse(steward, folder)) as browsed,
        ):
            found = filter(filters.take, browsed)
            for line in (hidden := unlisted(settings, steward, folder)):
                click.echo(f"not listed: {line}", err=True)
            messages = newest(found, limit or NEWEST) if newest_first else found
            listed = islice(messages, limit)
            if as_json:
                show.as_json_array(show.record(message) for message in listed)
            else:
                part = "there is" if missing else "can be seen" if hidden else ""
                what = f"what {part} of {folder.title}" if part else folder.title
                title = what[0].upper() + what[1:]
                show.print_messages(
                    listed, title if filters == Filters() else f"{title}, so filtered,"
                )

    return list_


def _show(folder: MailFolder) -> click.Command:
    @click.command("show", help="Show a message: why it is here, its path so far, its header.")
    @_id
    @json_option
    @pass_invocation
    def show_(invocation: Invocation, id_: str, as_json: bool) -> None:
        with open_folder(invocation.settings(), folder) as (steward, _):
            messages = mail_folder.find(steward, folder, [id_])
            if as_json:
                show.as_json([show.details(message) for message in messages])
                return
            for message in messages:
                show.print_message(message)

    return show_


def _again(folder: MailFolder) -> click.Command:
    @click.command(folder.again, help=_AGAIN)
    @selecting
    @click.option(
        "--recipient",
        "recipients",
        metavar="ADDR",
        multiple=True,
        callback=_addresses,
        help="Send them to this mailbox instead of the account's; can be repeated.",
    )
    @click.option(
        "--destination",
        metavar="NAME",
        help="Deliver to this destination instead of the account's.",
    )
    @json_option
    @pass_invocation
    def again(
        invocation: Invocation,
        /,
        recipients: tuple[str, ...],
        destination: str | None,
        as_json: bool,
        **options: Any,
    ) -> None:
        failpoint.arm(invocation.environ)
        selection, settings = selection_in(options), invocation.settings()
        if destination is not None and destination not in settings.every_destination:
            known = ", ".join(settings.every_destination)
            raise click.UsageError(f"no such destination; there are: {known}")
        order = Order(folder.again, SystemClock().now(), recipients, destination or "")
        with open_folder(settings, folder) as (steward, _):
            choice, sent = selection.choice(steward, folder), Sent()
            try:
                mail_folder.send_again(steward, choice, order, sent)
                selection.require_some(choice, folder)
            except (BrokerUnavailable, Refused):
                if sent.count:  # the rest of it is where it was
                    show.report({folder.done: sent.count}, json_wanted=as_json)
                raise
            show.report({folder.done: sent.count}, json_wanted=as_json)
            if sent.count < choice.count:
                raise click.ClickException(_stays(sent, choice.count))

    return again


def _addresses(
    _: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> tuple[str, ...]:
    for address in given:
        if not re.fullmatch(MAILBOX, address, re.ASCII):
            what = 'expected a mailbox, such as "sales@corp.example"'
            raise click.BadParameter(what, param=parameter)
    return tuple(dict.fromkeys(given))


def _stays(sent: Sent, asked: int) -> str:
    gone = asked - sent.count - sent.stayed.total()
    why = [*sent.stayed.items(), *([("moved or dropped meanwhile", gone)] if gone else [])]
    reasons = "; ".join(f"{count} {reason}" for reason, count in why)
    return f"{asked - sent.count} of {asked} messages stayed: {reasons}"


def _drop(folder: MailFolder) -> click.Command:
    @click.command("drop", help="Delete messages for good.")
    @selecting
    @yes_option
    @json_option
    @pass_invocation
    def drop(invocation: Invocation, /, yes: bool, as_json: bool, **options: Any) -> None:
        failpoint.arm(invocation.environ)
        selection, settings = selection_in(options), invocation.settings()
        with open_folder(settings, folder) as (steward, _):
            choice, dropped = _to_drop(selection, steward, folder, yes), Dropped()
            try:
                asyncio.run(mail_folder.drop(steward, open_spool(settings), choice, dropped))
                selection.require_some(choice, folder)
            except (BrokerUnavailable, Refused):
                if dropped.messages:  # the rest of it is where it was
                    show.report({"dropped": dropped.messages}, json_wanted=as_json)
                raise
            _tell(dropped, choice.count, as_json)

    return drop


def _tell(dropped: Dropped, asked: int, as_json: bool) -> None:
    """Say what is gone.

    Raises:
        ClickException: that is not all.
    """
    show.report({"dropped": dropped.messages}, json_wanted=as_json)
    if dropped.left:
        raise click.ClickException(_left(dropped.left))
    if dropped.messages < asked:
        stayed = asked - dropped.messages
        raise click.ClickException(
            f"{stayed} of {asked} messages had been moved or dropped meanwhile"
        )


def _to_drop(
    selection: Selection, steward: Steward, folder: MailFolder, yes: bool
) -> MessageChoice:
    """Return what is to be dropped; asked about, it is what there was when that was said."""
    if yes and not selection.ids:
        return Matching(
            folder, lambda message: selection.filters.take(message) and _warn_without_blob(message)
        )
    chosen = Chosen(filter(_warn_without_blob, selection.of(steward, folder)))
    if chosen.count and not yes:
        _confirm(chosen, folder)
    return chosen


def _warn_without_blob(message: Stored) -> bool:
    """Say of a message if it alone, in its queue, can be dropped; return True."""
    if why := mail_folder.without_blob(message):
        click.echo(f"only the message in the queue can be dropped: {why}", err=True)
    return True


def _left(left: Mapping[str, str]) -> str:
    blobs = ", ".join(f"{printable(key)} ({why})" for key, why in left.items())
    return (
        f"the message is gone from its queue, but not from the spool: {blobs};"
        " spool sweep deletes it later"
    )


def _confirm(chosen: Chosen, folder: MailFolder) -> None:
    ids = {id_ for found in chosen.ids.values() for id_ in found}
    what = ids.pop() if len(ids) == 1 else f"{chosen.count} messages in {folder.title}"
    require_confirmed(
        f"Delete {printable(what)} for good?", "drop deletes permanently", "nothing was dropped"
    )


failed = _commands(FAILED)
quarantine = _commands(QUARANTINED)
