"""What an account leaves out, filled in from ``[defaults]`` and the row of its provider.

It works on the document as it was written, before anything in it is judged, so that what is filled
in is judged like the rest. The account's own keys win over the defaults, and these over the
provider; but a provider that the account itself names knows better where its server is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from shared.settings.fields import POLL_EVERY
from shared.settings.problems import hint
from shared.settings.providers import Provider, Providers, floor_of
from shared.settings.secret import SOURCES
from shared.settings.values import KeyPath

DEFAULTS: Final = "defaults"
ITS_OWN: Final = ("name", "username", "mailbox", *SOURCES)
"""Keys that each account has by itself."""

_APART: Final = (
    frozenset(("poll_every", "schedule")),
    frozenset(("client_cert", "client_key")),
    frozenset(("host", "provider")),
    frozenset(("oauth", *SOURCES)),
)
"""Of these an account takes none from the defaults if it has one: they are ways to say the same, or
belong together."""

_OF_THE_SERVER: Final = frozenset(("port", "tls", "auth"))
_NOWHERE: Final = "unknown.invalid"

_Table: TypeAlias = dict[str, Any]


def fill_in(
    document: Mapping[str, Any], providers: Callable[[], Providers]
) -> list[tuple[KeyPath, str]]:
    """Fill in what the accounts of a configuration leave out.

    Args:
        document: the configuration as it was written; its accounts are changed.
        providers: returns those that are known. It is not called where nobody asks for one.

    Returns:
        What is wrong, as pairs of a key and a sentence.
    """
    accounts, defaults = document.get("account"), document.get(DEFAULTS)
    found = list[tuple[KeyPath, str]]()
    if not isinstance(accounts, list):
        return found
    for index, account in enumerate(accounts):
        if not isinstance(account, dict):
            continue
        if isinstance(defaults, dict):
            _lay_under(account, defaults)
        name = account.get("provider")
        if name is None and "host" not in account:
            name = providers().of_address(account.get("username"))
        if isinstance(name, str):
            found += (
                (("account", index, "provider"), what) for what in _at(account, name, providers())
            )
    return found


def _lay_under(account: _Table, defaults: _Table) -> None:
    taken = {key for keys in _APART if not keys.isdisjoint(account) for key in keys}
    if "provider" in account:
        taken |= _OF_THE_SERVER
    for key, value in defaults.items():
        if key not in taken:
            account.setdefault(key, value)


def _at(account: _Table, name: str, providers: Providers) -> list[str]:
    """Fill in what is known of a provider; return what is wrong with its name."""
    if name not in providers:
        # One problem is told once: it is judged as if it had a host.
        account.setdefault("host", _NOWHERE)
        return [f"no such provider; {hint(name, providers)}"]
    provider = providers[name]
    account["provider"] = sys.intern(name)
    account.setdefault("host", provider.host)
    account.setdefault("auth", provider.auth)
    if account.setdefault("tls", provider.tls) == provider.tls and provider.port is not None:
        account.setdefault("port", provider.port)
    floor = floor_of(provider)
    if floor > POLL_EVERY and account.keys().isdisjoint(("poll_every", "schedule")):
        account["poll_every"] = f"{floor:.3f}s"
    _fill_oauth(account, provider)
    return []


def _fill_oauth(account: _Table, provider: Provider) -> None:
    oauth = account.get("oauth")
    if isinstance(oauth, dict) and provider.oauth is not None:
        account["oauth"] = {**provider.oauth.keys(oauth.get("flow")), **oauth}
