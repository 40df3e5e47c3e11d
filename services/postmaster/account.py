"""The commands ``account``: when it is polled, what lies at its server, and what counts as new.

They write a word beside the account; whoever polls it next follows it. So they work while processes
run, and where they do not, and need no password of the account. The other commands of this group
have modules of their own.
"""

from __future__ import annotations

import asyncio
import imaplib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from services.postmaster import show
from services.postmaster.authorize import authorize
from services.postmaster.delivered import Delivered, delivered_in
from services.postmaster.delivered_imap import delivered_at, mailbox_at
from services.postmaster.invocation import Invocation, pass_invocation
from services.postmaster.opening import account_states, open_state
from services.postmaster.options import json_option, require_confirmed, seconds, yes_option
from services.postmaster.token_keys import deauthorize, rotate_key
from shared.clock import SystemClock
from shared.ledger import ADOPT, FETCH_AGAIN, FLOOD, RELEASE, SKIP, UNDELIVERED, LedgerEntry
from shared.log import printable
from shared.words import counted

if TYPE_CHECKING:
    from shared.settings.account import AccountSettings
    from shared.settings.model import Settings
    from shared.state import AccountState

_VARIABLE: Final = "POP3_CONNECTOR_IMAP_PASSWORD"
"""The variable with the password of a mailbox that is learnt from."""

_names = click.argument("names", nargs=-1, metavar="[NAME]...")
_all = click.option(
    "--all", "every", is_flag=True, help="All accounts, also those configured later."
)

_SAID: Final = {
    ADOPT: "what lies at its server then counts as delivered",
    FETCH_AGAIN: "all that lies at its server then is delivered again",
    RELEASE: "all that is new at its server then is fetched",
    SKIP: "what lies at its server then counts as seen, and stays there",
    UNDELIVERED: "what lies at its server then is fetched again, if it was never delivered",
}


_PORTION: Final = 1_000
"""Messages that are recorded in one transaction."""

FOREVER: Final = 253_402_300_799.0
"""The last second of the year 9999: until when an account is paused that nobody says it of."""

RESUMED: Final = "resumed"
"""What is shown in its place."""


def paused_until(moment: float) -> str:
    """Return until when an account is paused, as it is shown, for people and in JSON."""
    return show.time(moment) if moment < FOREVER else RESUMED


@click.group(help="Fetch now, or pause; authorize; count what lies there as delivered, or not.")
def account() -> None:
    """Group the commands."""


account.add_command(authorize)
account.add_command(deauthorize)
account.add_command(rotate_key)


