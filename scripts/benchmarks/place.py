"""Where the contenders run: a provider and a local mail server (Dovecot both), RabbitMQ, mail.

Everything is private to one run of the benchmark and gone after it.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from scripts.benchmarks.arrivals import Arrivals, Folders
from tests.servers.dovecot import Dovecot, dovecot
from tests.servers.rabbitmq import RabbitServer, rabbitmq

USER: Final = "sales"
PASSWORD: Final = "secret"
MAILBOX: Final = "sales@corp.example"

_HEADER: Final = (
    b"Return-Path: <ann@example.net>\r\n"
    b"Received: from mail.example.net by mx.example.org; Mon, 1 Jan 2024 00:00:00 +0000\r\n"
    b"From: Ann Example <ann@example.net>\r\nTo: sales@corp.example\r\n"
    b"Subject: Message %d\r\nMessage-ID: <%d@example.net>\r\n"
    b"Date: Mon, 1 Jan 2024 00:00:00 +0000\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=us-ascii\r\n\r\n"
)
_LINE: Final = b"All that is gold does not glitter, not all those who wander are lost.\r\n"


def message(number: int, size: int = 5_000) -> bytes:
    """Return a message of about this many bytes, unlike all others."""
    header = _HEADER % (number, number)
    return header + _LINE * max(1, (size - len(header)) // len(_LINE))


def same_size(count: int, size: int = 5_000) -> list[bytes]:
    """Return messages of one size."""
    return [message(number, size) for number in range(count)]


def mixed_sizes(count: int) -> list[bytes]:
    """Return messages of a median of 5 KB: one in twenty has 500 KB, one in 500 has 20 MB."""
    chance = random.Random(1)
    sizes = [round(5_000 * chance.lognormvariate(0, 0.7)) for _ in range(count)]
    sizes[::20] = [500_000] * len(sizes[::20])
    sizes[::500] = [20_000_000] * len(sizes[::500])
    return [message(number, size) for number, size in enumerate(sizes)]


@dataclass(frozen=True, slots=True)
class Drop:
    """A maildrop: where it is, and whose."""

    host: str
    port: int
    user: str


@dataclass(frozen=True, slots=True)
class Load:
    """What a contender is given to do: maildrops, and the mail that comes into each of them."""

    drops: Sequence[Drop]
    mail: Sequence[bytes]

    @property
    def messages(self) -> int:
        """How many there are to be delivered."""
        return len(self.drops) * len(self.mail)


@dataclass(frozen=True, slots=True)
class Lmtp:
    """A mail server that takes mail by LMTP.

    Attributes:
        host: where it is.
        port: where it is.
        arrivals: returns what comes to it from now on, in maildrops that are empty now.
    """

    host: str
    port: int
    arrivals: Callable[[], Arrivals]


@dataclass(frozen=True)
class Place:
    """The servers of one run.

    Attributes:
        folder: for everything that the contenders write.
        provider: has the maildrops.
        local: has the Maildirs of the same users, for mail that comes by LMTP.
        lmtp: takes mail by LMTP; ``local``, unless it is replaced.
        broker: None where RabbitMQ is not installed, or not wanted.
    """

    folder: Path
    provider: Dovecot
    local: Dovecot
    lmtp: Lmtp
    broker: RabbitServer | None

    @cached_property
    def broker_pid(self) -> int:
        """The process of RabbitMQ."""
        assert self.broker is not None
        return int(self.broker.ctl("eval", "os:getpid().").strip().strip('"'))

    @property
    def drop(self) -> Drop:
        """The maildrop of the only user."""
        return Drop(self.provider.host, self.provider.pop3, USER)

    def empty(self, load: Load) -> None:
        """Leave nothing in the maildrops, and no memory of earlier mail in Dovecot."""
        for drop in load.drops:
            for server in (self.provider, self.local):
                _put_aside(server, drop.user)

    def fill(self, load: Load) -> None:
        """Let the mail come in, into maildrops that hold nothing else."""
        self.empty(load)
        for drop in load.drops:
            self.provider.put_all(drop.user, load.mail)
        os.sync()

    def maildrops(self, load: Load) -> Folders:
        """Return what is in the maildrops, as the server keeps it."""
        users = [self.provider.maildir(drop.user) for drop in load.drops]
        home = self.provider.home
        names = [f"{user.relative_to(home)}/{new}" for user in users for new in ("new", "cur")]
        return Folders(home, names)

    def fresh(self, name: str) -> Path:
        """Return an empty directory."""
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
        folder.chmod(0o755)
        return folder


def _put_aside(server: Dovecot, user: str) -> None:
    """Replace a user's Maildir by an empty one.

    Nothing is deleted before the end of all rounds: for some seconds after files were deleted,
    ext4 spends more on finding an inode for a new one than all the rest of a delivery takes.
    """
    maildir = server.maildir(user)
    maildir.rename(Path(tempfile.mkdtemp(dir=server.home.parent)) / "Maildir")
    for path in (maildir, *(maildir / folder for folder in ("tmp", "new", "cur"))):
        path.mkdir()
        os.chown(path, server.uid, server.gid)


@contextlib.contextmanager
def open_place(
    folder: Path, users: Sequence[str] = (USER,), *, with_broker: bool = True
) -> Iterator[Place]:
    """Start the servers, RabbitMQ among them where it is installed; stop them afterwards."""
    with contextlib.ExitStack() as stack:
        folders = [folder / name for name in ("provider", "local", "broker")]
        for each in folders:
            each.mkdir(parents=True)
        passwords = dict.fromkeys(users, PASSWORD)
        provider = stack.enter_context(dovecot(folders[0], passwords))
        local = stack.enter_context(dovecot(folders[1], passwords))
        broker = None
        if with_broker and Path("/usr/sbin/rabbitmq-server").exists():
            broker = stack.enter_context(rabbitmq(folders[2]))
        yield Place(folder, provider, local, _lmtp(local), broker)


def _lmtp(server: Dovecot) -> Lmtp:
    mail = Folders(server.home, ("*/Maildir/new", "*/Maildir/cur"))
    return Lmtp(server.host, server.lmtp, lambda: mail)
