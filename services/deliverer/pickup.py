"""The courier for a PickUp folder, as the SMTP service of Windows and Exchange watch one.

One file for each message: first the envelope as X-Sender and X-Receiver lines, then the message. It
grows under a name that the service does not look at and then becomes ``.eml``. The name is made of
the id of the message and of its envelope, so while the file lies there, it is not put there twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from services.deliverer.addresses import refusals
from services.deliverer.courier import ClaimLost, Letter, Result, same_for_all
from services.deliverer.line_ends import crlf
from services.deliverer.store import FileStore, NewFile, discard, failure, stored


class PickupCourier:
    """Delivers into a PickUp folder. The folder has to be there: it is somebody else's.

    Args:
        folder: its path.
        store: writes the files.
    """

    def __init__(self, folder: str, store: FileStore) -> None:
        self._folder = folder
        self._store = store

    async def deliver(
        self, letter: Letter, sender: str, recipients: Sequence[str]
    ) -> Mapping[str, Result]:
        """Deliver a letter, as one file for all recipients, and return what became of it for each.

        Raises:
            SpoolMissing: the message is not in the spool; nothing was delivered.
            SpoolUnavailable: the message could not be read; nothing was delivered.
            ClaimLost: the message is no longer ours; nothing was delivered.
        """
        refused = refusals(sender, recipients)
        rest = [recipient for recipient in recipients if recipient not in refused]
        if rest:
            head = _envelope(sender, rest)
            refused |= same_for_all(rest, await self._drop(letter, head))
        return refused

    async def close(self) -> None:
        """Let go of the threads."""
        await self._store.close()

    async def _drop(self, letter: Letter, head: bytes) -> Result:
        temporary = f"{self._folder}/{self._store.temporary_name(letter.id)}"
        file = NewFile(temporary, self._folder, f"{letter.id}-{_digest(head)}.eml")
        try:
            staged = await self._store.stage(file, head, letter, crlf)
            letter.check()
            new = await self._store.put(staged)
        except OSError as error:
            return failure(error)
        except ClaimLost:
            discard(file)
            raise
        return stored(file, new=new)


def _envelope(sender: str, recipients: Sequence[str]) -> bytes:
    lines = [f"X-Sender: {sender or '<>'}", *(f"X-Receiver: {r}" for r in recipients), ""]
    return "\r\n".join(lines).encode()


def _digest(head: bytes) -> str:
    return hashlib.blake2s(head, digest_size=4).hexdigest()
