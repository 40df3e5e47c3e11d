"""From where another program delivers to, to a destination of ours.

Mbox files and programs that take messages at their standard input (MDAs) are none of ours: many of
them have a mail server beside them that takes the same mail.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import quote

from services.postmaster.moving.found import FoundDestination, Home
from services.postmaster.moving.options import NotCarried

_BLANK: Final = re.compile(r"[\s<>\x00-\x20\x7f]+")
_SAFE: Final = "/@+=,:~"

_BESIDE: Final[Mapping[str, str]] = {
    "dovecot-lda": 'Dovecot takes mail by LMTP too: url = "lmtp+unix:///run/dovecot/lmtp"',
    "deliver": 'Dovecot takes mail by LMTP too: url = "lmtp+unix:///run/dovecot/lmtp"',
    "cyrdeliver": 'Cyrus takes mail by LMTP too: url = "lmtp+unix:///run/cyrus/socket/lmtp"',
    "sendmail": 'it hands mail to the mail server here: url = "smtp://localhost:25"',
    "msmtp": 'it hands mail to a mail server, which takes it from us: url = "smtp://HOST:25"',
    "procmail": 'mail servers run it for their users: url = "smtp://localhost:25", or deliver'
    ' into a Maildir: url = "maildir:///path/{local}"',
    "maildrop": 'mail servers run it for their users: url = "smtp://localhost:25", or deliver'
    ' into a Maildir: url = "maildir:///path/{local}"',
}
"""What stands beside a program that takes messages."""

_ANY: Final = (
    "programs are not run for messages: choose a destination (see Destinations in"
    " docs/configuration.md), or pass --delivery URL"
)


def maildir(text: str, home: Home) -> FoundDestination:
    """Return the destination for a Maildir.

    Raises:
        NotCarried: it has no absolute path, or one that we cannot write.
    """
    return FoundDestination(f"maildir://{_path(text, home)}")


def pickup(text: str, home: Home) -> FoundDestination:
    """Return the destination for a PickUp folder of Exchange; raises as ``maildir``."""
    return FoundDestination(f"pickup://{_path(text, home)}")


def lmtp(host: str, port: int | None, home: Home) -> FoundDestination:
    """Return the destination for a server of LMTP, or its socket; raises as ``maildir``."""
    if host.startswith(("/", "~/")):
        return FoundDestination(f"lmtp+unix://{_path(host, home)}")
    return FoundDestination(f"lmtp://{_host(host)}:{port or 24}")


def smtp(host: str, port: int | None) -> FoundDestination:
    """Return the destination for a mail server."""
    return FoundDestination(f"smtp://{_host(host)}:{port or 25}")


def program(command: str) -> NotCarried:
    """Return why a program that takes messages cannot be carried over, and what to do."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    names = [PurePosixPath(word).name for word in words]
    return NotCarried(next((_BESIDE[name] for name in names if name in _BESIDE), _ANY))


def mbox() -> NotCarried:
    """Return why an mbox file cannot be carried over, and what to do."""
    return NotCarried(
        'mbox files are not written: deliver into a Maildir (url = "maildir:///path"), or to a'
        " mail server, or pass --delivery URL"
    )


def mailbox(text: str) -> str:
    """Return a mailbox of ours: there are no blanks in one."""
    return _BLANK.sub("-", text)


def _path(text: str, home: Home) -> str:
    path = str(home.expanded(text))
    if not path.startswith("/") or re.search(r"[{}\0]", path):
        raise NotCarried("expected an absolute path, without braces")
    return quote(path.rstrip("/"), safe=_SAFE)


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
