"""Connects through a SOCKS or HTTP proxy; SOCKS by python-socks.

The proxy looks the name of the server up: that may be known there alone. It is trusted with what
goes over the connection no more than any router is. What goes wrong with it is a ProxyFailed, which
names it, less its password. CONNECT (RFC 9110 section 9.3.6) is our own: what comes right after its
answer is the greeting of a mail server, which speaks first, and python-socks would throw it away.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit

from shared.log import printable
from shared.redaction.redaction import Redaction

_SOCKS: Final = {"socks5": "SOCKS5", "socks5h": "SOCKS5", "socks4": "SOCKS4"}
_LONGEST_ANSWER: Final = 16 * 1024
_STATUS: Final = re.compile(rb"HTTP/\d\.\d (\d{3})(?: ([^\r\n]*))?\r?\n")

Find: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host. Raises OSError or UnicodeError."""

Reach: TypeAlias = Callable[[str, int], Awaitable[socket.socket]]
"""Connects to a host and port, without a proxy. Raises OSError or UnicodeError."""


class ProxyFailed(OSError):
    """The proxy cannot be reached, or does not connect us; its text is safe to show."""


async def connect_by(
    proxy: str,
    host: str,
    port: int,
    *,
    seconds: float,
    find: Find,
    reach: Reach,
    bind: str | None = None,
) -> socket.socket:
    """Return a socket that is connected to a server through a proxy.

    Args:
        proxy: its URL, with user name and password where it wants them.
        host: of the server.
        port: of the server.
        seconds: for all of it.
        find: looks the proxy up; python-socks would, in one of the few threads that all share.
        reach: connects to the proxy, where it is an HTTP proxy.
        bind: the address of this machine to connect from.

    Raises:
        ProxyFailed: it does not connect us.
        UnicodeError: the name of the server cannot be one.
    """
    # Imported where it is used: hardly anybody has a proxy, and everybody has a start.
    from python_socks import ProxyError

    host.encode("idna")
    parts = urlsplit(proxy)
    name = f"the proxy {parts.netloc.rpartition('@')[2]}"
    redaction = Redaction(unquote(parts.password or ""))
    try:
        async with asyncio.timeout(seconds):
            if parts.scheme == "http":
                return await _by_http(parts, host, port, reach)
            return await _by_socks(parts, host, port, seconds, find, bind)
    except TimeoutError as error:
        raise ProxyFailed(f"{name} has not connected us within {seconds:g} seconds") from error
    except ProxyError as error:
        said = printable(redaction.hidden(str(error)))
        raise ProxyFailed(f"{name} does not connect us: {said}") from error
    except _Refused as error:
        said = printable(redaction.hidden(str(error)))
        raise ProxyFailed(f"{name} does not connect us: {said}") from error
    except OSError as error:
        raise ProxyFailed(f"{name} cannot be reached: {_why(error)}") from error
    except ValueError as error:  # python-socks has no words of its own for these
        what = "its host name, user name or password cannot be sent"
        raise ProxyFailed(f"{name} cannot be used: {what}") from error


class _Refused(Exception):
    """An HTTP proxy does not connect us."""


def _why(error: OSError) -> str:
    """Return what the system says: python-socks, and asyncio, say the address once more."""
    number = error.errno or 0
    return os.strerror(number) if number > 0 else printable(error.strerror or str(error))


async def _by_socks(
    parts: SplitResult, host: str, port: int, seconds: float, find: Find, bind: str | None
) -> socket.socket:
    from python_socks import ProxyConnectionError, ProxyType
    from python_socks.async_.asyncio import Proxy

    user, password = (None if p is None else unquote(p) for p in (parts.username, parts.password))
    kind, at = ProxyType[_SOCKS[parts.scheme]], parts.port or 0
    local: dict[str, Any] = {} if bind is None else {"local_addr": (bind, 0)}
    failed: OSError | None = None
    for address in await find(parts.hostname or "", at):
        through = Proxy(kind, address, at, user, password, rdns=True)
        try:
            return await through.connect(dest_host=host, dest_port=port, timeout=seconds, **local)
        except ProxyConnectionError as error:  # there may be another address to turn to
            failed = error
    raise failed or OSError("it has no address")


async def _by_http(parts: SplitResult, host: str, port: int, reach: Reach) -> socket.socket:
    where = f"[{host}]:{port}" if ":" in host else f"{host.encode('idna').decode()}:{port}"
    lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(login).decode()}")
    sock = await reach(parts.hostname or "", parts.port or 0)
    try:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, "\r\n".join([*lines, "", ""]).encode())
        _require_connected(await _http_answer(sock))
    except BaseException:
        sock.close()
        raise
    return sock


async def _http_answer(sock: socket.socket) -> bytes:
    """Return an answer of HTTP, or what there is in its place."""
    answer = b""
    while not answer.endswith((b"\r\n\r\n", b"\n\n")) and len(answer) < _LONGEST_ANSWER:
        # Byte by byte: what follows is the server's.
        said = await asyncio.get_running_loop().sock_recv(sock, 1)
        if not said:
            return b""
        answer += said
    return answer


def _require_connected(answer: bytes) -> None:
    status = _STATUS.match(answer)
    if status is None:
        raise _Refused("it gives no answer of HTTP")
    if not status[1].startswith(b"2"):
        raise _Refused(b" ".join(filter(None, status.groups())).decode("utf-8", "replace"))
