"""Connects through a SOCKS or HTTP proxy, by python-socks.

The proxy looks the name of the server up: that may be known there alone. It is trusted with what
goes over the connection no more than any router is. What goes wrong with it is a ProxyFailed, which
names it, less its password.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final
from urllib.parse import unquote, urlsplit

from shared.log import printable

_KINDS: Final = {"socks5": "SOCKS5", "socks5h": "SOCKS5", "socks4": "SOCKS4", "http": "HTTP"}


class ProxyFailed(OSError):
    """The proxy cannot be reached, or does not connect us; its text is safe to show."""


async def connect_by(
    proxy: str, host: str, port: int, *, seconds: float, bind: str | None = None
) -> socket.socket:
    """Return a socket that is connected to a server through a proxy.

    Args:
        proxy: its URL, with user name and password where it wants them.
        host: of the server.
        port: of the server.
        seconds: for all of it.
        bind: the address of this machine to connect from.

    Raises:
        ProxyFailed: it does not connect us.
    """
    # Imported where it is used: hardly anybody has a proxy, and everybody has a start.
    from python_socks import ProxyError, ProxyType
    from python_socks.async_.asyncio import Proxy

    parts = urlsplit(proxy)
    through = Proxy(
        ProxyType[_KINDS[parts.scheme]],
        parts.hostname or "",
        parts.port or 0,
        None if parts.username is None else unquote(parts.username),
        None if parts.password is None else unquote(parts.password),
        rdns=True,
    )
    name = f"the proxy {parts.hostname}:{parts.port}"
    local = {} if bind is None else {"local_addr": (bind, 0)}
    try:
        async with asyncio.timeout(seconds):
            return await through.connect(dest_host=host, dest_port=port, timeout=seconds, **local)
    except TimeoutError as error:
        raise ProxyFailed(f"{name} has not connected us within {seconds:g} seconds") from error
    except ProxyError as error:
        raise ProxyFailed(f"{name} does not connect us: {printable(str(error))}") from error
    except OSError as error:
        why = printable(error.strerror or str(error))
        raise ProxyFailed(f"{name} cannot be reached: {why}") from error
