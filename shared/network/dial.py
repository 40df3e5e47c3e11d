"""Connects to a server: its name is looked up, and its addresses are tried until one answers.

A name may have an address that leads nowhere, IPv6 on a machine without it being the commonest. So
addresses are tried in the order of the system (RFC 6724), families in turn, each a moment after the
one before it and all at once if need be (RFC 8305, "happy eyeballs"); the first that answers is
taken. Where TLS begins at once and fails there, what is left is tried.

Names are looked up in a thread for each: a resolver that answers to nobody holds up nobody else.
A thread cannot be stopped; one that is waited for no longer ends when the resolver gives up.

It trusts nobody, and fails with the OSError that says most about what is wrong: see
``shared.network.explain`` for how to tell it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import zip_longest
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar, cast

from shared.daemon_thread import in_daemon_thread
from shared.network.proxy import connect_by

NEXT_ADDRESS: Final = 0.25
"""Seconds after which the next address is tried beside the one before (RFC 8305 section 5)."""

HANDSHAKE_SECONDS: Final = 15.0
"""Seconds for TLS to begin where there is another address to turn to."""

GOODBYE_SECONDS: Final = 5.0
"""Seconds for the other side to end TLS."""

P = TypeVar("P", bound=asyncio.BaseProtocol)


class SocketAddress(NamedTuple):
    """Where a server listens: a family of addresses, and an address as that family has them."""

    family: socket.AddressFamily
    where: tuple[Any, ...]


class NetworkRoute(NamedTuple):
    """From where, and through whom, a server is connected to.

    Attributes:
        bind: the address of this machine to connect from; None for what the system takes.
        proxy: the URL of a proxy, with its password; None for none.
    """

    bind: str | None = None
    proxy: str | None = None


DIRECT: Final = NetworkRoute()

LookUp: TypeAlias = Callable[[str, int], Sequence[SocketAddress]]
"""Returns the addresses of a host and port; it may block. Raises OSError or UnicodeError."""


class NameNotLookedUp(OSError):
    """The resolver did not answer in time."""


class NotFromHere(OSError):
    """The server cannot be reached from the address that is to be used; the text says why."""


def look_up(host: str, port: int) -> Sequence[SocketAddress]:
    """Return the addresses of a host, as the system orders them.

    Raises:
        OSError: it has none, or nobody can be asked.
        UnicodeError: the name cannot be one.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [SocketAddress(family, where) for family, _, _, _, where in found]


async def dial(
    make: Callable[[], P],
    host: str,
    port: int,
    *,
    seconds: float,
    context: ssl.SSLContext | None = None,
    by: LookUp = look_up,
    route: NetworkRoute = DIRECT,
) -> P:
    """Return a protocol that is connected.

    Args:
        make: makes a protocol; for each address that answers, a new one.
        host: a name or an address; with TLS the name that the certificate must have.
        port: of the server.
        seconds: for the name, for each address, and for TLS.
        context: for TLS from the first byte on, None for none.
        by: looks up names that are no addresses.
        route: from where, and through whom.

    Raises:
        OSError: no address answers, or TLS does not begin at any of them; ProxyFailed where a
            proxy is the reason.
        UnicodeError: the name cannot be one.
    """
    if route.proxy is not None:
        how: dict[str, Any] = {"seconds": seconds, "by": by, "bind": route.bind}
        find, reach = partial(_find, **how), partial(_reach, **how)
        sock = await connect_by(
            route.proxy, host, port, seconds=seconds, find=find, reach=reach, bind=route.bind
        )
        return await _begin(make, sock, host, context, seconds)
    left = await addresses(host, port, seconds=seconds, by=by)
    if route.bind is not None:
        left = _reachable_from(route.bind, left)
    failed: OSError | None = None
    while left:
        try:
            sock, left = await _first(left, seconds, route.bind)
        except OSError as error:
            raise _telling([error] if failed is None else [failed, error]) from error
        patience = min(seconds, HANDSHAKE_SECONDS) if left else seconds
        try:
            return await _begin(make, sock, host, context, patience)
        except OSError as error:
            failed = error if failed is None else _telling([failed, error])
    raise failed or OSError(f"{host} has no address")


async def _find(
    host: str, port: int, *, seconds: float, by: LookUp, bind: str | None
) -> Sequence[str]:
    """Return the addresses of a proxy that can be connected to."""
    found = await addresses(host, port, seconds=seconds, by=by)
    fit = found if bind is None else _reachable_from(bind, found)
    return [str(address.where[0]) for address in fit]


