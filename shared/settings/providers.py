"""Providers as data: where their servers are, and what one should know of them.

The rows lie in ``providers.toml`` beside this module. A file of the user's (``providers_file``)
adds rows, or changes keys of ours by the same name. What a row says fills in what an account leaves
out, and nothing else; who says it is among its sources. Limit: rows are only as right as on the day
they were checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import date
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, Field, ValidationError

from shared.settings.fields import Auth, Host, ParsedField, Seconds, matching
from shared.settings.problems import Problem, WrongSettings, findings
from shared.settings.source import SettingsSource
from shared.settings.table import Table
from shared.settings.values import path as path_of

PACKAGED: Final = Path(__file__).with_suffix(".toml")
"""The rows that come with the program."""


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError("expected a list of texts")
    return tuple(value)


def _domains(value: object) -> tuple[str, ...]:
    return tuple(text.lower().removeprefix("@") for text in _texts(value))


def _day(value: object) -> date:
    if type(value) is not date:
        raise ValueError("expected a date, such as 2026-12-01, without quotation marks")
    return value


Texts: TypeAlias = Annotated[tuple[str, ...], ParsedField(_texts)]
Domains: TypeAlias = Annotated[tuple[str, ...], ParsedField(_domains)]
Day: TypeAlias = Annotated[date, ParsedField(_day)]
SecureUrl: TypeAlias = Annotated[str, matching(r"https://[^\s?#]+", "https://host/path")]


class OAuthEndpoints(Table):
    """Where a provider gives access tokens (RFC 6749), and for what.

    Attributes:
        authorize_url: ``{tenant}`` in it, as in the other two, stands for the account's tenant.
        scope: of a person who authorizes us.
        app_scope: of an application that acts for itself (``client_credentials``).
        authorize_options: what else stands in the address that a person opens.
    """

    authorize_url: SecureUrl | None = None
    token_url: SecureUrl | None = None
    device_url: SecureUrl | None = None
    scope: str | None = None
    app_scope: str | None = None
    authorize_options: Mapping[str, str] | None = None

    def keys(self, flow: object) -> dict[str, object]:
        """Return the keys of an account's table ``oauth`` that this fills in.

        Args:
            flow: the flow of that table.
        """
        scope = self.app_scope if flow == "client_credentials" else self.scope
        given = {**self.model_dump(exclude={"scope", "app_scope"}), "scope": scope}
        return {key: value for key, value in given.items() if value is not None}


class Provider(Table):
    """What is known of one provider.

    Attributes:
        title: as people call it.
        domains: of its addresses, small letters.
        port: that goes with ``tls``; None for the usual one.
        enter: which password is to be entered, or whatever else.
        oauth_only: no password is taken at all.
        poll_floor: seconds from one poll to the next, at the least.
        connections: that it takes from one machine, to one host.
        quirks: what to expect; a sentence each.
        unconfirmed: the same, of which nobody is sure.
        advice: what to do first.
        sources: addresses of what these facts were taken from, by what they are about.
        checked: when they were looked up.
    """

    title: str
    domains: Domains = ()
    host: Host
    port: int | None = Field(None, ge=1, le=65535)
    tls: Literal["implicit", "starttls", "none"] = "implicit"
    auth: Auth = "auto"
    enter: str = "the password of the mailbox"
    oauth_only: bool = False
    oauth: OAuthEndpoints | None = None
    poll_floor: Seconds | None = None
    connections: int | None = Field(None, ge=1, le=1000)
    quirks: Texts = ()
    unconfirmed: Texts = ()
    advice: str = ""
    sources: Mapping[str, str] = Field(default_factory=dict)
    checked: Day | None = None


def floor_of(provider: Provider | None) -> float:
    """Return seconds from one poll to the next at a provider, at the least; 0 for no such limit."""
    return 0.0 if provider is None else provider.poll_floor or 0.0


_TABLES: Final[Mapping[tuple[str, ...], type[BaseModel]]] = {
    (): Provider,
    ("oauth",): OAuthEndpoints,
}


class Providers(Mapping[str, Provider]):
    """The providers by name.

    Args:
        rows: the providers; of two with the same domain the later one counts.
    """

    def __init__(self, rows: Mapping[str, Provider]) -> None:
        self._rows = dict(rows)
        self._by_domain = {d: name for name, row in self._rows.items() for d in row.domains}

    def __getitem__(self, name: str) -> Provider:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def of_address(self, username: object) -> str | None:
        """Return the name of the provider whose address a user name is; None for no known one."""
        if not isinstance(username, str) or "@" not in username:
            return None
        return self._by_domain.get(username.rpartition("@")[2].lower())


def providers_in(source: SettingsSource) -> Callable[[], Providers]:
    """Return what returns the providers that a configuration knows, read when it is first called.

    Args:
        source: the configuration as it was written.

    Raises:
        ConfigError: it names a file of its own, which cannot be read, or is wrong.
    """
    named = source.document.get("providers_file")
    if not isinstance(named, str) or not named:
        return cache(partial(load_providers, None))
    known = load_providers(path_of(named))
    return lambda: known


def load_providers(path: Path | None) -> Providers:
    """Return all providers that are known.

    Args:
        path: a file of the user's, whose rows come on top of ours; None for ours alone.

    Raises:
        ConfigError: it cannot be read, or is wrong: one line for each problem.
    """
    packaged = SettingsSource(PACKAGED, {}, ())
    rows = _validated(packaged, packaged.document)
    if path is None:
        return Providers(rows)
    source = SettingsSource(path, {}, ())
    laid_over = {
        name: _over(packaged.document.get(name, {}), row, path)
        for name, row in source.document.items()
    }
    return Providers({**rows, **_validated(source, laid_over)})


def _over(ours: Mapping[str, Any], row: object, path: Path) -> object:
    """Return a row of the user's, what it leaves out taken from ours of the same name."""
    if not isinstance(row, dict) or not isinstance(row.get("sources", {}), dict):
        return row
    here = {key: str(path) for key in row if key != "sources"}
    sources = {**ours.get("sources", {}), **here, **row.get("sources", {})}
    return {**ours, **row, "sources": sources}


def _validated(source: SettingsSource, rows: Mapping[str, object]) -> dict[str, Provider]:
    found = dict[str, Provider]()
    problems = list[Problem]()
    for name, row in rows.items():
        titled = {"title": name, **row} if isinstance(row, dict) else row
        try:
            found[name] = Provider.model_validate(titled)
        except ValidationError as error:
            problems += [
                Problem(source.where((name, *key)), what) for key, what in findings(error, _TABLES)
            ]
    # Raised outside the handler, as the settings' own.
    if problems:
        raise WrongSettings(problems)
    return found
