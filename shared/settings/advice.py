"""What a configuration may say but should not: warnings for the person who wrote it."""

from __future__ import annotations

import shlex
import stat
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from shared.authentication.choice import AUTO, KINDS
from shared.network.same_host import is_here, same_host
from shared.settings.account import AccountSettings
from shared.settings.model import Settings
from shared.settings.providers import floor_of
from shared.settings.secret import Secret, open_to_all

_BY_TOKEN: Final = frozenset(kind.setting for kind in KINDS if kind.by_token)
_USUAL_PORTS: Final = (110, 995)
_NAMED: Final = 3
"""So many of a long list are named in a warning."""


def warnings(settings: Settings, path: Path | None) -> list[str]:
    """Return what is allowed in these settings but questionable, one sentence each.

    Args:
        settings: what ``shared.settings.load.load`` returned.
        path: the file that it read.
    """
    return [
        *_place(settings),
        *_open_place(settings),
        *_accounts(settings),
        *_sooner_than_the_provider_wants(settings),
        *_passwords_that_are_refused(settings),
        *_shared_maildrops(settings),
        *_shared_maildirs(settings),
        *_pickup_of_exchange(settings),
        *_exposed(settings, path),
    ]


def maildrop_of(account: AccountSettings) -> tuple[str, ...]:
    """Return what two accounts have in common that open the same maildrop.

    The ports for POP3 with TLS and without lead to the same one; others may be forwarded anywhere.

    Args:
        account: one of them.
    """
    port = "" if account.port in _USUAL_PORTS else str(account.port)
    return same_host(account.host), port, account.username.lower()


def _place(settings: Settings) -> Iterator[str]:
    if settings.data_dir.is_absolute() or not settings.uses_data_dir:
        return
    place = settings.data_dir.absolute()
    yield (
        f"data is kept in {place}, by a relative path, and is found from this working directory"
        " alone: started in another one, the connector knows of no message and delivers again what"
        f' is still at the providers. Write data_dir = "{place}"'
    )


def _open_place(settings: Settings) -> Iterator[str]:
    """Yield a warning where everybody on this machine could put files among ours, or take ours."""
    place = settings.data_dir.absolute()
    try:
        mode = place.stat().st_mode
    except OSError:
        return
    if settings.uses_data_dir and mode & stat.S_IWOTH:
        yield (
            f"everybody on this machine can write into {place}, and so delete or exchange queues"
            f" and ledgers: chmod o-w {shlex.quote(str(place))}"
        )


def _accounts(settings: Settings) -> Iterator[str]:
    if not settings.accounts:
        yield "there is no [[account]]: nothing will be fetched"
    for account in settings.accounts:
        here = is_here(account.host) and account.proxy is None
        if account.tls == "none" and not here:
            read = f"reads the mail{_shown_without_tls(account.auth)}"
            yield f"account {account.name}: without TLS, who is on the way to {account.host} {read}"


def _shown_without_tls(auth: str) -> str:
    """Return what else is read, by the mechanism of the login."""
    if auth == AUTO:
        return ", and the password where the server offers nothing that keeps it secret"
    if any(kind.in_clear for kind in KINDS if kind.setting == auth):
        return f" and the {'token' if auth in _BY_TOKEN else 'password'}"
    return f"; the password stays hidden, as {auth} has it"


def _sooner_than_the_provider_wants(settings: Settings) -> Iterator[str]:
    """Yield a warning for each provider that accounts would be polled at more often than it takes.

    They are not: they are polled as often as it takes.
    """
    for name, provider in settings.providers.items():
        floor = floor_of(provider)
        found = [a.name for a in settings.accounts if a.provider == name and _soonest(a) < floor]
        if found:
            said = provider.sources.get("poll_floor", "see its row")
            minutes = f"{floor / 60:g} minutes"
            yield (
                f"{_accounts_named(found)} polled every {minutes} at the most, whatever poll_every,"
                f" poll_soonest or schedule say: {provider.title} takes no more ({said})"
            )


def _soonest(account: AccountSettings) -> float:
    """Return the shortest interval in seconds that an account is set to."""
    every = [rule.every for rule in account.schedule or ()] or [account.poll_every]
    return min(every if account.poll_soonest is None else [*every, account.poll_soonest])