async def _reach(
    host: str, port: int, *, seconds: float, by: LookUp, bind: str | None
) -> socket.socket:
    """Return a socket that is connected to a proxy."""
    found = await addresses(host, port, seconds=seconds, by=by)
    fit = found if bind is None else _reachable_from(bind, found)
    return (await _first(fit, seconds, bind))[0]


async def addresses(
    host: str, port: int, *, seconds: float, by: LookUp = look_up
) -> Sequence[SocketAddress]:
    """Return the addresses of a host in the order in which to try them.

    Raises:
        OSError: it has none, or nobody can be asked; NameNotLookedUp where that took too long.
        UnicodeError: the name cannot be one.
    """
    literal = _literal(host, port)
    if literal is not None:
        return [literal]
    try:
        async with asyncio.timeout(seconds):
            return _in_turn(await in_daemon_thread(partial(by, host, port), f"look up {host}"))
    except TimeoutError as error:
        raise NameNotLookedUp(f"{host} was not looked up within {seconds:g} seconds") from error
    except RuntimeError as error:
        raise OSError(f"no thread to look up {host} in: {error}") from error


def _literal(host: str, port: int) -> SocketAddress | None:
    """Return the address if the host is given by it: there is nothing to look up, and no wait."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            socket.inet_pton(family, host)
            return SocketAddress(family, (host, port))
    return None


def _in_turn(found: Sequence[SocketAddress]) -> list[SocketAddress]:
    """Order addresses so that families take turns, beginning with that of the first one."""
    families = dict.fromkeys(address.family for address in found)
    ranks = [[a for a in found if a.family == family] for family in families]
    return [a for rank in zip_longest(*ranks) for a in rank if a is not None]


def _reachable_from(bind: str, found: Sequence[SocketAddress]) -> Sequence[SocketAddress]:
    """Return the addresses that can be connected to from one of ours: those of its family."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    fit = [address for address in found if address.family == family]
    if not fit:
        raise NotFromHere(f"it has no address that can be reached from {bind}")
    return fit


async def _first(
    candidates: Sequence[SocketAddress], seconds: float, bind: str | None = None
) -> tuple[socket.socket, list[SocketAddress]]:
    """Return a socket connected to the first address that answers, and what was not tried in vain.

    Raises:
        OSError: none answers.
    """
    waiting, underway, failures = (
        list(candidates),
        dict[asyncio.Task[socket.socket], SocketAddress](),
        [],
    )
    try:
        while waiting or underway:
            if waiting:
                address = waiting.pop(0)
                underway[asyncio.create_task(_connect(address, seconds, bind))] = address
            done, _ = await asyncio.wait(
                underway,
                timeout=NEXT_ADDRESS if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                del underway[task]
            sockets = [task.result() for task in done if task.exception() is None]
            if sockets:
                for other in sockets[1:]:
                    other.close()
                return sockets[0], [*underway.values(), *waiting]
            failures += [cast(OSError, task.exception()) for task in done]
        raise _telling(failures)
    finally:
        await _let_go(underway)


async def _let_go(tasks: dict[asyncio.Task[socket.socket], SocketAddress]) -> None:
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, socket.socket):
            ended.close()


async def _connect(address: SocketAddress, seconds: float, bind: str | None) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if bind is not None:
            _bind(sock, bind)
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(sock, address.where)
    except TimeoutError as error:
        sock.close()
        raise TimeoutError(f"no answer within {seconds:g} seconds") from error
    except BaseException:
        sock.close()
        raise
    return sock


def _bind(sock: socket.socket, address: str) -> None:
    try:
        sock.bind((address, 0))
    except OSError as error:
        raise NotFromHere(f"{address} is no address of this machine: {error.strerror}") from error


async def _begin(
    make: Callable[[], P],
    sock: socket.socket,
    host: str,
    context: ssl.SSLContext | None,
    seconds: float,
) -> P:
    tls: dict[str, Any] = {
        "ssl": context,
        "server_hostname": host,
        "ssl_handshake_timeout": seconds,
        "ssl_shutdown_timeout": GOODBYE_SECONDS,
    }
    loop = asyncio.get_running_loop()
    try:
        _, protocol = await loop.create_connection(make, sock=sock, **(tls if context else {}))
    except BaseException:
        sock.close()
        raise
    return protocol


_TELLING: Final[tuple[type[OSError], ...]] = (ssl.SSLError, ConnectionError, TimeoutError, OSError)
"""What says most about a wrong setting comes first; that there is no route to IPv6, last."""


def _telling(failures: Sequence[OSError]) -> OSError:
    """Return the failure that says most, of those that one host has had."""
    return min(failures, key=lambda error: [isinstance(error, t) for t in _TELLING].index(True))
