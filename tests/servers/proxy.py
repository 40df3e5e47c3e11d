"""A TCP proxy of our own: a bad network between the product and a server.

What it does to the bytes that the server sends is in its attributes, which a test may change at any
time; they count for every connection, from the next byte on. It runs in a thread of its own.
"""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from shared.clock import Clock, SystemClock

CHUNK = 4096

Late: TypeAlias = asyncio.Queue[tuple[float, bytes]]
"""Bytes on their way, each with the moment at which they arrive; none at the end."""


@dataclass
class Proxy:
    """A running instance.

    Attributes:
        server: the port on 127.0.0.1 that it leads to; it may change.
        port: where it listens.
        latency: seconds by which everything is late, in both directions.
        rate: bytes a second that come from the server, 0 for no limit.
        cut_after: bytes from the server after which a connection is cut, None for never.
        corrupt_at: the number of the byte from the server that is changed, None for none.
        clock: by which it is late and slow.
        connections: how many there have been.
        cuts: how many were cut.
        passed: bytes that the server has sent.
        heard: what clients have sent, as a listener on the line has it.
        context: clients speak TLS with it.
        onwards: it speaks TLS with the server; None for in clear.
        hide: what it leaves out of what the server says, where that comes in one piece.
    """

    server: int
    port: int = 0
    latency: float = 0.0
    rate: int = 0
    cut_after: int | None = None
    corrupt_at: int | None = None
    clock: Clock = field(default_factory=SystemClock)
    connections: int = 0
    cuts: int = 0
    passed: int = 0
    heard: bytearray = field(default_factory=bytearray)
    context: ssl.SSLContext | None = None
    onwards: ssl.SSLContext | None = None
    hide: bytes = b""
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def cut(self) -> None:
        """Cut every connection now, wherever it is in what it says."""
        self._loop.call_soon_threadsafe(self._cut)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Lead one connection through."""
        self.connections += 1
        self._open.add(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.server, ssl=self.onwards)
        except OSError:
            writer.transport.abort()
            return
        self._open.add(back)
        leads = (self._lead(self._noted(reader), back), self._lead(self._bad(there), writer))
        ways = [asyncio.create_task(lead) for lead in leads]
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, back):
            end.close()
            self._open.discard(end)

    def _cut(self) -> None:
        for end in self._open:
            end.transport.abort()

    async def _lead(
        self, pieces: AsyncGenerator[bytes, None], writer: asyncio.StreamWriter
    ) -> None:
        """Lead one direction through; more is read while what was read before is on its way."""
        late: Late = asyncio.Queue()
        arriving = asyncio.create_task(self._arrive(late, writer))
        try:
            async for data in pieces:
                late.put_nowait((self.clock.monotonic() + self.latency, data))
        finally:
            late.put_nowait((self.clock.monotonic() + self.latency, b""))
            try:
                await arriving
            finally:
                arriving.cancel()

    async def _arrive(self, late: Late, writer: asyncio.StreamWriter) -> None:
        while True:
            due, data = await late.get()
            if (wait := due - self.clock.monotonic()) > 0:
                await self.clock.sleep(wait)
            if not data:
                await writer.drain()
                if writer.can_write_eof():  # not within TLS
                    writer.write_eof()
                return
            writer.write(data)

    async def _noted(self, reader: asyncio.StreamReader) -> AsyncGenerator[bytes, None]:
        """Yield what comes from a client, and keep it."""
        async for data in _pieces(reader):
            self.heard += data
            yield data

    async def _bad(self, reader: asyncio.StreamReader) -> AsyncGenerator[bytes, None]:
        """Yield what comes from the server, in the state in which it is to arrive."""
        passed = 0
        async for data in _pieces(reader):
            if self.rate:
                await self.clock.sleep(len(data) / self.rate)
            left = len(data) if self.cut_after is None else max(0, self.cut_after - passed)
            if left:
                seen = self._damaged(data, passed)[:left]
                yield seen.replace(self.hide, b"") if self.hide else seen
            passed += len(data)
            self.passed += len(data)
            if left < len(data):
                self.cuts += 1
                raise ConnectionResetError("cut")

    def _damaged(self, data: bytes, passed: int) -> bytes:
        at = None if self.corrupt_at is None else self.corrupt_at - passed
        if at is None or not 0 <= at < len(data):
            return data
        return data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :]


async def _pieces(reader: asyncio.StreamReader) -> AsyncGenerator[bytes, None]:
    while data := await reader.read(CHUNK):
        yield data


@contextlib.contextmanager
def proxy(
    server: int, context: ssl.SSLContext | None = None, onwards: ssl.SSLContext | None = None
) -> Iterator[Proxy]:
    """Run a proxy before a port of 127.0.0.1 until the block ends; see ``Proxy``."""
    state = Proxy(server, context=context, onwards=onwards)
    loop = state._loop
    listening = loop.run_until_complete(
        asyncio.start_server(state.serve, "127.0.0.1", 0, ssl=context)
    )
    state.port = listening.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield state
    finally:
        asyncio.run_coroutine_threadsafe(_close(state, listening), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _close(state: Proxy, listening: asyncio.Server) -> None:
    listening.close()
    state._cut()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
