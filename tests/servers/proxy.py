"""A TCP proxy of our own: a bad network between the product and a server.

What it does to the bytes that the server sends is in its attributes, which a test may change at any
time; they count for every connection, from the next byte on. It runs in a thread of its own.
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

CHUNK = 4096


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
        connections: how many there have been.
        cuts: how many were cut.
    """

    server: int
    port: int = 0
    latency: float = 0.0
    rate: int = 0
    cut_after: int | None = None
    corrupt_at: int | None = None
    connections: int = 0
    cuts: int = 0
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
            there, back = await asyncio.open_connection("127.0.0.1", self.server)
        except OSError:
            writer.transport.abort()
            return
        self._open.add(back)
        ways = [asyncio.create_task(w) for w in (self._up(reader, back), self._down(there, writer))]
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

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            self._pass_on(writer, data)
        await asyncio.sleep(self.latency)
        writer.write_eof()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        while data := await reader.read(CHUNK):
            if self.rate:
                await asyncio.sleep(len(data) / self.rate)
            left = len(data) if self.cut_after is None else self.cut_after - passed
            self._pass_on(writer, self._damaged(data, passed)[: max(0, left)])
            passed += len(data)
            if left < len(data):
                self.cuts += 1
                await asyncio.sleep(self.latency)
                await writer.drain()
                raise ConnectionResetError("cut")
        await asyncio.sleep(self.latency)
        writer.write_eof()

    def _pass_on(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if self.latency:
            asyncio.get_running_loop().call_later(self.latency, writer.write, data)
        else:
            writer.write(data)

    def _damaged(self, data: bytes, passed: int) -> bytes:
        at = None if self.corrupt_at is None else self.corrupt_at - passed
        if at is None or not 0 <= at < len(data):
            return data
        return data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :]


@contextlib.contextmanager
def proxy(server: int) -> Iterator[Proxy]:
    """Run a proxy before a port of 127.0.0.1 until the block ends."""
    state = Proxy(server)
    loop = state._loop
    listening = loop.run_until_complete(asyncio.start_server(state.serve, "127.0.0.1", 0))
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
