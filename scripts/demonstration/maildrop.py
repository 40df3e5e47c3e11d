"""The POP3 server of the demo: a few maildrops in memory, served on 127.0.0.1 (RFC 1939, RFC 2449).

Enough of the protocol for any client: CAPA, USER, PASS, STAT, LIST, UIDL, TOP, RETR, DELE, NOOP,
RSET, QUIT, and pipelining. Messages go when QUIT says so, and not before. Everybody knows its one
password; it is for the demo alone.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

PASSWORD: Final = "lantern"
_CAPABILITIES: Final = b"USER\r\nTOP\r\nUIDL\r\nPIPELINING\r\nRESP-CODES\r\n"
_END: Final = b".\r\n"
_Answer: TypeAlias = Callable[[Sequence[str]], bytes]


@dataclass(slots=True)
class Maildrop:
    """The messages of one user, by a number that each keeps; None where one was deleted."""

    messages: list[bytes | None] = field(repr=False)
    locked: bool = False

    @property
    def left(self) -> int:
        """How many messages there are."""
        return sum(message is not None for message in self.messages)


@asynccontextmanager
async def serving(maildrops: Mapping[str, Maildrop]) -> AsyncIterator[int]:
    """Serve maildrops, by user name, until the block ends; the value is the port."""
    sessions: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            sessions.add(task)
            task.add_done_callback(sessions.discard)
        with suppress(ConnectionError):
            await Session(maildrops, reader, writer).run()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in sessions:
            task.cancel()
        await asyncio.gather(*sessions, return_exceptions=True)


class Session:
    """One connection.

    Args:
        maildrops: of all users, by name.
        reader: what the client says.
        writer: what it is told.
    """

    def __init__(
        self,
        maildrops: Mapping[str, Maildrop],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._maildrops = maildrops
        self._reader = reader
        self._writer = writer
        self._user = ""
        self._maildrop: Maildrop | None = None
        self._numbered: list[tuple[int, bytes]] = []
        self._deleted: set[int] = set()
        self._authorization: Mapping[str, _Answer] = {
            "CAPA": self._capa,
            "USER": self._user_name,
            "PASS": self._password,
            "QUIT": self._quit,
        }
        self._transaction: Mapping[str, _Answer] = {
            "CAPA": self._capa,
            "STAT": self._stat,
            "LIST": self._list,
            "UIDL": self._uidl,
            "TOP": self._top,
            "RETR": self._retr,
            "DELE": self._dele,
            "NOOP": self._noop,
            "RSET": self._rset,
            "QUIT": self._quit,
        }

    async def run(self) -> None:
        """Answer commands until QUIT, or until the client is gone."""
        self._writer.write(b"+OK lantern demo ready\r\n")
        try:
            while line := await self._reader.readline():
                verb, *arguments = line.decode("utf-8", "replace").split() or [""]
                self._writer.write(self._answer(verb.upper(), arguments))
                await self._writer.drain()
                if verb.upper() == "QUIT":
                    return
        finally:
            if self._maildrop is not None:
                self._maildrop.locked = False

    def _answer(self, verb: str, arguments: Sequence[str]) -> bytes:
        known = self._transaction if self._maildrop is not None else self._authorization
        try:
            return known[verb](arguments)
        except (KeyError, ValueError, IndexError):
            return b"-ERR not here, or not like that\r\n"

    def _capa(self, _: Sequence[str]) -> bytes:
        return b"+OK\r\n" + _CAPABILITIES + _END

    def _user_name(self, arguments: Sequence[str]) -> bytes:
        (self._user,) = arguments
        return b"+OK\r\n"

    def _password(self, arguments: Sequence[str]) -> bytes:
        maildrop = self._maildrops.get(self._user)
        if maildrop is None or list(arguments) != [PASSWORD]:
            return b"-ERR [AUTH] wrong user name or password\r\n"
        if maildrop.locked:
            return b"-ERR [IN-USE] another session holds this maildrop\r\n"
        maildrop.locked, self._maildrop = True, maildrop
        self._numbered = [(i, m) for i, m in enumerate(maildrop.messages) if m is not None]
        return b"+OK\r\n"

    def _message(self, number: str) -> bytes:
        index = int(number) - 1
        if index < 0 or index in self._deleted:
            raise ValueError(number)
        return self._numbered[index][1]

    def _present(self) -> list[tuple[int, int, bytes]]:
        """Return number, lasting number and bytes of the messages that are not marked deleted."""
        numbered = enumerate(self._numbered)
        return [(n + 1, i, m) for n, (i, m) in numbered if n not in self._deleted]

    def _stat(self, _: Sequence[str]) -> bytes:
        present = self._present()
        return b"+OK %d %d\r\n" % (len(present), sum(len(m) for _, _, m in present))

    def _list(self, arguments: Sequence[str]) -> bytes:
        if arguments:
            return b"+OK %d %d\r\n" % (int(arguments[0]), len(self._message(arguments[0])))
        return (
            b"+OK\r\n" + b"".join(b"%d %d\r\n" % (n, len(m)) for n, _, m in self._present()) + _END
        )

    def _uidl(self, arguments: Sequence[str]) -> bytes:
        lines = {str(n): b"%d %s\r\n" % (n, _unique(i, m)) for n, i, m in self._present()}
        if arguments:
            return b"+OK " + lines[arguments[0]]
        return b"+OK\r\n" + b"".join(lines.values()) + _END

    def _top(self, arguments: Sequence[str]) -> bytes:
        head, blank, body = self._message(arguments[0]).partition(b"\r\n\r\n")
        lines = body.removesuffix(b"\r\n").split(b"\r\n")[: int(arguments[1])]
        return b"+OK\r\n" + _stuffed(head + blank + b"".join(line + b"\r\n" for line in lines))

    def _retr(self, arguments: Sequence[str]) -> bytes:
        return b"+OK\r\n" + _stuffed(self._message(arguments[0]))

    def _dele(self, arguments: Sequence[str]) -> bytes:
        self._message(arguments[0])
        self._deleted.add(int(arguments[0]) - 1)
        return b"+OK\r\n"

    def _noop(self, _: Sequence[str]) -> bytes:
        return b"+OK\r\n"

    def _rset(self, _: Sequence[str]) -> bytes:
        self._deleted.clear()
        return b"+OK\r\n"

    def _quit(self, _: Sequence[str]) -> bytes:
        if self._maildrop is not None:
            for place in self._deleted:
                self._maildrop.messages[self._numbered[place][0]] = None
        return b"+OK bye\r\n"


def _unique(index: int, message: bytes) -> bytes:
    """Return the UIDL of a message: two copies of the same are two messages to a POP3 server."""
    digest = hashlib.sha256(message).hexdigest()
    return f"{index:04d}{digest[:16]}".encode()


def _stuffed(message: bytes) -> bytes:
    """Return a message as it goes over the wire: leading dots doubled, the last line ended."""
    whole = message if message.endswith(b"\r\n") else message + b"\r\n"
    stuffed = whole.replace(b"\r\n.", b"\r\n..")
    return (b"." if whole.startswith(b".") else b"") + stuffed + _END