def _passwords_that_are_refused(settings: Settings) -> Iterator[str]:
    """Yield a warning for each provider that takes no password of the accounts that have one."""
    for name, provider in settings.providers.items():
        if provider.oauth_only:
            mine = [a for a in settings.accounts if a.provider == name and a.secret is not None]
            if mine:
                found = _accounts_named([account.name for account in mine])
                yield f"{found} given a password, and {provider.title} takes OAuth alone"


def _accounts_named(names: list[str]) -> str:
    return f"account {names[0]} is" if len(names) == 1 else f"accounts {_some(names)} are"


def _shared_maildrops(settings: Settings) -> Iterator[str]:
    """Yield a warning for each maildrop that several accounts fetch from."""
    found: defaultdict[tuple[str, ...], list[AccountSettings]] = defaultdict(list)
    for account in settings.accounts:
        if account.enabled:
            found[maildrop_of(account)].append(account)
    for accounts in found.values():
        if len(accounts) > 1:
            names, one = _some([account.name for account in accounts]), accounts[0]
            yield (
                f"accounts {names} fetch from one maildrop ({one.username} at {one.host}): each"
                " delivers every message there, or what another has not deleted before;"
                " and they lock each other out"
            )


def _shared_maildirs(settings: Settings) -> Iterator[str]:
    """Yield a warning for each Maildir in which the mail of several mailboxes gets mixed."""
    for name, destination in settings.every_destination.items():
        template = str(destination.url)
        if destination.url.scheme != "maildir":
            continue
        found: defaultdict[str, dict[str, None]] = defaultdict(dict)
        for account in settings.accounts:
            if account.destination == name:
                found[_filled(template, account.mailbox)][account.mailbox] = None
        for mailboxes in found.values():
            if len(mailboxes) > 1:
                yield (
                    f"destination {name}: {template} is one Maildir for {_some(list(mailboxes))};"
                    " write {mailbox} where each is to have its own"
                )


def _filled(template: str, mailbox: str) -> str:
    """Return what a template comes to for a mailbox."""
    local, _, domain = mailbox.rpartition("@")
    filled = unquote(template)
    for word, value in {"mailbox": mailbox, "local": local or domain, "domain": domain}.items():
        filled = filled.replace(f"{{{word}}}", value)
    return filled


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _pickup_of_exchange(settings: Settings) -> Iterator[str]:
    """Yield a warning for each Pickup directory of Exchange 2007 or later, by its usual path."""
    for name, destination in settings.every_destination.items():
        url = destination.url
        if url.scheme == "pickup" and "transportroles" in url.reveal().lower():
            yield (
                f"destination {name}: by its path, that is the Pickup directory of Exchange 2007 or"
                " later, which sends each message to everybody in its To and Cc once more. Use"
                " replay:// with its Replay directory"
            )


def _exposed(settings: Settings, path: Path | None) -> Iterator[str]:
    """Yield a warning for each file with a secret that everybody on this machine can read."""
    secrets = _secrets(settings)
    files = [s.file for s in secrets if s.file is not None and not s.managed]
    for table in settings.oauth_tables:
        files += filter(None, (table.certificate_key_file or table.certificate_file,))
    if settings.oauth.key_env is None:
        files.append(settings.token_key_file)
    if path is not None and _written_down(settings, secrets):
        files.append(path)
    for file in dict.fromkeys(files):
        if open_to_all(file):
            yield f"{file} holds a secret and everybody can read it; chmod o-r {file}"


def _secrets(settings: Settings) -> list[Secret]:
    tables = (*settings.accounts, *settings.remotes)
    passwords = [table.secret for table in tables if table.secret is not None]
    return passwords + [secret for table in settings.oauth_tables for secret in table.secrets]


def _written_down(settings: Settings, secrets: list[Secret]) -> bool:
    """Return whether a secret stands in the configuration itself."""
    urls = [url for remote in settings.remotes for url in remote.every_url]
    return any(url.has_password for url in urls) or any(secret.written for secret in secrets)
