"""The courier for a PickUp folder, as the SMTP service of Windows and Exchange watch one.

One file for each message: first the envelope as X-Sender and X-Receiver lines, then the message. It
grows under a name that the service does not look at and then becomes ``.eml``. The name is made of
the id of the message and of its envelope, so while the file lies there, it is not put there twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from services.deliverer import drafts
from services.deliverer.addresses import refusals, sendable
from services.deliverer.courier import Letter, Post, Tell, same_for_all
from services.deliverer.drafts import Draft
from services.deliverer.line_ends import crlf
from services.deliverer.store import FileStore, NewFile, failure, require_writable


class PickupCourier:
    """Delivers into a PickUp folder. The folder has to be there: it is somebody else's.

    Args:
        folder: its path.
        store: writes the files.
    """

    def __init__(self, folder: str, store: FileStore) -> None:
        self._folder = folder
        self._store = store

    async def deliver(self, posts: Sequence[Post], tell: Tell) -> None:
        """Deliver letters, each as one file for all its recipients; tell what became of each."""
        await drafts.deliver(self._store, posts, self._write, tell)

    async def probe(self, recipients: Sequence[str]) -> None:
        """See whether the folder is there and can be written to."""
        require_writable(self._folder, make=False)

    async def close(self) -> None:
        """Let go of the threads."""
        await self._store.close()

    async def _write(self, post: Post, draft: Draft) -> None:
        letter, sender, recipients = post
        draft.results |= refusals(recipients)
        rest = [recipient for recipient in recipients if recipient not in draft.results]
        if rest:
            await self._copy(letter, _envelope(sendable(sender), rest), rest, draft)

    async def _copy(
        self, letter: Letter, head: bytes, recipients: Sequence[str], draft: Draft
    ) -> None:
        temporary = f"{self._folder}/{self._store.temporary_name(letter.id)}"
        file = NewFile(temporary, self._folder, f"{letter.id}-{_digest(head)}.eml")
        try:
            draft.copies.append((await self._store.stage(file, head, letter, crlf), recipients))
        except OSError as error:
            draft.results |= same_for_all(recipients, failure(error))


def _envelope(sender: str, recipients: Sequence[str]) -> bytes:
    lines = [f"X-Sender: {sender or '<>'}", *(f"X-Receiver: {r}" for r in recipients), ""]
    return "\r\n".join(lines).encode()


def _digest(head: bytes) -> str:
    return hashlib.blake2s(head, digest_size=4).hexdigest()
