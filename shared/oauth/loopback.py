"""Where a browser on this machine is led back to: a listener that takes one address and ends.

Loopback only, IPv4 and IPv6 where there are both, as ``localhost`` is the one or the other. A
request that is not the answer (a favicon, a page of some other site) gets an error and changes
nothing. It reads a request line of at most ``LINE`` bytes and no body, for a short time, and
answers with a page that quotes nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final
from urllib.parse import urlsplit

from shared.errors import ConfigError

LINE: Final = 32 * 1024
_SECONDS: Final = 10.0
_PAGE: Final = (
    "<!doctype html><meta charset=utf-8><title>pop3-connector</title>"
    "<p style='font: 1.2em sans-serif; margin: 3em'>{}</p>"
)
_DONE: Final = "Done. You can close this window, and go back to the terminal."
_REFUSED: Final = "That did not work. The terminal says why."
_NOTHING: Final = "There is nothing here."


class Loopback:
    """The listener.

    Attributes:
        redirect: the address, with its port.
    """

    def __init__(self, redirect: str, take: Callable[[str], bool | None]) -> None:
        self.redirect = redirect
        self._take = take

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        with suppress(OSError, ValueError, asyncio.IncompleteReadError, TimeoutError):
            async with asyncio.timeout(_SECONDS):
                line = (await reader.readuntil(b"\r\n")).decode("ascii", "replace").split(" ")
                while await reader.readuntil(b"\r\n") != b"\r\n":
                    pass  # so that the browser has sent all when we close
                status, text = self._respond(line)
                page = _PAGE.format(text).encode()
                head = (
                    f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\n"
                    f"Content-Length: {len(page)}\r\nCache-Control: no-store\r\n"
                    "Referrer-Policy: no-referrer\r\nConnection: close\r\n\r\n"
                )
                writer.write(head.encode() + page)
                await writer.drain()
        writer.close()

    def _respond(self, line: list[str]) -> tuple[str, str]:
        path = urlsplit(self.redirect).path or "/"
        if len(line) != 3 or line[0] != "GET" or urlsplit(line[1]).path != path:
            return "404 Not Found", _NOTHING
        if (taken := self._take(line[1])) is None:
            return "400 Bad Request", _NOTHING
        return "200 OK", _DONE if taken else _REFUSED


@asynccontextmanager
async def listening(redirect: str, take: Callable[[str], bool | None]) -> AsyncIterator[Loopback]:
    """Listen until the block ends.

    Args:
        redirect: ``http://localhost`` and the like; without a port, one that is free.
        take: is given the path and query of a request, and returns whether that brings a code;
            None where it is no answer to ours at all.

    Raises:
        ConfigError: the port is taken.
    """
    parts = urlsplit(redirect)
    host = parts.hostname or "localhost"
    sockets = _sockets(host, parts.port or 0)
    port = sockets[0].getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    loopback = Loopback(parts._replace(netloc=f"{shown}:{port}").geturl(), take)
    servers = [await asyncio.start_server(loopback.answer, sock=s, limit=LINE) for s in sockets]
    try:
        yield loopback
    finally:
        for server in servers:
            server.close()


def _sockets(host: str, port: int) -> list[socket.socket]:
    addresses = ("127.0.0.1", "::1") if host == "localhost" else (host,)
    made: list[socket.socket] = []
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
        except OSError as error:
            listener.close()
            if made:  # IPv4 alone will do
                continue
            what = f"cannot listen on port {port} of {address}: {error.strerror}"
            raise ConfigError("oauth.redirect_url", what) from error
        listener.setblocking(False)
        made.append(listener)
        port = listener.getsockname()[1]
    return made
