"""POP3 servers of many maildrops, over lines that are not there: latency, pace, and who hangs.

The fetcher's own client talks to them, as over TCP; what a session says is what the server of the
tests says. Nobody is refused who has a session of the maildrop already, as a real server would: it
is counted.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import pytest

from services.fetcher.pop3 import connection
from services.fetcher.pop3.connection import Pop3Connection
from shared.network.dial import NetworkRoute
from tests.servers.pop3 import GREETING, Pop3Server
from tests.simulation.loop import PROCESS

CAPABILITIES = ("UIDL", "TOP", "USER", "PIPELINING", "RESP-CODES")


_APART = 1e-6
"""Seconds between two answers: of timers for the same moment nobody knows which comes first."""


@dataclass
class Maildrop:
    """What lies at a server for one account.

    Attributes:
        uidls: of what lies there.
        size: bytes of each message, about; it is made of its UIDL when it is read.
        pace: seconds for each message that is retrieved.
        hangs: where it says nothing any more: at the greeting, or after the login.
        logins: when each session began, by the loop's time.
        open: sessions at this moment.
        most: sessions at once, at the most.
        early: logins before LOGIN-DELAY was over.
    """

    uidls: list[str] = field(default_factory=list)
    size: int = 500
    pace: float = 0.0
    hangs: Literal["", "greeting", "login"] = ""
    logins: list[float] = field(default_factory=list)
    open: int = 0
    most: int = 0
    early: int = 0


class _Messages(Sequence[bytes]):
    def __init__(self, uidls: Sequence[str], size: int) -> None:
        self._uidls = uidls
        self._body = b"A line of a message.\r\n" * (size // 22)

    def __len__(self) -> int:
        return len(self._uidls)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            raise TypeError("one at a time")
        return f"Subject: {self._uidls[index]}\r\n\r\n".encode() + self._body


@dataclass
class Provider:
    """A server.

    Attributes:
        maildrops: by user name.
        latency: seconds from a command to its answer.
        login_delay: seconds between two logins that it asks for; 0 for none.
        takes: connections at once; what is more is refused.
        open: connections at this moment.
        most: the same at the most.
        refused: connections.
    """

    maildrops: dict[str, Maildrop] = field(default_factory=dict)
    latency: float = 0.1
    login_delay: float = 0.0
    takes: int = 1_000_000
    open: int = 0
    most: int = 0
    refused: int = 0

    @property
    def capabilities(self) -> Sequence[str]:
        delay = (f"LOGIN-DELAY {self.login_delay:g}",) if self.login_delay else ()
        return (*CAPABILITIES, *delay)


class _Line(asyncio.Transport):
    """A connection as the client has it; its answers come one after the other."""

    def __init__(self, client: Pop3Connection, provider: Provider, told: Callable[[str], None]):
        super().__init__()
        self._client = client
        self._provider = provider
        self._loop = asyncio.get_running_loop()
        self._told = told
        self._drop: Maildrop | None = None
        self._user = ""
        self._listed: list[str] = []
        self._server = Pop3Server(capabilities=provider.capabilities)
        self._marked: set[int] = set()
        self._received = b""
        self._held: list[bytes] = []
        self._paused = self._closed = self._mute = False
        self._next = 0.0
        self._process = PROCESS.get()
        if self._process is not None:
            self._process.killed.append(self.abort)
        provider.open += 1
        provider.most = max(provider.most, provider.open)
        self._over = provider.open > provider.takes
        client.connection_made(self)
        if self._over:
            provider.refused += 1
            self._say(b"-ERR [SYS/TEMP] too many connections\r\n", ends=True)
        else:
            self._say(self._server._regular(GREETING, self._marked))

    # What the client calls.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        *lines, self._received = (self._received + bytes(data)).split(b"\r\n")
        answers = b""
        for line in lines:
            text = line.decode()
            if text.startswith("RETR ") and self._drop is not None and self._drop.pace:
                self._say(answers)
                self._say(self._answer(text), takes=self._drop.pace)
                answers = b""
            else:
                answers += self._answer(text)
                if text == "QUIT":
                    self._say(answers, ends=True)
                    return
        self._say(answers)

    def close(self) -> None:
        self._end(None)

    def abort(self) -> None:
        self._end(None)

    def is_closing(self) -> bool:
        return self._closed

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        held, self._held = self._held, []
        for data in held:
            self._arrive(data, ends=False)

    # What the server does.

    def _answer(self, line: str) -> bytes:
        verb, _, rest = line.partition(" ")
        if self._mute or self._closed:
            return b""
        if verb == "USER":
            self._user = rest
            self._mute = self._provider.maildrops[rest].hangs == "greeting"
        if verb == "PASS":
            self._log_in(self._provider.maildrops[self._user])
        if verb == "QUIT" and self._drop is not None and self._marked:
            gone = {self._listed[number - 1] for number in self._marked}
            self._drop.uidls = [uidl for uidl in self._drop.uidls if uidl not in gone]
        return b"" if self._mute else self._server._regular(line, self._marked)

    def _log_in(self, drop: Maildrop) -> None:
        now = self._loop.time()
        if drop.logins and now - drop.logins[-1] < self._provider.login_delay:
            drop.early += 1
        self._drop = drop
        drop.logins.append(now)
        drop.open += 1
        drop.most = max(drop.most, drop.open)
        self._listed = [*drop.uidls]
        self._server.messages = _Messages(self._listed, drop.size)
        self._server.uidls = self._listed
        self._mute = drop.hangs == "login"
        self._told(self._user)

    def _say(self, data: bytes, *, takes: float = 0.0, ends: bool = False) -> None:
        if not data:
            return
        soonest = self._loop.time() + self._provider.latency
        self._next = max(self._next + _APART, soonest) + takes
        self._loop.call_at(self._next, self._arrive, data, ends)

    def _arrive(self, data: bytes, ends: bool) -> None:
        if self._closed:
            return
        if self._paused:
            self._held.append(data)
            return
        rest = memoryview(data)
        while rest:
            space = self._client.get_buffer(-1)
            size = min(len(space), len(rest))
            space[:size] = rest[:size]
            self._client.buffer_updated(size)
            rest = rest[size:]
        if ends:
            self._end(None)

    def _end(self, error: Exception | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._provider.open -= 1
        if self._drop is not None:
            self._drop.open -= 1
        if self._process is not None:
            self._process.killed.remove(self.abort)
        self._loop.call_soon(self._client.connection_lost, error)


@contextmanager
def served(
    providers: dict[int, Provider], told: Callable[[str], None] = lambda _: None
) -> Iterator[None]:
    """Let whoever connects in this block get one of these, by its port.

    Args:
        providers: by port.
        told: called with the user name of each login.
    """

    async def dial(
        make: Callable[[], Pop3Connection], host: str, port: int, *, route: NetworkRoute, **_: Any
    ) -> Pop3Connection:
        client = make()
        await asyncio.sleep(providers[port].latency)
        _Line(client, providers[port], told)
        return client

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "dial", dial)
        yield
