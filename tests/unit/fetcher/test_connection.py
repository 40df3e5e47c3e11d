"""A connection that is read on demand, over a real socket."""

import asyncio
import socket

import pytest

from services.fetcher.pop3.connection import connect
from services.fetcher.pop3.deadlines import WaitMeter


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="this system has no TCP_QUICKACK")
async def test_what_the_server_says_is_acknowledged_at_once() -> None:
    """Or a server with Nagle's algorithm holds back its second answer to two pipelined commands."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"+OK ready\r\n")
        while await reader.readline():
            writer.write(b"+OK\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connection = await connect(
        "127.0.0.1", port, context=None, timeout=20, slowest=1, pace=WaitMeter()
    )
    wire = connection._wire.get_extra_info("socket")
    for _ in range(3):
        assert (await connection.read()).startswith(b"+OK")
        connection.write(b"NOOP\r\n")
        assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 1
    connection.close()
    server.close()
    await server.wait_closed()
