"""A POP3 server that does as a script says, for what no real server can be made to do.

It keeps one maildrop by the book; ``Say`` puts other bytes in place of one answer, and may then
hang, drop the connection, or begin TLS. What it was told is in ``commands``.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

GREETING = "greeting"


@dataclass(frozen=True)
class Say:
    """An answer, exactly as it goes over the wire, and what the server does after it.

    Attributes:
        between: called after each piece, when whoever waits for it in this process has read it.
    """

    wire: bytes | Iterable[bytes] = b""
    then: Literal["go on", "drop", "hang", "tls"] = "go on"
    between: Callable[[], None] | None = None


@dataclass
class Pop3Server:
    """One maildrop, served to anybody who logs in.

    Attributes:
        messages: as they lie in the maildrop, lines ended by CRLF.
        uidls: one for each message; None for a server without UIDL.
        capabilities: lines of CAPA; None for a server without it.
        says: answers in place of the regular ones, by command line (``RETR 2``) or verb.
        commands: every line received, over all connections.
        connections: how many there have been.
        open: how many there are.
        deleted: numbers of the messages that a QUIT has removed.
        hanging: whether a client waits in vain.
        unread: what came from it meanwhile.
        peers: the addresses that connected, in their order.
        loses: whether all is lost that comes in one piece with the first line.
    """

    messages: Sequence[bytes] = ()
    uidls: Sequence[str] | None = None
    capabilities: Sequence[str] | None = ("UIDL", "TOP", "USER", "PIPELINING", "RESP-CODES")
    says: Mapping[str, Say] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    commands: list[str] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    deleted: set[int] = field(default_factory=set)
    host: str = "127.0.0.1"
    port: int = 0
    hanging: bool = False
    unread: bytes = b""
    loses: bool = False
    peers: list[str] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def serving(self, *, implicit: bool = False) -> AsyncIterator["Pop3Server"]:
        """Listen until the block ends, on a free port if none is set."""
        context = self.tls if implicit else None
        server = await asyncio.start_server(self._serve, self.host, self.port, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in asyncio.all_tasks():
                if task.get_name().startswith(f"pop3-{self.port}-"):
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.peers.append(writer.get_extra_info("peername")[0])
        task = asyncio.current_task()
        assert task is not None
        task.set_name(f"pop3-{self.port}-{self.connections}")
        self.open += 1
        try:
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await self._converse(reader, writer)
        finally:
            self.open -= 1
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        marked: set[int] = set()
        line = GREETING
        while True:
            verb = line.split(" ")[0]
            say = self.says.get(line) or self.says.get(verb)
            if say is None:
                say = Say(self._regular(line, marked), "drop" if verb == "QUIT" else "go on")
            for piece in [say.wire] if isinstance(say.wire, bytes) else say.wire:
                writer.write(piece)
                await writer.drain()
                if say.between is not None:
                    for _ in range(20):
                        await asyncio.sleep(0)
                    say.between()
            if say.then == "drop":
                return
            if say.then == "hang":
                self.hanging = True
                while more := await reader.read(65536):
                    self.unread += more
                return
            if say.then == "tls" or (verb == "STLS" and self.tls is not None):
                assert self.tls is not None
                await writer.start_tls(self.tls)
            read = await reader.read(65536) if self.loses else await reader.readline()
            if not read:
                return
            line = read.partition(b"\r\n")[0].decode()
            self.hanging = self.loses and read.count(b"\n") > 1
            self.commands.append(line)

    def _regular(self, line: str, marked: set[int]) -> bytes:
        verb, *arguments = line.split(" ")
        answer = _ANSWERS.get(verb)
        if answer is None:
            return b"-ERR unknown command\r\n"
        return answer(self, [int(a) for a in arguments if a.isdigit()], marked)

    def _capa(self, _: list[int], __: set[int]) -> bytes:
        if self.capabilities is None:
            return b"-ERR what is CAPA?\r\n"
        return _lines(self.capabilities)

    def _uidl(self, _: list[int], __: set[int]) -> bytes:
        if self.uidls is None:
            return b"-ERR no such thing here\r\n"
        return _lines(f"{number} {uidl}" for number, uidl in enumerate(self.uidls, 1))

    def _list(self, numbers: list[int], _: set[int]) -> bytes:
        if numbers:
            return f"+OK {numbers[0]} {len(self.messages[numbers[0] - 1])}\r\n".encode()
        return _lines(f"{number} {len(raw)}" for number, raw in enumerate(self.messages, 1))

    def _stat(self, _: list[int], __: set[int]) -> bytes:
        return f"+OK {len(self.messages)} {sum(map(len, self.messages))}\r\n".encode()

    def _retr(self, numbers: list[int], _: set[int]) -> bytes:
        return wire(self.messages[numbers[0] - 1])

    def _top(self, numbers: list[int], _: set[int]) -> bytes:
        head, blank, body = self.messages[numbers[0] - 1].partition(b"\r\n\r\n")
        lines = body.split(b"\r\n")[: numbers[1]]
        return wire(head + blank + b"".join(line + b"\r\n" for line in lines))

    def _dele(self, numbers: list[int], marked: set[int]) -> bytes:
        if numbers[0] in marked:
            return b"-ERR it is deleted already\r\n"
        marked.add(numbers[0])
        return b"+OK\r\n"

    def _rset(self, _: list[int], marked: set[int]) -> bytes:
        marked.clear()
        return b"+OK\r\n"

    def _quit(self, _: list[int], marked: set[int]) -> bytes:
        self.deleted |= marked
        return b"+OK bye\r\n"

    def _ok(self, _: list[int], __: set[int]) -> bytes:
        return b"+OK\r\n"


def wire(message: bytes) -> bytes:
    """Return a message as the answer to RETR: dot-stuffed and terminated."""
    stuffed = (b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:]
    return b"+OK here it is\r\n" + stuffed + b".\r\n"


def _lines(lines: Iterable[str]) -> bytes:
    return ("".join(f"{line}\r\n" for line in ("+OK", *lines)) + ".\r\n").encode()


_ANSWERS: Mapping[str, Callable[[Pop3Server, list[int], set[int]], bytes]] = {
    "CAPA": Pop3Server._capa,
    "UIDL": Pop3Server._uidl,
    "LIST": Pop3Server._list,
    "STAT": Pop3Server._stat,
    "RETR": Pop3Server._retr,
    "TOP": Pop3Server._top,
    "DELE": Pop3Server._dele,
    "RSET": Pop3Server._rset,
    "QUIT": Pop3Server._quit,
    "USER": Pop3Server._ok,
    "PASS": Pop3Server._ok,
    "NOOP": Pop3Server._ok,
    "STLS": Pop3Server._ok,
    GREETING: Pop3Server._ok,
}
