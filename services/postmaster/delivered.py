"""What was delivered before, as our own header lines in Maildirs tell.

Each message that we deliver bears its id and its account on top. After a lost state these say what
need not be delivered again. Only the first such lines of a message count: those below came with it.
A message that was deleted or moved out of the Maildir, or that a program has written anew without
these lines, is not known, and comes again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

_HEAD: Final = 64 * 1024
"""Bytes of a file in which our header lines stand, below those of a mail server."""

_ID: Final = re.compile(rb"^X-POP3-Connector-Id:[ \t]*([0-9a-f]{32})[ \t]*\r?$", re.I | re.M)
_ACCOUNT: Final = re.compile(rb"^X-POP3-Connector-Account:[ \t]*(\S+)[ \t]*\r?$", re.I | re.M)
_END: Final = re.compile(rb"\r?\n\r?\n")


class Delivered(NamedTuple):
    """A message that lies in a mailbox of ours."""

    account: str
    id: str


def delivered_in(maildir: Path) -> Iterator[Delivered]:
    """Yield the messages of ours in a Maildir, and in all Maildirs below it.

    Raises:
        OSError: a folder or file cannot be read; one that is moved meanwhile is passed over.
    """
    for folder, _, names in os.walk(maildir, onerror=_raise):
        if Path(folder).name in ("cur", "new"):
            for name in names:
                if (found := _read(Path(folder, name))) is not None:
                    yield found


def _raise(error: OSError) -> None:
    raise error


def _read(path: Path) -> Delivered | None:
    try:
        with path.open("rb") as file:
            head = _END.split(file.read(_HEAD), maxsplit=1)[0]
    except FileNotFoundError:  # another program has moved it
        return None
    return delivered(head)


def delivered(head: bytes) -> Delivered | None:
    """Return what our first lines in a header block say, None where there are none."""
    id_, account = _ID.search(head), _ACCOUNT.search(head)
    if id_ is None or account is None:
        return None
    return Delivered(account[1].decode("utf-8", "replace"), id_[1].decode().lower())
