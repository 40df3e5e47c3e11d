"""Which messages of a folder a command is about: by their ids, by what is known of them, or all.

Several filters narrow each other. Ids and filters together are refused, since they could mean two
things, and so is an empty filter, as an unset variable of a script makes it: it would mean all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from heapq import nlargest
from typing import Any, Final, ParamSpec, TypeVar

import click

from services.postmaster.errors import NotFound
from services.postmaster.mail_folder import (
    Chosen,
    MailFolder,
    Matching,
    MessageChoice,
    browse,
    find,
)
from services.postmaster.options import seconds
from shared.broker import Steward, Stored
from shared.queues import STAGES

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Filters:
    """What messages have in common; None for what does not matter.

    Attributes:
        account: the name of the account that they came from.
        reason: a part of the reason, in capitals or not.
        stage: the stage that gave them up.
        older: seconds for which they have been in the folder, at the least.
    """

    account: str | None = None
    reason: str | None = None
    stage: str | None = None
    older: float | None = None

    def take(self, message: Stored) -> bool:
        """Return whether they all hold for a message."""
        headers = message.headers
        return (
            self.account in (None, headers.get("account"))
            and (self.reason or "").casefold() in str(headers.get("reason", "")).casefold()
            and self.stage in (None, headers.get("stage"))
            and (self.older is None or _age(message) >= self.older)
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """The messages that a command is about.

    Attributes:
        ids: each whole or cut to its beginning; () where the filters say which.
    """

    ids: tuple[str, ...]
    filters: Filters

    def of(self, steward: Steward, folder: MailFolder) -> Iterable[Stored]:
        """Return the messages in a folder that are meant; all stay there.

        Raises:
            NotFound: an id names no message, or several different ones; nothing matches the
                filters.
        """
        if self.ids:
            return find(steward, folder, self.ids)
        return self._matching(steward, folder)

    def choice(self, steward: Steward, folder: MailFolder) -> MessageChoice:
        """Return what is meant, to be taken at once: nobody thinks about it in between.

        Raises:
            NotFound: an id names no message, or several different ones.
        """
        if self.ids:
            return Chosen(find(steward, folder, self.ids))
        return Matching(folder, self.filters.take)

    def require_some(self, choice: MessageChoice, folder: MailFolder) -> None:
        """Make sure that filters were met by something; "all" of nothing is done.

        Args:
            choice: what was taken.
            folder: where.

        Raises:
            NotFound: nothing matches them.
        """
        if not choice.count and self.filters != Filters():
            raise NotFound(
                f"no message in {folder.title} matches; see: pop3-connector {folder.name} list"
            )

    def _matching(self, steward: Steward, folder: MailFolder) -> Iterator[Stored]:
        matching = Matching(folder, self.filters.take)
        yield from filter(matching.takes, browse(steward, folder))
        self.require_some(matching, folder)


def newest(messages: Iterable[Stored], count: int) -> Iterator[Stored]:
    """Return the messages that came last to where they are, the last of them first.

    One of which nobody knows when counts as old. Their bytes are left out: it holds ``count`` of
    them in memory.
    """
    known = ((_since(message) or 0.0, at, message) for at, message in enumerate(messages))
    bare = ((since, at, replace(message, body=b"")) for since, at, message in known)
    return (message for *_, message in nlargest(count, bare, key=lambda found: found[:2]))


def _age(message: Stored) -> float:
    """Return for how many seconds a message has been where it is; 0 where nobody knows."""
    since = _since(message)
    return 0.0 if since is None else time.time() - since


def _since(message: Stored) -> float | None:
    """Return when a message came to where it is, None where nobody knows."""
    try:
        return datetime.fromisoformat(str(message.headers.get("failed-at"))).timestamp()
    except (ValueError, OverflowError):
        return None


def _filled(_: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.strip():
        raise click.BadParameter("expected a text: an empty one would mean all", param=parameter)
    return value


_FILTERS: Final = (
    click.option("--account", metavar="NAME", callback=_filled, help="Only mail of this account."),
    click.option(
        "--reason", metavar="TEXT", callback=_filled, help="Only with this text in the reason."
    ),
    click.option("--stage", type=click.Choice(tuple(STAGES)), help="Only what this stage gave up."),
    click.option(
        "--older",
        metavar="DURATION",
        callback=seconds,
        help="Only what has been here for so long, such as 2d.",
    ),
)


def filtered(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command the options of ``Filters``, of which ``filters_in`` makes them."""
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def selecting(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command ids, ``--all`` and filters, of which ``selection_in`` makes a selection."""
    every = click.option("--all", "every", is_flag=True, help="All of them, or all that match.")
    return click.argument("ids", metavar="[ID...]", nargs=-1)(every(filtered(command)))


def filters_in(options: Mapping[str, Any]) -> Filters:
    """Return the filters in the options of a command."""
    return Filters(**{name: options[name] for name in Filters.__slots__})


def selection_in(options: Mapping[str, Any]) -> Selection:
    """Return the selection in the options of a command.

    Raises:
        UsageError: they select nothing, or could mean two things.
    """
    ids, filters = tuple(options["ids"]), filters_in(options)
    if bool(ids) == (options["every"] or filters != Filters()):
        raise click.UsageError(
            "expected either IDs or --all, or filters such as --account NAME in their place"
        )
    return Selection(ids, filters)
