"""The command ``accounts``: how each account stands, by what the fetchers wrote down of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from services.postmaster import show
from services.postmaster.account import FOREVER, paused_until
from services.postmaster.authorizations import ending_soon
from services.postmaster.invocation import Invocation, pass_invocation
from services.postmaster.opening import account_states, missing_database
from services.postmaster.options import json_option
from shared.clock import SystemClock
from shared.ledger import FLOOD
from shared.log import printable
from shared.settings.account import AccountSettings

if TYPE_CHECKING:
    from shared.state import AccountState

LATE: Final = 300.0
"""Seconds after which an account that is due, and that nobody polls, is worth a word: a fetcher
looks every second."""

QUEUED_LONG: Final = 900.0
"""Seconds after which a poll job that was queued was lost, or has nobody to take it. A poll keeps
its job for ten minutes at the most, and says so from then on."""

_COLUMNS: Final = (
    "account",
    "status",
    "next poll",
    "last ok",
    "failures",
    "last error",
    "left undone",
)
_WHOLE: Final = ("status", "next poll", "last ok", "failures")
_UNDER: Final = {"failures": "status", "last ok": "next poll", "left undone": "last error"}
_LONG: Final = 2000
"""Characters of a reason that are shown."""

FAILING: Final = 1
"""The exit status where an account fails, or is held, or nobody knows."""


@click.command("accounts")
@click.argument("name", required=False)
@json_option
@pass_invocation
@click.pass_context
def accounts(
    context: click.Context, invocation: Invocation, name: str | None, as_json: bool
) -> None:
    """Show how each account stands, or all about the one called NAME.

    When it was polled last, what went wrong or was left undone, and when it is polled next. The
    exit status is 1 where an account fails, or is held, or the state database is not there.
    """
    settings = invocation.settings()
    states = account_states(settings)
    now = SystemClock().now()
    stand = [(account, states.get(account.name)) for account in settings.accounts]
    if name is not None:
        stand = [(account, state) for account, state in stand if account.name == name]
        if not stand:
            raise click.ClickException(f"there is no account {printable(name)}")
    if as_json:
        show.as_json([_record(account, state, now) for account, state in stand])
    elif not stand:
        click.echo("There is no [[account]] in the configuration.")
    elif name is not None:
        _in_full(*stand[0], now)
    else:
        rows = (_row(account, state, now) for account, state in stand)
        show.table(_COLUMNS, rows, whole=_WHOLE, under=_UNDER)
    absent = missing_database(settings)
    if absent is not None:
        click.echo(
            f"there is no {printable(str(absent))}. Is data_dir right? If so, the first start"
            " makes it, and nothing was fetched yet",
            err=True,
        )
    for warning in () if as_json else ending_soon(settings):
        click.echo(f"warning: {printable(warning, _LONG)}", err=True)
    held = sum(_held(state) for _, state in stand)
    flooded = any(state and state.held and state.held.startswith(FLOOD) for _, state in stand)
    released = "; or account release [--skip], as the reason says" if flooded else ""
    if held and not as_json:
        what = f"choose with account adopt, or account fetch-again{released}"
        click.echo(f"{held} held: {what}", err=True)
    late = sum(_overdue(account, state, now) for account, state in stand)
    if late and not as_json:
        click.echo(f"{late} overdue: is a fetcher running, and the broker up?", err=True)
    failing = any(_status(account, state, now) == "failing" for account, state in stand)
    if absent is not None or held or failing:
        context.exit(FAILING)


def _in_full(account: AccountSettings, state: AccountState | None, now: float) -> None:
    """Print how one account stands, a line for each thing that is left undone."""
    record = _record(account, state, now)
    undone = record.pop("left_undone")
    show.entry("maildrop", printable(f"{account.username} at {account.host}:{account.port}"))
    for key, value in record.items():
        show.entry(key.replace("_", " "), printable("" if value is None else str(value), _LONG))
    for sentence in undone if isinstance(undone, list) else ():
        show.entry("left undone", printable(sentence, _LONG))


def _record(account: AccountSettings, state: AccountState | None, now: float) -> dict[str, object]:
    return {
        "account": account.name,
        "status": _status(account, state, now),
        "next_poll": _next_poll(state, now),
        "overdue": _overdue(account, state, now),
        "last_ok": show.time(state.last_ok) if state and state.last_ok else None,
        "failures": state.failures if state else 0,
        "last_error": state.last_error if state else None,
        "held": state.held if state else None,
        "choice": state.choice if state else None,
        "paused_until": _paused_until(state, now),
        "left_undone": _undone(state),
    }


def _next_poll(state: AccountState | None, now: float) -> str | None:
    """Return when an account is due; None where that is at once, or nobody knows."""
    if state is None:
        return None
    pause = (state.paused_until or 0.0) if _paused(state, now) else 0.0
    due = max(state.next_poll, pause)
    return show.time(due) if due > 0 and pause < FOREVER else None


def _paused_until(state: AccountState | None, now: float) -> str | None:
    """Return until when an account is paused, or ``resumed``; None where it is not."""
    if state is None or state.paused_until is None or not _paused(state, now):
        return None
    return paused_until(state.paused_until)


def _undone(state: AccountState | None) -> list[str]:
    """Return what the last poll left undone, a sentence each."""
    return state.undone.split("\n") if state is not None and state.undone else []


def _row(account: AccountSettings, state: AccountState | None, now: float) -> tuple[object, ...]:
    ok = f"{show.roughly(now - state.last_ok)} ago" if state and state.last_ok else "never"
    return (
        account.name,
        _status(account, state, now),
        _next(account, state, now),
        ok,
        state.failures if state else 0,
        state.held or state.last_error or "" if state else "",
        "; ".join(_undone(state)),
    )


def _status(account: AccountSettings, state: AccountState | None, now: float) -> str:
    """Return words for how an account stands."""
    asked = "held" if _held(state) else state.choice if state is not None else None
    if not account.enabled:
        return f"disabled, {asked}" if asked else "disabled"
    if asked:
        return asked
    if _paused(state, now):
        return "paused"
    if state is not None and state.failures:
        return "failing"
    if state is not None and state.queued_until > now and not _overdue(account, state, now):
        return "polling"
    return "ok" if state is not None and state.last_ok else "never polled"


def _held(state: AccountState | None) -> bool:
    """Return whether an account is held, be it disabled or not, and nobody has chosen for it."""
    return state is not None and state.held is not None and state.choice is None


def _paused(state: AccountState | None, now: float) -> bool:
    return state is not None and state.paused_until is not None and state.paused_until > now


def _next(account: AccountSettings, state: AccountState | None, now: float) -> str:
    if state is None or not account.enabled or _held(state):
        return ""
    if state.paused_until is not None and state.paused_until > now:
        wait = state.paused_until - now
        return f"in {show.roughly(wait)}" if state.paused_until < FOREVER else "when resumed"
    if _overdue(account, state, now):
        return f"overdue {show.roughly(now - state.next_poll)}"
    wait = state.next_poll - now
    return f"in {show.roughly(wait)}" if wait > 0 else "now"


def _overdue(account: AccountSettings, state: AccountState | None, now: float) -> bool:
    """Return whether an account has been due for long, and nobody is polling it or about to."""
    if state is None or not account.enabled or _held(state) or _paused(state, now):
        return False
    queued = state.queued_until > now and state.queued_at > now - QUEUED_LONG
    return not queued and 0 < state.next_poll < now - LATE
