"""POP3 servers that mean harm, and a destination that is slow on purpose, beside all the others.

A hostile server does as the book says until a fault tells it otherwise. Its own mail is not
counted; what is asked is that nobody else's is lost, late for ever, or delivered twice.
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.corpus.messages import sample_messages
from tests.servers.pop3 import Pop3Server, Say

MESSAGES = 5


@dataclass(frozen=True)
class Endless:
    """What is said again and again, until the client has had enough, after what is said once."""

    again: bytes
    once: bytes = b""

    def __iter__(self) -> Iterator[bytes]:
        yield self.once
        while True:
            yield self.again


@dataclass(frozen=True)
class Counting:
    """A listing without an end: each of its lines names another message."""

    last: str

    def __iter__(self) -> Iterator[bytes]:
        yield b"+OK\r\n"
        number = 0
        while True:
            number += 1
            yield f"{number} {self.last}\r\n".encode()


TRICKS: Mapping[str, Mapping[str, Say]] = {
    "says nothing": {"greeting": Say(then="hang")},
    "greets without an end": {"greeting": Say(Endless(b"x" * 4096, b"+OK "))},
    "has capabilities without an end": {"CAPA": Say(Endless(b"X-TRICK\r\n" * 400, b"+OK\r\n"))},
    "lists without an end": {"LIST": Say(Counting("100"))},
    "has UIDLs without an end": {"UIDL": Say(Counting("u" * 70))},
    "has one UIDL without an end": {"UIDL": Say(Endless(b"u" * 4096, b"+OK\r\n1 "))},
    "sends a message without an end": {"RETR": Say(Endless(b"x" * 76 + b"\r\n", b"+OK\r\n"))},
    "sends a line without an end": {"RETR": Say(Endless(b"x" * 65_536, b"+OK\r\n"))},
    "hangs in the middle of a message": {"RETR 2": Say(b"+OK\r\nSubject: half", "hang")},
    "hangs at the end": {"QUIT": Say(then="hang")},
    "refuses each message": {"RETR": Say(b"-ERR not this one \x1b[2J secret\r\n")},
    "hangs up at each message": {"RETR": Say(b"", "drop")},
    "repeats the password": {"PASS": Say(b"-ERR secret is not right\r\n")},
    "answers with noise": {"STAT": Say(bytes(range(256)) * 8 + b"\r\n"), "LIST": Say(b"\x00\n")},
}
"""What a hostile server does, by what it says in place of a regular answer."""


@dataclass
class Hostile:
    """A running server.

    Attributes:
        server: says what it is told to.
    """

    server: Pop3Server = field(
        default_factory=lambda: Pop3Server(
            messages=sample_messages(MESSAGES, 1313, max_size=4000),
            uidls=[f"hostile-{number}" for number in range(MESSAGES)],
        )
    )
    _over: asyncio.Event = field(default_factory=asyncio.Event)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.server.port

    @contextlib.contextmanager
    def doing(self, trick: str) -> Iterator[None]:
        """Let it do one of ``TRICKS`` until the block ends."""
        self.server.says = TRICKS[trick]
        try:
            yield
        finally:
            self.server.says = {}

    def end(self) -> None:
        """Close it, as often as one likes."""
        with contextlib.suppress(RuntimeError):  # its loop has ended
            self._loop.call_soon_threadsafe(self._over.set)

    async def _serve(self, listens: threading.Event) -> None:
        async with self.server.serving():
            listens.set()
            await self._over.wait()

    def _run(self, listens: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve(listens))
        self._loop.close()


@contextlib.contextmanager
def hostile(count: int) -> Iterator[Sequence[Hostile]]:
    """Run so many hostile servers until the block ends, each in a thread of its own."""
    servers = [Hostile() for _ in range(count)]
    threads = []
    for server in servers:
        listens = threading.Event()
        threads.append(threading.Thread(target=server._run, args=[listens]))
        threads[-1].start()
        assert listens.wait(20)
    try:
        yield servers
    finally:
        for server in servers:
            server.end()
        for thread in threads:
            thread.join()
