"""Reads the configuration: the file, with the environment laid over it, checked as a whole.

``load`` is the one way in. Only ``__main__`` modules and the command line call it; everything else
gets the values it needs. A wrong configuration is a ConfigError that names every problem at once,
each with its place and what is expected. Secrets are masked in every repr and error text.

Relative paths are relative to the working directory of the process.
Where ``data_dir`` is not set, ``shared.settings.data_dir`` says where data lies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from shared.settings.account import DEFAULT, AccountSettings
from shared.settings.data_dir import holding, usual
from shared.settings.filling import DEFAULTS, ITS_OWN, fill_in
from shared.settings.model import (
    BrokerSettings,
    DestinationSettings,
    LimitSettings,
    MonitorSettings,
    RetrySettings,
    Settings,
    SpoolSettings,
    StateSettings,
)
from shared.settings.oauth import OAUTH_FILE_KEYS, OAuthSettings, TokenKeySettings
from shared.settings.problems import Problem, WrongSettings, findings, hint
from shared.settings.providers import Providers, providers_in
from shared.settings.source import SettingsSource
from shared.settings.values import KeyPath

_TABLES: Final[Mapping[tuple[str, ...], type[BaseModel]]] = {
    (): Settings,
    ("broker",): BrokerSettings,
    ("state",): StateSettings,
    ("spool",): SpoolSettings,
    ("delivery",): DestinationSettings,
    ("destinations", "*"): DestinationSettings,
    ("retry",): RetrySettings,
    ("limits",): LimitSettings,
    ("monitor",): MonitorSettings,
    ("oauth",): TokenKeySettings,
    ("account", "*"): AccountSettings,
    ("account", "*", "oauth"): OAuthSettings,
    ("destinations", "*", "oauth"): OAuthSettings,
    ("delivery", "oauth"): OAuthSettings,
}
_FILE_KEYS: Final = (
    *("password_file", "ca_file", "client_cert", "client_key", "providers_file"),
    *OAUTH_FILE_KEYS,
)
_IN_ACCOUNT: Final = 2
"""Parts of a key, such as ``("account", 0)``, that lead to the table of an account."""


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Return the settings in a file, with those in the environment laid over them.

    Args:
        path: a TOML file; None for the environment alone.
        environ: the environment; see ``shared.settings.source`` for the names in it.

    Raises:
        ConfigError: something is wrong with them; its text has one line for each problem.
    """
    source = SettingsSource(path, environ, _FILE_KEYS)
    document = {"data_dir": str(usual(environ)), **source.document}
    providers = providers_in(source)
    context = {
        "environ": environ,
        "file": path,
        "digest": source.digest,
        "providers": providers,
    }
    wrong = _wrong_defaults(document.get(DEFAULTS), context)
    if wrong:  # told once, and not once more for each account
        document["account"] = []
    wrong += fill_in(document, providers)
    if isinstance(document.get(DEFAULTS), dict):
        del document[DEFAULTS]
    try:
        settings = Settings.model_validate(document, context=context)
    except ValidationError as error:
        found = wrong + findings(error, _TABLES)
    else:
        found = [*wrong, *_contradictions(settings)]
        if settings.uses_data_dir and "data_dir" not in source.document:
            found += _two_places(holding(environ))
        if not found:
            return settings
    # Raised outside the handler: pydantic's error holds the input, which may hold a secret.
    homes = dict.fromkeys((_home(source, key), what) for key, what in found)
    raise WrongSettings([Problem(source.where(key), what) for key, what in homes])


def known_providers(path: Path | None, environ: Mapping[str, str]) -> Providers:
    """Return the providers that a configuration knows, whatever else is wrong with it.

    Args:
        path: a TOML file; None for the environment alone.
        environ: the environment.

    Raises:
        ConfigError: it cannot be read, or what it says of providers is wrong.
    """
    return providers_in(SettingsSource(path, environ, _FILE_KEYS))()


def _wrong_defaults(defaults: object, context: Mapping[str, Any]) -> list[tuple[KeyPath, str]]:
    """Return what is wrong with the defaults of accounts, by an account that has nothing else."""
    if not isinstance(defaults, dict):
        return []
    found: list[tuple[KeyPath, str]] = [
        ((DEFAULTS, key), "each account has its own: write it below [[account]]")
        for key in defaults
        if key in ITS_OWN
    ]
    other = {key: value for key, value in defaults.items() if key not in ITS_OWN}
    login = {} if "oauth" in other else {"password": "x"}
    known = {"name": "x", "host": "x", "username": "x", "mailbox": "x", **login}
    try:
        AccountSettings.model_validate({**known, **other}, context=context)
    except ValidationError as error:
        found += (
            ((DEFAULTS, *key[2:]), what)
            for key, what in findings(error, _TABLES, ("account", 0))
            # The provider of each account may make such a table complete.
            if key[2:] != ("oauth",) or not isinstance(other["oauth"], dict)
        )
    return found


def _home(source: SettingsSource, key: KeyPath) -> KeyPath:
    """Return where a key of an account stands: among the defaults, if it is not below its own."""
    of_defaults = (DEFAULTS, *key[2:])
    is_filled_in = key[:1] == ("account",) and len(key) > _IN_ACCOUNT
    own = key[: _IN_ACCOUNT + 1]  # a table of its own takes nothing from that of the defaults
    if is_filled_in and not source.has(own) and source.has(of_defaults):
        return of_defaults
    return key


def _two_places(holding_data: Sequence[Path]) -> Iterator[tuple[KeyPath, str]]:
    """Yield a problem where data lies in two places: with the wrong ledger all comes again."""
    if len(holding_data) > 1:
        found = " and ".join(str(place.absolute()) for place in holding_data)
        yield ("data_dir",), f"there is data of the connector in {found}; write which one counts"


def _contradictions(settings: Settings) -> Iterator[tuple[KeyPath, str]]:
    """Yield what is wrong between tables that are right by themselves."""
    if DEFAULT in settings.destinations:
        yield (
            ("destinations", DEFAULT),
            f"the name {DEFAULT!r} stands for [delivery]; choose another",
        )
    counts = Counter(account.name for account in settings.accounts)
    known = settings.every_destination
    for index, account in enumerate(settings.accounts):
        if counts[account.name] > 1:
            yield ("account", index, "name"), "another account has this name; names are unique"
        if account.destination in known:
            continue
        if account.destination == DEFAULT:
            yield ("account", index), "nowhere to deliver to: expected [delivery] with a url"
        else:
            what = f"no such destination; {hint(account.destination, known)}"
            yield ("account", index, "destination"), what
