"""The courier for Maildirs: one file for each message and mailbox, with LF line ends.

The name is made of the id of the message alone, so that a message delivered twice is one file
(https://cr.yp.to/proto/maildir.html for the rest). A reader moves files from new to cur and adds
flags; after a crash that left its outcome open, both are looked into. Mailboxes that do not exist
are made; their names come from addresses and never lead out of the configured place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from services.deliverer.addresses import unstorable
from services.deliverer.courier import Letter, Result
from services.deliverer.line_ends import lf
from services.deliverer.store import FileStore, NewFile, discard, failure, make_directory, stored
from shared.faultpoint import reach
from shared.log import printable

PLACEHOLDERS: Final = ("mailbox", "local", "domain")
"""What may stand in braces in a path: the recipient's whole address, its local part, its domain."""

TMP: Final = "tmp"
SUFFIX: Final = ".pop3-connector"
"""What file names have after the id of the message."""

_PLACEHOLDER: Final = re.compile(r"\{(\w*)\}")


class MaildirCourier:
    """Delivers into Maildirs.

    Args:
        template: the path of a Maildir, with placeholders in braces.
        store: writes the files.
    """

    def __init__(self, template: str, store: FileStore) -> None:
        self._template = template
        self._store = store

    async def deliver(
        self, letter: Letter, sender: str, recipients: Sequence[str]
    ) -> Mapping[str, Result]:
        """Deliver a letter and return what became of it for each recipient.

        Args:
            letter: the message.
            sender: the envelope sender; not used, a Return-Path line is part of the prefix.
            recipients: the envelope recipients. Those who share a Maildir get one file.

        Raises:
            SpoolMissing: the message is not in the spool; nothing was delivered.
            SpoolUnavailable: the message could not be read; nothing was delivered.
            ClaimLost: the message is no longer ours; nothing was delivered.
        """
        places = {recipient: maildir_of(self._template, recipient) for recipient in recipients}
        maildirs = {place for place in places.values() if isinstance(place, str)}
        results = await self._into(letter, maildirs)
        return {
            recipient: place if isinstance(place, Result) else results[place]
            for recipient, place in places.items()
        }

    async def close(self) -> None:
        """Let go of the threads."""
        await self._store.close()

    async def _into(self, letter: Letter, maildirs: Iterable[str]) -> dict[str, Result]:
        """Deliver into these Maildirs; write to all of them before any delivery is complete."""
        results: dict[str, Result] = {}
        staged: dict[str, NewFile] = {}
        try:
            for maildir in maildirs:
                try:
                    staged[maildir] = await self._stage(letter, maildir)
                except OSError as error:
                    results[maildir] = failure(error)
            letter.check()
        except BaseException:
            for file in staged.values():
                discard(file)
            raise
        for maildir, file in staged.items():
            reach("deliverer", "before-file")
            results[maildir] = await self._put(letter, file, maildir)
        return results

    async def _stage(self, letter: Letter, maildir: str) -> NewFile:
        temporary = f"{maildir}/{TMP}/{self._store.temporary_name(letter.id)}"
        prepare = partial(_make_maildir, maildir)
        file = NewFile(temporary, f"{maildir}/new", f"{letter.id}{SUFFIX}", prepare=prepare)
        return await self._store.stage(file, b"", letter, lf)

    async def _put(self, letter: Letter, file: NewFile, maildir: str) -> Result:
        try:
            if letter.replay and await self._store.run(_was_read, f"{maildir}/cur", file.name):
                discard(file)
                return Result("delivered", f"was read before: {printable(maildir)}/cur")
            new = await self._store.put(file)
        except OSError as error:
            discard(file)
            return failure(error)
        return stored(file, new=new)


def maildir_of(template: str, recipient: str) -> str | Result:
    """Return the Maildir of a recipient, or the permanent result for one who can have none."""
    local, _, domain = recipient.rpartition("@") if "@" in recipient else (recipient, "", "")
    values = {"mailbox": recipient, "local": local, "domain": domain}
    for name in _PLACEHOLDER.findall(template):
        why = unstorable(values[name])
        if why is not None:
            shown = printable(values[name], 100)
            return Result("permanent", f"{{{name}}} of this recipient, {shown}, is no name: {why}")
    return _PLACEHOLDER.sub(lambda found: values[found[1]], template)


def unknown_placeholders(template: str) -> list[str]:
    """Return the names in braces that mean nothing here."""
    return [name for name in _PLACEHOLDER.findall(template) if name not in PLACEHOLDERS]


def _make_maildir(maildir: str) -> None:
    for name in ("new", "cur", TMP):  # tmp comes last: where it is, nothing is missing
        make_directory(Path(maildir) / name)


def _was_read(cur: str, name: str) -> bool:
    """Return whether a reader has moved the file to cur, with or without flags."""
    try:
        with os.scandir(cur) as entries:
            return any(entry.name.partition(":")[0] == name for entry in entries)
    except FileNotFoundError:
        return False
