"""A provider that is far away: a proxy of our own before its port that adds round-trip time.

It runs in a thread with an event loop of its own. Every byte is held back for half the round trip,
in either direction, without limiting how much is on its way. It notes when each connection came,
which is when a poll began.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that runs.

    Attributes:
        host: where it listens.
        port: where it listens.
        connected: when each connection came, in seconds since 1970.
    """

    host: str
    port: int
    connected: list[float] = field(default_factory=list)


@contextlib.contextmanager
def proxy(host: str, port: int, round_trip: float = 0.0) -> Iterator[Proxy]:
    """Run a proxy until the block ends.

    Args:
        host: the server behind it.
        port: its port.
        round_trip: seconds that it adds to the time between a command and its reply; connecting,
            which is a round trip of its own, takes as long.
    """
    loop = asyncio.new_event_loop()
    came: list[float] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(time.time())
        await asyncio.sleep(round_trip)
        there, back = await asyncio.open_connection(host, port)
        await asyncio.gather(
            _pass_on(reader, back, round_trip / 2), _pass_on(there, writer, round_trip / 2)
        )

    server = loop.run_until_complete(asyncio.start_server(connected, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield Proxy("127.0.0.1", server.sockets[0].getsockname()[1], came)
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(_end_all())
        loop.close()


async def _end_all() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float
) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_CHUNK):
            if delay:
                loop.call_later(delay, _write, writer, data)
            else:
                _write(writer, data)
    loop.call_later(delay, writer.close)


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    # What comes back is acknowledged at once: the stalls of a proxy are not what is measured.
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
