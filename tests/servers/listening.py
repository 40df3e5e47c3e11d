"""Listens for a server of the tests in this process, and ends its connections with the block."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listening(
    serve: Serve, *, path: str | None = None, context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Serve each connection in a task of its own; yield the port, 0 for a local socket.

    Args:
        serve: talks over a connection, which is closed after that.
        path: of a local socket; a free port if there is none.
        context: for TLS from the first byte on.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            await serve(reader, writer)
        writer.close()
        tasks.discard(task)

    if path is not None:
        server = await asyncio.start_unix_server(take, path, limit=1 << 20)
    else:
        server = await asyncio.start_server(take, "127.0.0.1", 0, ssl=context, limit=1 << 20)
    try:
        yield 0 if path is not None else server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
