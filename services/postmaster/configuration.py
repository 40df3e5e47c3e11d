"""The command ``check-config``: what was understood, secrets masked, and what is unwise."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from services.postmaster import show
from services.postmaster.invocation import Invocation, pass_invocation
from shared.errors import ConfigError
from shared.settings import Account, Settings
from shared.settings_advice import warnings
from shared.settings_problems import Problem, WrongSettings


@click.command("check-config")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_invocation
def check_config(invocation: Invocation, as_json: bool) -> None:
    """Check the configuration, and show what it means; exit 2 if it is wrong."""
    path = invocation.path()
    settings = invocation.settings()
    if missing := _missing_secrets(settings):
        raise WrongSettings(missing)
    advice = warnings(settings, path)
    if as_json:
        show.as_json({**understood(settings, path), "warnings": advice})
        return
    _print(understood(settings, path))
    for line in advice:
        click.echo(f"warning: {line}", err=True)
    click.echo("\nThe configuration is valid.")


def understood(settings: Settings, path: Path | None) -> dict[str, object]:
    """Return what the settings come to, as plain values without secrets."""
    return {
        "file": None if path is None else str(path),
        "broker": str(settings.broker.url or f"embedded, in {settings.queue_file}"),
        "state": str(settings.state.url or f"SQLite, in {settings.data_dir / 'state.db'}"),
        "spool": str(settings.spool.url or settings.data_dir / "spool"),
        "inline_limit": show.size(settings.spool.inline_limit, exact=True),
        "retry": [tier.label for tier in settings.retry.tiers],
        "give_up_after": show.duration(settings.retry.give_up_after),
        "monitor": settings.monitor.listen,
        "destinations": {n: str(d.url) for n, d in settings.every_destination.items()},
        "accounts": [_account(account) for account in settings.accounts],
    }


def _account(account: Account) -> dict[str, object]:
    return {
        "name": account.name,
        "server": f"{account.host}:{account.port}",
        "tls": account.tls,
        "username": account.username,
        "password": str(account.secret),
        "poll_every": show.duration(account.poll_every),
        "keep": account.keep.text,
        "mailbox": account.mailbox,
        "destination": account.destination,
        "timeout": show.duration(account.timeout),
        "enabled": account.enabled,
    }


def _missing_secrets(settings: Settings) -> list[Problem]:
    """Try each password that stands in a file or variable; commands are not run for a check."""
    remotes = {"broker": settings.broker, "state": settings.state}
    remotes |= {f"destination {n}": d for n, d in settings.every_destination.items()}
    tables = [(f"account {a.name}", a.secret) for a in settings.accounts]
    tables += [(name, remote.secret) for name, remote in remotes.items()]
    found = []
    for name, secret in tables:
        if secret is None or secret.source == "password_command":
            continue
        try:
            secret.reveal()
        except ConfigError as error:
            found.append(Problem(f"{name}: {error.where}", error.what))
    return found


_NOTHING: Final = {"file": "none: the environment alone", "monitor": "off"}


def _print(values: dict[str, object]) -> None:
    accounts = values.pop("accounts")
    for key, value in values.items():
        match value:
            case dict():
                text = ", ".join(f"{name} -> {url}" for name, url in value.items()) or "none"
            case list():
                text = ", ".join(map(str, value))
            case None:
                text = _NOTHING[key]
            case _:
                text = str(value)
        click.echo(f"{key}:".ljust(16) + text)
    if isinstance(accounts, list) and accounts:
        columns = tuple(accounts[0])
        show.table(columns, (tuple(account.values()) for account in accounts))
