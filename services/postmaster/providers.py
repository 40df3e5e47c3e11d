"""The command ``providers``: what is known of them, from us and from ``providers_file``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import click

from services.postmaster import show
from services.postmaster.invocation import Invocation, pass_invocation
from services.postmaster.options import json_option
from shared.errors import ConfigError
from shared.log import printable
from shared.settings.load import known_providers
from shared.settings.problems import hint
from shared.settings.providers import Provider, floor_of

_COLUMNS: Final = ("name", "server", "login", "polled at most every", "what to enter")
_WHOLE: Final = ("name", "server", "login")
_UNDER: Final = {"polled at most every": "login"}


@click.command("providers")
@click.argument("name", required=False)
@json_option
@pass_invocation
def providers(invocation: Invocation, name: str | None, as_json: bool) -> None:
    """Show the providers that are known, or all about the one called NAME.

    Whatever an account leaves out is taken from there, if it names the provider, or its user name
    is an address at one of its domains. It works without a configuration; what a configuration
    calls providers_file counts too.
    """
    try:
        known = known_providers(invocation.path(), invocation.environ)
    except ConfigError as error:
        if error.where != "--config":
            raise
        known = known_providers(None, {})
    if name is not None and name not in known:
        raise click.ClickException(f"there is no provider {printable(name)}; {hint(name, known)}")
    if as_json and name is not None:
        show.as_json(_record(name, known[name]))
    elif as_json:
        show.as_json([_record(*item) for item in known.items()])
    elif name is not None:
        for title, text in _lines(name, known[name]):
            show.entry(title, printable(text, 2000))
    else:
        show.table(_COLUMNS, (_row(*item) for item in known.items()), whole=_WHOLE, under=_UNDER)


def _row(name: str, provider: Provider) -> tuple[object, ...]:
    login = "OAuth" if provider.oauth_only else provider.auth
    return name, _server(provider), login, _floor(provider) or "", provider.enter


def _server(provider: Provider) -> str:
    return provider.host if provider.port is None else f"{provider.host}:{provider.port}"


def _floor(provider: Provider) -> str | None:
    floor = floor_of(provider)
    return show.duration(floor) if floor else None


def _lines(name: str, provider: Provider) -> Iterator[tuple[str, str]]:
    """Yield what is known of a provider, each thing with a title."""
    for key, value in _record(name, provider).items():
        title = f"{key.replace('_', ' ')}:"
        if isinstance(value, list) and key != "domains":
            yield from zip([title, *[""] * len(value)], map(str, value), strict=False)
        elif isinstance(value, list):
            yield title, ", ".join(value)
        elif isinstance(value, dict):
            for of, text in value.items():
                yield title, f"{of}: {text}"
                title = ""
        elif value not in (None, ""):
            yield title, str(value)


def _record(name: str, provider: Provider) -> dict[str, object]:
    oauth = provider.oauth
    return {
        "name": name,
        "title": provider.title,
        "domains": list(provider.domains),
        "host": provider.host,
        "port": provider.port,
        "tls": provider.tls,
        "auth": provider.auth,
        "enter": provider.enter,
        "oauth_only": provider.oauth_only,
        "advice": provider.advice,
        "poll_floor": _floor(provider),
        "connections": provider.connections,
        "quirks": list(provider.quirks),
        "unconfirmed": list(provider.unconfirmed),
        "oauth": None if oauth is None else oauth.model_dump(exclude_none=True),
        "sources": dict(provider.sources),
        "checked": None if provider.checked is None else provider.checked.isoformat(),
    }
