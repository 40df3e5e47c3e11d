"""What lies in a mailbox at an IMAP server, as another client sees it: Python's own imaplib."""

import contextlib
import imaplib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from services.deliverer.imap.commands import quoted


@dataclass(frozen=True)
class Filed:
    """A message in a folder."""

    data: bytes
    flags: frozenset[str]
    date: str


@dataclass(frozen=True)
class Mailbox:
    """A user's mailbox, read over IMAP in clear."""

    port: int
    user: str = "anna"
    password: str = "secret"

    @property
    def url(self) -> str:
        return f"imap://{self.user}:{self.password}@127.0.0.1:{self.port}"

    def filed(self, folder: str) -> list[Filed]:
        """Return what is in a folder, named as it stands in commands; nothing if there is none."""
        with self._opened() as client:
            status, _ = client.select(quoted(folder.encode()).decode(), readonly=True)
            if status != "OK":
                return []
            _, found = client.fetch("1:*", "(FLAGS INTERNALDATE BODY.PEEK[])")
            return [_filed(item) for item in found if isinstance(item, tuple)]

    def messages(self, folder: str) -> list[bytes]:
        """Return the messages in a folder."""
        return [message.data for message in self.filed(folder)]

    def subscribed(self) -> str:
        """Return the folders that the user has subscribed to, as the server lists them."""
        with self._opened() as client:
            _, found = client.lsub()
            return b"\n".join(line for line in found if isinstance(line, bytes)).decode()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[imaplib.IMAP4]:
        with imaplib.IMAP4("127.0.0.1", self.port) as client:
            client.login(self.user, self.password)
            yield client


def _filed(item: tuple[bytes, bytes]) -> Filed:
    head, data = item
    flags = re.search(rb"FLAGS \(([^)]*)\)", head)
    date = re.search(rb'INTERNALDATE "([^"]*)"', head)
    assert flags is not None
    assert date is not None
    marks = frozenset(flags[1].decode().split()) - {"\\Recent"}
    return Filed(data, marks, date[1].decode())
