"""The secrets that stand in the configuration itself, for what hides them in what servers say.

Those in files, variables and commands are left alone: who uses one learns it then.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote, urlsplit

from shared.redaction.known_secrets import KnownSecrets
from shared.settings.model import Settings

_SECRET: Final = re.compile("secret|token|passw", re.IGNORECASE)
"""What is in the name of an option of the spool that is a secret."""


def secrets_in(settings: Settings) -> KnownSecrets:
    """Return a collection of what stands in a configuration."""
    known = KnownSecrets()
    for secret in _secrets(settings):
        known.learn(secret)
    return known


def _secrets(settings: Settings) -> Iterator[str]:
    for table in (*settings.remotes, *settings.accounts):
        if table.secret is not None and table.secret.written:
            yield table.secret.reveal()
    for oauth in settings.oauth_tables:
        yield from (secret.reveal() for secret in oauth.secrets if secret.written)
    urls = [url for remote in settings.remotes for url in remote.every_url]
    proxies = [account.proxy for account in settings.accounts]
    for url in (*urls, *filter(None, (settings.spool.url, *proxies))):
        if password := urlsplit(url.reveal()).password:
            yield unquote(password)
    for name, value in settings.spool.options.items():
        if _SECRET.search(name):
            yield value
