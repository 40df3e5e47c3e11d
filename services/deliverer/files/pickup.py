"""The courier for folders in which a mail server picks up files: PickUp of IIS, Replay of Exchange.

One file for each message: first the envelope as X-Sender and X-Receiver lines, then the message. It
grows in a folder beside the other one, on the same file system, and then appears as ``.eml``: what
lies in the folder under any other name is sent all the same when Exchange is started. The name is
made of the id of the message and of its envelope, so while the file lies there, it is not put there
twice.

``pickup://`` is the SMTP service of Windows, up to Exchange and Small Business Server 2003, which
takes the envelope from those lines. The Pickup directory of Exchange 2007 and later takes it from
To, Cc and Bcc instead, and would send the message once more to everybody there; its *Replay*
directory is what takes these lines, with the addresses in angle brackets. Microsoft, "Pickup
directory and Replay directory". Both want a blank line below the header, with or without a body.

Known limit: once the server has taken the file, a delivery that a crash left open is made again.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from services.deliverer.addresses import refusals, sendable
from services.deliverer.courier import DeliveryRequest, MailContent, MailObject
from services.deliverer.files.durable_files import (
    FileStore,
    NewFile,
    failure_result,
    require_writable,
)
from services.deliverer.files.staging import StagedMail, deliver_files
from services.deliverer.line_ends import Crlf, Form, crlf
from shared.errors import Unreachable

WriteEnvelope: TypeAlias = Callable[[str, Sequence[str]], bytes]
"""Returns the lines for a sender, "" for none, and recipients."""

STAGING: Final = ".pop3-connector"
STALE: Final = 36 * 3600.0
"""Seconds after which nobody writes to a temporary file any more; as in a Maildir."""


class PickupCourier:
    """Delivers into such a folder. The folder has to be there: it is somebody else's.

    Args:
        folder: its path.
        store: writes the files.
        envelope: writes the envelope.
        staging: where files grow, on the same file system; None for a folder beside the other one.
    """

    def __init__(
        self, folder: str, store: FileStore, envelope: WriteEnvelope, staging: str | None = None
    ) -> None:
        self._folder = folder
        self._store = store
        self._envelope = envelope
        self._wanted = staging
        self._staging: str | None = None

    async def deliver(self, requests: Sequence[DeliveryRequest]) -> None:
        """Deliver each as one file for all its recipients; tell what became of each."""
        await deliver_files(self._store, requests, self._write)

    async def probe(self, recipients: Sequence[str]) -> None:
        """See whether files can be made to appear in the folder, which has to be there."""
        require_writable(self._folder, make=False)
        try:
            await self._ensure_staging()
        except OSError as error:
            raise Unreachable(self._folder, failure_result(error).reply) from error

    async def close(self) -> None:
        """Let go of the threads."""
        await self._store.close()

    async def _write(self, mail_object: MailObject, staged: StagedMail) -> None:
        content, sender, recipients = mail_object
        staged.results |= refusals(recipients)
        rest = [recipient for recipient in recipients if recipient not in staged.results]
        if rest:
            await self._copy(content, self._envelope(sendable(sender), rest), rest, staged)

    async def _copy(
        self, content: MailContent, head: bytes, recipients: Sequence[str], staged: StagedMail
    ) -> None:
        try:
            staging = await self._ensure_staging()
            temporary = f"{staging}/{self._store.temporary_name(content.id)}"
            prepare = partial(make_staging, self._folder, self._wanted)
            name = f"{content.id}-{_digest(head)}.eml"
            file = NewFile(temporary, self._folder, name, prepare=prepare)
            staged.copies.append((await self._store.stage(file, head, content, _FORM), recipients))
        except OSError as error:
            staged.note(recipients, failure_result(error))

    async def _ensure_staging(self) -> str:
        if self._staging is None:
            self._staging = await self._store.run(make_staging, self._folder, self._wanted)
        return self._staging


def pickup_envelope(sender: str, recipients: Sequence[str]) -> bytes:
    """Return the envelope as the SMTP service of IIS reads, and writes, it: addresses alone."""
    lines = [f"X-Sender: {sender or '<>'}", *(f"X-Receiver: {r}" for r in recipients), ""]
    return "\r\n".join(lines).encode()


def replay_envelope(sender: str, recipients: Sequence[str]) -> bytes:
    """Return the envelope as the Replay directory reads it: addresses in angle brackets."""
    lines = [f"X-Sender: <{sender}>", *(f"X-Receiver: <{r}>" for r in recipients), ""]
    return "\r\n".join(lines).encode()


def make_staging(folder: str, wanted: str | None) -> str:
    """Return the folder to write files in that are to appear in this one; make it if need be.

    Without a wish it is beside the folder; where that cannot be, as where the folder is a mounted
    share, in it: neither service looks into folders there. What lies there since long is removed.

    Raises:
        OSError: the folder does not exist, or there is no such place on the same file system.
    """
    path = Path(folder)
    device = path.stat().st_dev
    beside = path.parent / f"{STAGING}-{path.name}"
    where = str(beside) if wanted is None else wanted
    why = OSError(errno.EXDEV, "no place to write on the file system of the folder", where)
    for place in (beside, path / STAGING) if wanted is None else (Path(wanted),):
        try:
            if _ensure_folder(place, device):
                _sweep(place)
                return str(place)
        except (PermissionError, FileNotFoundError) as error:
            why = error
    raise why


def _ensure_folder(place: Path, device: int) -> bool:
    """Return whether a folder is there, or could be made, on that file system."""
    try:
        if place.parent.stat().st_dev != device and not place.is_dir():
            return False
        place.mkdir(0o700, exist_ok=True)
    except OSError as error:
        if error.errno == errno.EROFS:
            return False
        raise
    return place.stat().st_dev == device


def _sweep(place: Path) -> None:
    """Remove temporary files that a killed process left behind."""
    for path in place.glob("*.tmp"):
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - STALE:
                path.unlink()


def _with_blank_line(message: bytes) -> bytes:
    data = crlf(message)
    return data if b"\r\n\r\n" in data else data + _missing_end(data)


class _WithBlankLine:
    """CRLF line ends, and a blank line below the header whether there is a body or not."""

    def __init__(self) -> None:
        self._ends = Crlf()
        self._tail = b""
        self._found = False

    def feed(self, chunk: bytes) -> bytes:
        """Return the next part of the converted message."""
        return self._look_for_blank_line(self._ends.feed(chunk))

    def end(self) -> bytes:
        """Return what is left."""
        data = self._look_for_blank_line(self._ends.end())
        return data if self._found else data + _missing_end(self._tail)

    def _look_for_blank_line(self, data: bytes) -> bytes:
        if not self._found:
            tail = self._tail + data
            self._found = b"\r\n\r\n" in tail
            self._tail = tail[-3:]
        return data


def _missing_end(data: bytes) -> bytes:
    """Return what is to follow a header without end, so that it has one."""
    return b"\r\n" if data.endswith(b"\r\n") else b"\r\n\r\n"


_FORM: Final = Form(_with_blank_line, _WithBlankLine)


def _digest(head: bytes) -> str:
    return hashlib.blake2s(head, digest_size=4).hexdigest()
