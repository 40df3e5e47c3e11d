"""What a configuration may say, and had better not: warnings for the person who wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shared.settings import Settings
from shared.settings_secret import Secret, open_to_all

_HERE: Final = ("localhost", "127.0.0.1", "::1")


def warnings(settings: Settings, path: Path | None) -> list[str]:
    """Return what is allowed in these settings, and unwise, as sentences.

    Args:
        settings: what ``shared.settings.load`` returned.
        path: the file that it read.
    """
    return [*_accounts(settings), *_exposed(settings, path)]


def _accounts(settings: Settings) -> Iterator[str]:
    if not settings.accounts:
        yield "there is no [[account]]: nothing will be fetched"
    for account in settings.accounts:
        if account.tls == "none" and account.host not in _HERE:
            yield f"account {account.name}: without TLS, {account.host} gets the password in clear"


def _exposed(settings: Settings, path: Path | None) -> Iterator[str]:
    """Yield a warning for each file with a secret that everybody on this machine can read."""
    secrets = _secrets(settings)
    files = [Path(s.where) for s in secrets if s.source == "password_file" and not s.managed]
    if path is not None and _written_down(settings, secrets):
        files.append(path)
    for file in dict.fromkeys(files):
        if open_to_all(file):
            yield f"{file} holds a secret and everybody can read it; chmod o-r {file}"


def _secrets(settings: Settings) -> list[Secret]:
    remotes = (settings.broker, settings.state, *settings.every_destination.values())
    return [t.secret for t in (*settings.accounts, *remotes) if t.secret is not None]


def _written_down(settings: Settings, secrets: list[Secret]) -> bool:
    """Return whether a secret stands in the configuration itself."""
    remotes = (settings.broker, settings.state, *settings.every_destination.values())
    urls = [remote.url for remote in remotes]
    return any(url and url.has_password for url in urls) or any(
        secret.source == "password" for secret in secrets
    )
