"""The bad network that other tests use: it does to bytes what it is told to, and nothing else."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.clock import ManualClock
from tests.servers.process import free_port
from tests.servers.proxy import Proxy, proxy

DATA = bytes(range(256)) * 400


@contextmanager
def server(data: bytes) -> Iterator[int]:
    """Serve these bytes to whoever has sent a line, and then close."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    if connection.makefile("rb").readline():
                        connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


def fetched(port: int) -> bytes:
    """Return all that comes for a line."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"please\n")
        return connection.makefile("rb").read()


def test_everything_passes_unharmed() -> None:
    with server(DATA) as port, proxy(port) as between:
        assert [fetched(between.port) for _ in range(3)] == [DATA] * 3
        assert (between.connections, between.cuts, between.passed) == (3, 0, 3 * len(DATA))


@pytest.mark.parametrize("after", [0, 1, 4096, 50_001])
def test_a_connection_is_cut_after_so_many_bytes(after: int) -> None:
    with server(DATA) as port, proxy(port) as between:
        between.cut_after = after
        assert fetched(between.port) == DATA[:after]
        assert between.cuts == 1
        between.cut_after = None
        assert fetched(between.port) == DATA


def test_one_byte_is_changed() -> None:
    with server(DATA) as port, proxy(port) as between:
        between.corrupt_at = 50_000
        found = fetched(between.port)
    assert [i for i, byte in enumerate(found) if byte != DATA[i]] == [50_000]
    assert len(found) == len(DATA)


@pytest.mark.parametrize(
    ("latency", "rate", "seconds"),
    [(0.0, 0, 0.0), (3.0, 0, 6.0), (0.0, 100, len(DATA) / 100), (3.0, 100, len(DATA) / 100 + 6)],
)
async def test_it_is_late_and_slow(
    clock: ManualClock, latency: float, rate: int, seconds: float
) -> None:
    with server(DATA) as port:
        between = Proxy(port, latency=latency, rate=rate, clock=clock)
        listening = await asyncio.start_server(between.serve, "127.0.0.1", 0)
        between.port = listening.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", between.port)
        writer.write(b"please\n")
        reading = asyncio.create_task(reader.read())
        while not reading.done():
            if not await clock.skip():
                await asyncio.sleep(0)
        writer.close()
        listening.close()  # not waited for: what we said last is on its way, and time stands still
    assert await reading == DATA
    # Not earlier; later, where this clock was moved on while bytes were still in a real socket.
    assert clock.monotonic() >= seconds if seconds else clock.monotonic() == 0


def test_where_there_is_no_server_nobody_answers() -> None:
    with server(DATA) as port, proxy(free_port()) as between:
        found = b""
        with suppress(ConnectionError):
            found = fetched(between.port)
        assert found == b""
        between.server = port
        assert fetched(between.port) == DATA
