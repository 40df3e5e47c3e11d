"""The bad network that other tests use: it does to bytes what it is told to, and nothing else."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.servers.process import free_port
from tests.servers.proxy import proxy

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
        assert (between.connections, between.cuts) == (3, 0)


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


@pytest.mark.parametrize(("latency", "rate", "least"), [(0.1, 0, 0.2), (0.0, 500_000, 0.2)])
def test_it_is_late_and_slow(latency: float, rate: int, least: float) -> None:
    with server(DATA) as port, proxy(port) as between:
        between.latency, between.rate = latency, rate
        started = time.monotonic()
        assert fetched(between.port) == DATA
        assert time.monotonic() - started > least  # at least: no machine is too slow for that


def test_where_there_is_no_server_nobody_answers() -> None:
    with server(DATA) as port, proxy(free_port()) as between:
        found = b""
        with suppress(ConnectionError):
            found = fetched(between.port)
        assert found == b""
        between.server = port
        assert fetched(between.port) == DATA
