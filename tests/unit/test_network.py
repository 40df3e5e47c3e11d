"""Connecting to a server by any of its addresses, over real sockets."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from shared.network import dial as network
from shared.network.dial import NameNotLookedUp, SocketAddress, addresses, dial
from tests.servers.certificates import Certificates, make_certificates
from tests.servers.process import free_port
from tests.unit.fetcher.pop3_session import server_context

HOST = "pop.example"


class Greeted(asyncio.Protocol):
    """Takes down what the server says."""

    def __init__(self) -> None:
        self.said: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.close = transport.close
        self.peer = transport.get_extra_info("peername")[0]

    def data_received(self, data: bytes) -> None:
        if not self.said.done():
            self.said.set_result(data)


def at(*hosts: str) -> network.LookUp:
    """Return what looks up these addresses, whatever the name."""

    def look_up(_: str, port: int) -> Sequence[SocketAddress]:
        return [
            SocketAddress(socket.AF_INET6 if ":" in host else socket.AF_INET, (host, port))
            for host in hosts
        ]

    return look_up


@contextlib.asynccontextmanager
async def listening(host: str, port: int, tls: Certificates | None = None) -> AsyncIterator[None]:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(host.encode())
        with contextlib.suppress(ConnectionError):
            await writer.drain()

    context = None if tls is None else server_context(tls)
    async with await asyncio.start_server(greet, host, port, ssl=context):
        yield


@contextlib.contextmanager
def dropping(host: str, port: int) -> Iterator[None]:
    """Have an address that answers nothing: its backlog is full."""
    with contextlib.ExitStack() as held:
        dead = held.enter_context(socket.socket())
        dead.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        dead.bind((host, port))
        dead.listen(0)
        for _ in range(4):
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((host, port))
        yield


async def reached(port: int, by: network.LookUp, seconds: float = 20) -> str:
    protocol = await dial(Greeted, HOST, port, seconds=seconds, by=by)
    said = await protocol.said
    protocol.close()
    assert said.decode() == protocol.peer
    return protocol.peer


async def test_an_address_that_drops_packets_holds_up_no_other() -> None:
    port = free_port()
    with dropping("127.0.0.2", port):
        async with listening("127.0.0.3", port), asyncio.timeout(60):
            assert await reached(port, at("127.0.0.2", "127.0.0.3"), 3_600) == "127.0.0.3"


async def test_an_address_where_nobody_listens_is_left_for_the_next_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network, "NEXT_ADDRESS", 3_600)
    port = free_port()
    async with listening("127.0.0.3", port):
        assert await reached(port, at("127.0.0.4", "127.0.0.5", "127.0.0.3")) == "127.0.0.3"


async def test_the_first_address_is_taken_if_it_answers() -> None:
    port = free_port()
    async with listening("127.0.0.2", port), listening("127.0.0.3", port):
        assert await reached(port, at("127.0.0.2", "127.0.0.3")) == "127.0.0.2"


async def test_an_address_where_tls_fails_is_left_for_the_next(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    port = free_port()
    async with listening("127.0.0.2", port), listening("127.0.0.1", port, certificates):
        context = ssl.create_default_context(cafile=certificates.ca)
        protocol = await dial(
            Greeted, "localhost", port, seconds=20, context=context, by=at("127.0.0.2", "127.0.0.1")
        )
        assert await protocol.said == b"127.0.0.1"
        protocol.close()


async def test_the_failure_that_says_most_is_the_one_that_is_told() -> None:
    port = free_port()
    with dropping("127.0.0.2", port), pytest.raises(ConnectionRefusedError):
        await reached(port, at("127.0.0.2", "127.0.0.3"), seconds=0.5)
    with dropping("127.0.0.2", port), pytest.raises(TimeoutError, match=r"within 0\.5 seconds"):
        await reached(port, at("127.0.0.2"), seconds=0.5)


async def test_families_take_turns() -> None:
    by = at("2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2")
    found = await addresses(HOST, 110, seconds=20, by=by)
    assert [a.where[0] for a in found] == ["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2"]


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
async def test_an_address_is_not_looked_up(host: str) -> None:
    found = await addresses(host, 110, seconds=20, by=at())
    assert [a.where for a in found] == [(host, 110)]


async def test_names_that_nobody_answers_for_hold_up_no_other() -> None:
    never = threading.Event()
    waiting = threading.Semaphore(0)

    def hang(host: str, port: int) -> Sequence[SocketAddress]:
        waiting.release()
        never.wait()
        return at("127.0.0.1")(host, port)

    lost = [asyncio.create_task(dial(Greeted, HOST, 110, seconds=600, by=hang)) for _ in range(60)]
    try:
        await asyncio.sleep(0)
        assert await addresses("live.example", 110, seconds=20, by=at("127.0.0.3"))
        for _ in lost:
            assert waiting.acquire(timeout=20)
    finally:
        for task in lost:
            task.cancel()
        never.set()
        await asyncio.gather(*lost, return_exceptions=True)


async def test_a_name_is_not_looked_up_for_ever() -> None:
    never = threading.Event()

    def hang(_: str, __: int) -> Sequence[SocketAddress]:
        never.wait()
        return []

    with pytest.raises(NameNotLookedUp):
        await dial(Greeted, HOST, 110, seconds=0.1, by=hang)
    never.set()


async def test_a_host_without_address_cannot_be_reached() -> None:
    with pytest.raises(OSError, match="has no address"):
        await dial(Greeted, HOST, 110, seconds=20, by=at())


async def test_who_is_cancelled_leaves_no_connection_behind() -> None:
    port = free_port()
    with dropping("127.0.0.2", port), dropping("127.0.0.3", port):
        dialling = asyncio.create_task(reached(port, at("127.0.0.2", "127.0.0.3")))
        await asyncio.sleep(0)
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
    assert asyncio.all_tasks() == {asyncio.current_task()}
