"""The courier for Maildirs: one file for each message and mailbox, with LF line ends.

The name is made of the id of the message alone, so that a message delivered twice is one file
(https://cr.yp.to/proto/maildir.html for the rest). A reader moves files from new to cur and adds
flags; after a crash that left its outcome open, both are looked into. Mailboxes that do not exist
are made; their names come from addresses and never lead out of the configured place. On top stands
Delivered-To, which every program writes that delivers to a mailbox.

Known limit: where a crash has left the outcome open, and a reader has moved the message elsewhere
or deleted it since, it is delivered again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

from services.deliverer.courier import DeliveryRequest, MailContent, MailObject, Result
from services.deliverer.files.durable_files import (
    FileStore,
    NewFile,
    failure_result,
    require_writable,
)
from services.deliverer.files.staging import StagedMail, deliver_files
from services.deliverer.line_ends import Form, Lf, lf
from services.deliverer.placeholders import filled
from shared.disk.durable import make_directory
from shared.errors import Unreachable
from shared.log import printable

TMP: Final = "tmp"
SUFFIX: Final = ".pop3-connector"
"""What file names have after the id of the message."""

_FORM: Final = Form(lf, Lf)
_DELIVERED_TO: Final = b"Delivered-To: "


class MaildirCourier:
    """Delivers into Maildirs.

    Args:
        template: the path of a Maildir, with placeholders in braces.
        store: writes the files.
    """

    def __init__(self, template: str, store: FileStore) -> None:
        self._template = template
        # Cached: mail comes to the same few mailboxes again and again.
        self._maildir_of = lru_cache(4096)(partial(filled, template))
        self._store = store

    async def deliver(self, requests: Sequence[DeliveryRequest]) -> None:
        """Deliver mail objects, all at once, and tell what became of each.

        The envelope sender is not used, a Return-Path line is part of the message. Recipients who
        share a Maildir get one file.
        """
        await deliver_files(self._store, requests, self._write)

    async def probe(self, recipients: Sequence[str]) -> None:
        """See whether each Maildir can be written to, or made where it does not exist."""
        if not recipients:  # nobody's in particular: the part of the path that is the same for all
            require_writable(os.path.dirname(self._template.partition("{")[0]))  # noqa: PTH120
        for recipient in recipients:
            maildir = self._maildir_of(recipient)
            if isinstance(maildir, Result):
                raise Unreachable(self._template, maildir.reply)
            for name in ("new", TMP):
                require_writable(f"{maildir}/{name}")

    async def close(self) -> None:
        """Let go of the threads."""
        await self._store.close()

    async def _write(self, mail_object: MailObject, staged: StagedMail) -> None:
        for maildir, recipients in self._by_maildir(mail_object.recipients).items():
            if isinstance(maildir, str):
                await self._copy(mail_object.content, maildir, recipients, staged)
            else:
                staged.note(recipients, maildir)

    def _by_maildir(self, recipients: Sequence[str]) -> dict[str | Result, list[str]]:
        """Return the recipients of each Maildir, or of each reason why they can have none."""
        found: dict[str | Result, list[str]] = {}
        for recipient in recipients:
            found.setdefault(self._maildir_of(recipient), []).append(recipient)
        return found

    async def _copy(
        self, content: MailContent, maildir: str, recipients: Sequence[str], staged: StagedMail
    ) -> None:
        temporary = f"{maildir}/{TMP}/{self._store.temporary_name(content.id)}"
        prepare = partial(_make_maildir, maildir)
        head = _delivered_to(content, recipients)
        file = NewFile(temporary, f"{maildir}/new", f"{content.id}{SUFFIX}", prepare=prepare)
        try:
            if content.replay and await self._store.run(_was_read, f"{maildir}/cur", file.name):
                read = Result("delivered", f"was read before: {printable(maildir)}/cur")
                staged.note(recipients, read)
                return
            staged.copies.append((await self._store.stage(file, head, content, _FORM), recipients))
        except OSError as error:
            staged.note(recipients, failure_result(error))


def _delivered_to(content: MailContent, recipients: Sequence[str]) -> bytes:
    """Return the lines that tell whose copy this is.

    None where they are there already: an older version of the rewriter wrote them.
    """
    if b"\r\n" + _DELIVERED_TO in content.prefix:
        return b""
    return b"".join(map(_line, recipients))


@lru_cache(4096)
def _line(recipient: str) -> bytes:
    return b"%s%s\r\n" % (_DELIVERED_TO, printable(recipient, 300).encode())


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
