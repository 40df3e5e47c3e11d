"""The command ``accounts``: how each account stands, by what the fetchers wrote down of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from services.postmaster import show
from services.postmaster.invocation import Invocation, pass_invocation
from services.postmaster.open import account_states
from shared.clock import SystemClock
from shared.settings import Account

if TYPE_CHECKING:
    from shared.state import AccountState

LATE: Final = 300.0
"""Seconds after which an account that is due, and that nobody polls, is worth a word: a fetcher
looks every second."""

_COLUMNS: Final = ("account", "status", "next poll", "last ok", "failures", "last error")
_WHOLE: Final = ("status", "next poll", "last ok", "failures")
_UNDER: Final = {"failures": "status", "last ok": "next poll"}


@click.command("accounts")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_invocation
def accounts(invocation: Invocation, as_json: bool) -> None:
    """Show how each account stands.

    When it was polled last, what went wrong, and when it is polled next.
    """
    settings = invocation.settings()
    states = account_states(settings)
    now = SystemClock().now()
    stand = [(account, states.get(account.name)) for account in settings.accounts]
    if as_json:
        show.as_json([_record(account, state, now) for account, state in stand])
        return
    if not stand:
        click.echo("There is no [[account]] in the configuration.")
        return
    rows = (_row(account, state, now) for account, state in stand)
    show.table(_COLUMNS, rows, whole=_WHOLE, under=_UNDER)
    if late := sum(_overdue(account, state, now) for account, state in stand):
        click.echo(f"{late} overdue: is a fetcher running, and the broker up?", err=True)


def _record(account: Account, state: AccountState | None, now: float) -> dict[str, object]:
    return {
        "account": account.name,
        "status": _status(account, state, now),
        "next_poll": show.time(state.next_poll) if state and state.next_poll else None,
        "overdue": _overdue(account, state, now),
        "last_ok": show.time(state.last_ok) if state and state.last_ok else None,
        "failures": state.failures if state else 0,
        "last_error": state.last_error if state else None,
    }


def _row(account: Account, state: AccountState | None, now: float) -> tuple[object, ...]:
    ok = f"{show.roughly(now - state.last_ok)} ago" if state and state.last_ok else "never"
    return (
        account.name,
        _status(account, state, now),
        _next(account, state, now),
        ok,
        state.failures if state else 0,
        state.last_error or "" if state else "",
    )


def _status(account: Account, state: AccountState | None, now: float) -> str:
    """Return a word for how an account stands."""
    if not account.enabled:
        return "disabled"
    if state is not None and state.failures:
        return "failing"
    if state is not None and state.queued_until > now:
        return "polling"
    return "ok" if state is not None and state.last_ok else "never polled"


def _next(account: Account, state: AccountState | None, now: float) -> str:
    if state is None or not account.enabled:
        return ""
    if _overdue(account, state, now):
        return f"overdue {show.roughly(now - state.next_poll)}"
    wait = state.next_poll - now
    return f"in {show.roughly(wait)}" if wait > 0 else "now"


def _overdue(account: Account, state: AccountState | None, now: float) -> bool:
    """Return whether an account has been due for long, and no poll job for it is on its way."""
    if state is None or not account.enabled or state.queued_until > now:
        return False
    return 0 < state.next_poll < now - LATE
