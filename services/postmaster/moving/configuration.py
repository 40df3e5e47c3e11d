"""Writes a configuration of ours for accounts that were found in another program's.

An account that lacks a password or a destination is written as a comment, with what it lacks: it is
to be completed, and then the signs are taken away. The text is read by ``shared.settings`` before
anything is kept of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Final

from services.postmaster.moving.found import Found, FoundAccount, FoundDestination
from shared.log import printable
from shared.settings.account import DEFAULT

_UNNAMED: Final = re.compile(r"[^A-Za-z0-9._@+-]+")
_LONGEST: Final = 90
_LONG: Final = 500


def named(accounts: Sequence[FoundAccount]) -> dict[str, FoundAccount]:
    """Return the accounts by names of ours: the mailbox at the provider, as far as that goes."""
    found: dict[str, FoundAccount] = {}
    for account in accounts:
        user, host = account.maildrop.user, account.maildrop.hosts[0]
        whole = _UNNAMED.sub("-", user if "@" in user else f"{user}@{host}")[:_LONGEST]
        numbered = (whole if n == 1 else f"{whole}-{n}" for n in count(1))
        found[next(name for name in numbered if name not in found)] = account
    return found


def text(accounts: Mapping[str, FoundAccount], found: Found, source: str, data_dir: Path) -> str:
    """Return the configuration.

    Args:
        accounts: by the name that each gets.
        found: what else was found.
        source: what it is made from, for the reader.
        data_dir: where data lies.
    """
    deliveries = _deliveries(list(accounts.values()))
    lines = [_comment(f"Made by pop3-connector import, from {source}.")]
    lines += [_comment(f"Not carried over: {x.place}: {x.what}: {x.advice}") for x in found.left]
    lines += [f"data_dir = {_value(str(data_dir))}", ""]
    for delivery, name in deliveries.items():
        head = "[delivery]" if name == DEFAULT else f"[destinations.{name}]"
        login = [f"{key} = {_value(value)}" for key, value in delivery.login]
        lines += [head, f"url = {_value(delivery.url)}", *login, ""]
    for name, account in accounts.items():
        lines += _table(name, account, deliveries)
    return "\n".join(lines)


def _deliveries(accounts: Sequence[FoundAccount]) -> dict[FoundDestination, str]:
    """Return the destinations with their names; the first one is ``[delivery]``."""
    wanted = (account.delivery for account in accounts)
    each = dict.fromkeys(delivery for delivery in wanted if delivery is not None)
    return {
        delivery: DEFAULT if n == 1 else f"{delivery.url.partition(':')[0].replace('+', '-')}-{n}"
        for n, delivery in enumerate(each, 1)
    }


def _table(
    name: str, account: FoundAccount, deliveries: Mapping[FoundDestination, str]
) -> list[str]:
    destination = deliveries[account.delivery] if account.delivery is not None else DEFAULT
    keys: dict[str, object] = {"name": name, **account.keys}
    if destination != DEFAULT:
        keys["destination"] = destination
    lines = ["[[account]]", *(f"{key} = {_value(value)}" for key, value in keys.items())]
    if account.lacks:
        lines = [f"# {line}" for line in lines]
        what = f"{account.place}: there is to be {account.lacks}; then without the #:"
        lines.insert(0, _comment(what))
    if account.note:
        lines.insert(0, _comment(account.note))
    return [*lines, ""]


def _comment(text: str) -> str:
    """Return a comment, on one line whatever is in it."""
    return f"# {printable(text, _LONG)}"


def _value(value: object) -> str:
    """Return a value as TOML: a basic string is one of JSON, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
