"""Whether Maildirs hold mail that was delivered from certain accounts already.

A state database that knows of no mail at all is new; files of ours in a Maildir tell that the
installation is not. Their names end as ours do, and our own header lines say which account they
came from: those of another connector are not meant. Not all is looked through: some hundred files
tell as well as all. What cannot be read tells nothing.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Container, Iterator
from itertools import islice
from typing import Final

MAILDIRS: Final = 500
FILES: Final = 500
"""So many Maildirs, and files of ours in each of their folders, are looked into at the most."""

_PLACEHOLDER: Final = re.compile(r"\{\w*\}")
_ACCOUNT: Final = re.compile(rb"^X-POP3-Connector-Account: ([^\r\n]*)\r?$", re.MULTILINE)
_HEAD: Final = 16 * 1024
"""Bytes of a file in which our header lines stand."""


def find_delivered(template: str, suffix: str, accounts: Container[str]) -> str | None:
    """Return a file that one of these accounts delivered.

    Args:
        template: the path of a Maildir, with placeholders in braces.
        suffix: what names of files have after the id of the message; flags may follow.
        accounts: their names.
    """
    name = re.compile(r"[0-9a-f]{32}" + re.escape(suffix) + r"(?::.*)?", re.DOTALL)
    pattern = "*".join(map(glob.escape, _PLACEHOLDER.split(template)))
    for maildir in islice(glob.iglob(pattern), MAILDIRS):  # noqa: PTH207  (an absolute one)
        for folder in ("new", "cur"):
            for path in islice(_ours(f"{maildir}/{folder}", name), FILES):
                if _account(path) in accounts:
                    return path
    return None


def _ours(folder: str, name: re.Pattern[str]) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry.path for entry in entries if name.fullmatch(entry.name))
    except OSError:
        return


def _account(path: str) -> str:
    try:
        with open(path, "rb") as file:  # noqa: PTH123  (a path object for each file is costly)
            head = file.read(_HEAD)
    except OSError:
        return ""
    line = _ACCOUNT.search(head.partition(b"\n\n")[0])
    return "" if line is None else line[1].decode(errors="replace")
