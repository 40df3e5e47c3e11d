"""Proxies of SOCKS5 (RFC 1928, 1929) and HTTP; each leads to one server, whatever it is asked."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


@dataclass
class SocksProxy:
    """A running instance.

    Attributes:
        server: the port on 127.0.0.1 that it leads to.
        login: the user name and password that it wants; None for neither.
        refuses: the reply of RFC 1928 section 6 in place of success, 0 to connect.
        asked: the hosts and ports that it was asked for.
        port: where it listens.
    """

    server: int
    login: tuple[str, str] | None = None
    refuses: int = 0
    asked: list[tuple[str, int]] = field(default_factory=list)
    port: int = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["SocksProxy"]:
        """Listen until the block ends."""
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if await self._let_in(reader, writer):
                await self._connect(reader, writer)
        writer.close()

    async def _let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        _, count = await reader.readexactly(2)
        await reader.readexactly(count)
        writer.write(b"\x05\x02" if self.login else b"\x05\x00")
        if self.login is None:
            return True
        await reader.readexactly(1)
        said = [(await reader.readexactly((await reader.readexactly(1))[0])) for _ in range(2)]
        right = tuple(part.decode() for part in said) == self.login
        writer.write(b"\x01\x00" if right else b"\x01\x01")
        return right

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        *_, kind = await reader.readexactly(4)
        if kind == 1:
            host = ".".join(str(byte) for byte in await reader.readexactly(4))
        else:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.asked.append((host, port))
        writer.write(bytes((5, self.refuses, 0, 1, 127, 0, 0, 1, 0, 0)))
        if self.refuses:
            return
        onward, back = await asyncio.open_connection("127.0.0.1", self.server)
        await asyncio.gather(_pass_on(reader, back), _pass_on(onward, writer))


@dataclass
class HttpProxy:
    """A running instance, which says that it has connected in one packet with the first from there.

    Attributes:
        server: the port on 127.0.0.1 that it leads to.
        asked: the first lines of what it was asked.
        port: where it listens.
    """

    server: int
    asked: list[str] = field(default_factory=list)
    port: int = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["HttpProxy"]:
        """Listen until the block ends."""
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(asked.partition(b"\r\n")[0].decode())
        onward, back = await asyncio.open_connection("127.0.0.1", self.server)
        writer.write(b"HTTP/1.1 200 yes\r\nVia: me\r\n\r\n" + await onward.read(65536))
        await asyncio.gather(_pass_on(reader, back), _pass_on(onward, writer))
        writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()
