"""What ``check-config`` prints: what was understood, secrets masked, and how the trials went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import click

from services.postmaster import show
from shared.log import printable
from shared.settings.account import AccountSettings
from shared.settings.model import Settings
from shared.settings.providers import floor_of

_NOTHING: Final = {"file": "none: the environment alone", "monitor": "off"}
_VALID: Final = "The configuration is valid."
_FAILED: Final = "The configuration can be read. What failed when it was tried is said below."
_UNDER: Final = {
    "provider": "server",
    "tls": "server",
    "username": "server",
    "password": "server",
    "poll_every": "name",
    "keep": "name",
    "timeout": "name",
    "max_size": "name",
    "destination": "mailbox",
    "enabled": "mailbox",
}


class ConnectionTest(NamedTuple):
    """How it went to log in to an account, or to reach a place.

    Attributes:
        what: ``state``, ``broker``, ``spool``, ``account`` or ``destination``.
        name: of it.
        ok: whether it could be used.
        said: what is there, or why not; safe to show.
    """

    what: str
    name: str
    ok: bool
    said: str


def report(
    settings: Settings,
    path: Path | None,
    advice: Sequence[str],
    trials: Sequence[ConnectionTest] | None,
) -> None:
    """Print it for a person; warnings go to standard error.

    Args:
        settings: the configuration, which is valid.
        path: the file that it was read from, if any.
        advice: the warnings.
        trials: None where nothing was tried.
    """
    _print(_general(settings, path))
    if settings.accounts:
        accounts = (tuple(_account(account, settings).values()) for account in settings.accounts)
        click.echo()
        show.table(tuple(_account(settings.accounts[0], settings)), accounts, under=_UNDER)
    for name, provider in settings.providers.items():
        click.echo()
        show.entry(f"{printable(name)}:", printable(f"{provider.title}. {provider.advice}", 1000))
        show.entry("", printable(f"To enter: {provider.enter}", 1000))
    for line in advice:
        click.echo(f"warning: {printable(line, 1000)}", err=True)
    failed = sum(not trial.ok for trial in trials or ())
    click.echo(f"\n{_VALID if not failed else _FAILED}")
    if trials is None:
        return
    rows = [(f"{t.what} {t.name}", "ok" if t.ok else "failed", t.said) for t in trials]
    click.echo()
    if rows:
        show.table(("tried", "result", "said"), rows, whole=("result",))
    click.echo(f"\nTried {len(rows)}, failed {failed}. Nothing was fetched or delivered.")


def record(
    settings: Settings,
    path: Path | None,
    advice: Sequence[str],
    trials: Sequence[ConnectionTest] | None,
) -> dict[str, object]:
    """Return the same for a program, as plain values without secrets."""
    tried = {} if trials is None else {"tried": [trial._asdict() for trial in trials]}
    accounts = [_account(account, settings) for account in settings.accounts]
    providers = {
        name: {"title": known.title, "enter": known.enter, "advice": known.advice}
        for name, known in settings.providers.items()
    }
    return {
        **_general(settings, path),
        "accounts": accounts,
        "providers": providers,
        "warnings": list(advice),
        **tried,
    }


def _general(settings: Settings, path: Path | None) -> dict[str, object]:
    return {
        "file": None if path is None else str(path),
        "broker": ", ".join(map(str, settings.broker.every_url))
        or f"embedded, in {settings.queue_file}",
        "state": str(settings.state.url or f"SQLite, in {settings.data_dir / 'state.db'}"),
        "spool": str(settings.spool.url or settings.data_dir / "spool"),
        "inline_limit": show.size(settings.spool.inline_limit, exact=True),
        "retry": [tier.label for tier in settings.retry.tiers],
        "give_up_after": show.duration(settings.retry.give_up_after),
        "limits": [
            f"{settings.limits.connections_per_host} connections to one POP3 host",
            f"{settings.limits.max_messages} messages of a maildrop",
            f"{settings.limits.min_free} free on each disk",
        ],
        "monitor": settings.monitor.listen,
        "destinations": {n: str(d.url) for n, d in settings.every_destination.items()},
    }


def _account(account: AccountSettings, settings: Settings) -> dict[str, object]:
    return {
        "name": account.name,
        "provider": account.provider or "",
        "server": f"{account.host}:{account.port}",
        "tls": account.tls,
        "username": account.username,
        "password": str(account.secret) if account.oauth is None else f"oauth {account.oauth.flow}",
        "poll_every": _interval(account, floor_of(settings.provider_of(account))),
        "keep": account.keep.text,
        "mailbox": account.mailbox,
        "destination": account.destination,
        "max_size": show.size(account.max_size, exact=True),
        "timeout": show.duration(account.timeout),
        "enabled": account.enabled,
    }


def _interval(account: AccountSettings, floor: float) -> str:
    """Return how often an account is polled, from the most often to the most seldom."""
    written = [rule.every for rule in account.schedule or ()] or [account.poll_every]
    every = [max(one, floor) for one in written]
    return " to ".join(show.duration(one) for one in sorted({min(every), max(every)}))


def _print(values: dict[str, object]) -> None:
    for key, value in values.items():
        match value:
            case dict():
                lines = [f"{name} -> {url}" for name, url in value.items()] or ["none"]
            case list():
                lines = [", ".join(map(str, value))]
            case None:
                lines = [_NOTHING[key]]
            case _:
                lines = [str(value)]
        for title, line in zip([f"{key}:", *[""] * len(lines)], lines, strict=False):
            show.entry(title, line)