@account.command("adopt")
@_names
@_all
@click.option(
    "--maildir",
    "maildirs",
    multiple=True,
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Learn from these mailboxes what was delivered; all else is fetched.",
)
@click.option(
    "--imap",
    "url",
    metavar="URL",
    help=f"The same from imaps://user@host; its password is asked for, or in ${_VARIABLE}.",
)
@yes_option
@json_option
@pass_invocation
def adopt(
    invocation: Invocation,
    names: Sequence[str],
    every: bool,
    maildirs: Sequence[Path],
    url: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Count what lies at the servers of these accounts as delivered; what comes later is fetched.

    The next poll does so, and an account that is held is polled again. Each message is read once,
    for its identity, and stays at the server for as long as the account keeps its mail there.
    With --maildir or --imap only what lies in these mailboxes counts as delivered, by our own
    header lines; what else is at the server is fetched.
    """
    settings = invocation.settings()
    chosen = _choose_accounts(settings, names, every)
    if maildirs or url is not None:
        _learn(settings, chosen, maildirs, url)
        _choose(settings, chosen, RELEASE, every, as_json=as_json)
        return
    deleting = [found.name for found in chosen if not math.isinf(found.keep.seconds)]
    if deleting and not yes:
        require_confirmed(
            f"{_some(deleting)}: mail is deleted at the server when it was kept there for its time"
            " (keep), also what was never delivered and counts as delivered from now on. Go on?",
            f"{_some(deleting)}: adopt lets mail be deleted at the server (keep), also what was"
            " never delivered",
            "nothing was chosen",
        )
    _choose(settings, chosen, ADOPT, every, as_json=as_json)


@account.command("fetch-again")
@_names
@_all
@click.option("--undelivered", is_flag=True, help="Only what was never delivered to anybody.")
@yes_option
@json_option
@pass_invocation
def fetch_again(
    invocation: Invocation,
    names: Sequence[str],
    every: bool,
    undelivered: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Fetch again what lies at the servers of these accounts, and deliver it again.

    The next poll does so, and an account that is held is polled again. With --undelivered only what
    the ledger of deliveries does not know, as after the queues were lost.
    """
    settings = invocation.settings()
    chosen = _choose_accounts(settings, names, every)
    if not (undelivered or yes):
        some = _some([found.name for found in chosen])
        require_confirmed(
            f"{some}: all that lies at the server is delivered"
            " once more, also what was delivered. Go on?",
            f"{some}: fetch-again without --undelivered delivers all once more",
            "nothing was chosen",
        )
    _choose(settings, chosen, UNDELIVERED if undelivered else FETCH_AGAIN, every, as_json=as_json)


@account.command("release")
@_names
@click.option("--skip", is_flag=True, help="Count what is there as seen; it stays at the server.")
@json_option
@pass_invocation
def release(invocation: Invocation, names: Sequence[str], skip: bool, as_json: bool) -> None:
    """Go on with accounts that are held as their mail seemed to come all over again.

    All that is new there is fetched; with --skip it counts as seen, and is neither fetched nor
    deleted. What comes later is fetched as ever.
    """
    settings = invocation.settings()
    chosen = _choose_accounts(settings, names, every=False)
    states = account_states(settings)
    for found in chosen:
        state = states.get(found.name)
        if state is None or state.held is None or not state.held.startswith(FLOOD):
            raise click.ClickException(
                f"{printable(found.name)} is not held for mail that comes all over again"
            )
    _choose(settings, chosen, SKIP if skip else RELEASE, every=False, as_json=as_json)


@account.command("fetch-now")
@_names
@_all
@json_option
@pass_invocation
def fetch_now(invocation: Invocation, names: Sequence[str], every: bool, as_json: bool) -> None:
    """Poll these accounts as soon as a fetcher has a place for them, also where they had failed.

    A delay that the server wants between logins is kept to; what is held or paused stays so.
    """
    settings = invocation.settings()
    chosen = _choose_accounts(settings, names, every)
    states = asyncio.run(_ask_to_fetch(settings, [found.name for found in chosen]))
    waits = _reasons_to_wait(chosen, states)
    if as_json:
        show.as_json([{"account": name, "due": wait or "now"} for name, wait in waits.items()])
        return
    for name, wait in waits.items():
        click.echo(f"{printable(name)}: {_when(name, wait, states)}")


@account.command("pause")
@_names
@_all
@click.option(
    "--for", "lasting", metavar="TIME", callback=seconds, help='Such as "1w"; else until resumed.'
)
@json_option
@pass_invocation
def pause(
    invocation: Invocation,
    names: Sequence[str],
    every: bool,
    lasting: float | None,
    as_json: bool,
) -> None:
    """Poll these accounts no more, for a time or until they are resumed.

    It counts for every fetcher, over restarts. A poll that is underway comes to its end, and what
    was fetched is delivered.
    """
    settings = invocation.settings()
    chosen = _choose_accounts(settings, names, every)
    until = FOREVER if lasting is None else min(SystemClock().now() + lasting, FOREVER)
    asyncio.run(_pause(settings, [found.name for found in chosen], until))
    shown = paused_until(until)
    if as_json:
        show.as_json([{"account": found.name, "paused_until": shown} for found in chosen])
        return
    for found in chosen:
        resume = f"account resume {printable(found.name)}"
        end = f"until {resume if shown == RESUMED else shown}"
        click.echo(f"{printable(found.name)}: paused {end}")


@account.command("resume")
@_names
@_all
@json_option
@pass_invocation
def resume(invocation: Invocation, names: Sequence[str], every: bool, as_json: bool) -> None:
    """Poll these accounts again that were paused, at once."""
    settings = invocation.settings()
    chosen = _choose_accounts(settings, names, every)
    states = asyncio.run(_pause(settings, [found.name for found in chosen], None))
    if as_json:
        show.as_json([{"account": found.name, "paused_until": None} for found in chosen])
        return
    for name, wait in _reasons_to_wait(chosen, states).items():
        when = "polled again" if wait is None else f"resumed: {_when(name, wait, states)}"
        click.echo(f"{printable(name)}: {when}")


async def _ask_to_fetch(settings: Settings, names: Sequence[str]) -> Mapping[str, AccountState]:
    async with open_state(settings.state_address()) as state:
        await state.fetch_now(names)
        return await state.accounts()


async def _pause(
    settings: Settings, names: Sequence[str], until: float | None
) -> Mapping[str, AccountState]:
    async with open_state(settings.state_address()) as state:
        await state.pause(names, until=until)
        return await state.accounts()


def _reasons_to_wait(
    accounts: Sequence[AccountSettings], states: Mapping[str, AccountState]
) -> Mapping[str, str | None]:
    now = SystemClock().now()
    return {found.name: _waits(found, states.get(found.name), now) for found in accounts}


def _when(name: str, wait: str | None, states: Mapping[str, AccountState]) -> str:
    """Return in words when an account is polled that is to be polled now."""
    state = states.get(name)
    why = "" if state is None else printable(state.held or "")
    return _WHEN[wait].format(name=printable(name), why=why)


def _waits(account: AccountSettings, state: AccountState | None, now: float) -> str | None:
    """Return why an account that is to be polled now is not, None where it is."""
    if not account.enabled:
        return "disabled"
    if state is not None and state.held is not None and state.choice is None:
        return "held"
    if state is not None and state.paused_until is not None and state.paused_until > now:
        return "paused"
    return None


_WHEN: Final[Mapping[str | None, str]] = {
    None: "polled as soon as a fetcher has a place for it",
    "disabled": "polled once it is enabled",
    "held": "it is held: {why}; choose with account adopt or fetch-again",
    "paused": "it is paused: account resume {name}",
}
"""When an account is polled that is to be polled now, by what it waits for."""


def _choose_accounts(
    settings: Settings, names: Sequence[str], every: bool
) -> list[AccountSettings]:
    """Return the accounts that are meant.

    Raises:
        click.ClickException: there is none of that name, or nobody knows which are meant.
    """
    if every == bool(names):
        raise click.UsageError("name the accounts, or pass --all")
    known = {account.name: account for account in settings.accounts}
    if unknown := [name for name in names if name not in known]:
        raise click.ClickException(f"there is no account {printable(unknown[0])}")
    return list(known.values()) if every else [known[name] for name in dict.fromkeys(names)]


def _choose(
    settings: Settings,
    accounts: Sequence[AccountSettings],
    choice: str,
    every: bool,
    *,
    as_json: bool,
) -> None:
    names = [account.name for account in accounts]
    asyncio.run(_write_choice(settings, names, choice, every))
    if as_json:
        show.as_json([{"account": name, "choice": choice} for name in names])
        return
    for account in accounts:
        when = "with its next poll" if account.enabled else "once it is enabled"
        click.echo(f"{printable(account.name)}: {when}, {_SAID[choice]}")


async def _write_choice(settings: Settings, names: Sequence[str], choice: str, every: bool) -> None:
    async with open_state(settings.state_address()) as state:
        await state.choose(names, choice, ends=every)


def _learn(
    settings: Settings,
    accounts: Sequence[AccountSettings],
    maildirs: Sequence[Path],
    url: str | None,
) -> None:
    """Record what lies in mailboxes as delivered.

    Raises:
        click.ClickException: there is nothing of an account, or they cannot be read.
    """
    found: dict[str, set[str]] = {account.name: set() for account in accounts}
    try:
        for name, id_ in chain(*map(delivered_in, maildirs), _delivered_at(url)):
            if name in found:
                found[name].add(id_)
    except (OSError, imaplib.IMAP4.error) as error:
        raise click.ClickException(f"nothing was chosen: {printable(str(error))}") from error
    if without := [name for name in found if not found[name]]:
        raise click.ClickException(
            f"nothing was chosen: no message that was delivered from account {_some(without)} is"
            " there; without --maildir and --imap, all that lies at its server counts as delivered"
        )
    asyncio.run(_record_delivered(settings, found))
    for name, ids in found.items():
        click.echo(f"{printable(name)}: {counted(len(ids), 'message')} there", err=True)


def _delivered_at(url: str | None) -> Iterator[Delivered]:
    """Return what lies in the mailbox at an IMAP server; nothing where there is no URL."""
    if url is None:
        return iter(())
    try:
        mailbox = mailbox_at(url)
    except ValueError as error:
        raise click.UsageError(f"--imap: {error}") from error
    password = mailbox.password or os.environ.get(_VARIABLE)
    if not password:
        password = click.prompt(f"Password of {printable(mailbox.username)}", hide_input=True)
    return delivered_at(mailbox, str(password))


async def _record_delivered(settings: Settings, found: Mapping[str, set[str]]) -> None:
    async with open_state(settings.state_address()) as state:
        for name, ids in found.items():
            every = sorted(ids)
            for start in range(0, len(every), _PORTION):
                some = every[start : start + _PORTION]
                await state.record(name, [LedgerEntry(None, id_) for id_ in some])
                await state.count_as_delivered(some)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(printable, names[:3]))
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
