"""How one connection to RabbitMQ is made with pika, and what its errors mean."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final

import pika
from pika.adapters.asyncio_connection import AsyncioConnection

from shared.broker.amqp_url import WHERE, AmqpUrl, tls_context
from shared.errors import BrokerUnavailable, ConfigError
from shared.log import printable

HEARTBEAT: Final = 30
"""Seconds without a sign of life after which a connection counts as gone, give or take a few; less
where the broker proposes less."""

_CHUNK: Final = 65536


class CoalescingConnection(AsyncioConnection):  # type: ignore[misc]  # pika has no types
    """Sends what one turn of the event loop produced in few writes, instead of one per frame.

    A publish is three frames, and each write a packet of its own (TCP_NODELAY): sent one by one,
    they are half of the cost of a message. ``_adapter_emit_data`` is pika's seam for adapters.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._frames: list[bytes] = []
        self._size = 0
        self._loop = asyncio.get_running_loop()
        super().__init__(*args, **kwargs)

    def _adapter_emit_data(self, data: bytes) -> None:
        if not self._frames:
            self._loop.call_soon(self._flush)
        self._frames.append(data)
        self._size += len(data)
        if self._size >= _CHUNK:
            self._flush()

    def _flush(self) -> None:
        frames, self._frames, self._size = self._frames, [], 0
        if frames and self._transport is not None:
            super()._adapter_emit_data(b"".join(frames))


def parameters(
    url: AmqpUrl, ca_file: str | None, title: str, version: str
) -> pika.ConnectionParameters:
    """Return what a connection is made with.

    Args:
        url: where to, and as whom.
        ca_file: the authority that TLS trusts, None for the system's store.
        title: the connection's name in the management UI.
        version: the version of this program.

    Raises:
        ConfigError: the file cannot be read.
    """
    tls = pika.SSLOptions(tls_context(ca_file), url.host) if url.tls else None
    return pika.ConnectionParameters(
        host=url.host,
        port=url.port,
        virtual_host=url.vhost,
        credentials=pika.PlainCredentials(url.user, url.password),
        heartbeat=_heartbeat,
        blocked_connection_timeout=None,
        ssl_options=tls,
        client_properties={
            "connection_name": title,
            "product": "pop3-connector",
            "version": version,
        },
    )


def _heartbeat(_: object, proposed: int) -> int:
    # The lower of both, as the protocol has it; a number would overrule the broker.
    return min(HEARTBEAT, proposed or HEARTBEAT)


def text(error: BaseException) -> str:
    """Return why a connection failed or ended, as text that is safe to show."""
    return printable("; ".join(_said(error)))


def _said(error: BaseException) -> list[str]:
    """Return what the errors inside say, each once: a host may have several addresses."""
    return list(dict.fromkeys(str(e) or type(e).__name__ for e in _causes(error)))


def _causes(error: Any) -> Iterator[BaseException]:
    """Yield what is inside pika's wrappers: the workflow's, the phase's, the connection's."""
    if nested := getattr(error, "exceptions", None):
        for each in nested:
            yield from _causes(each)
    elif isinstance(inner := getattr(error, "exception", None), BaseException) or (
        error.args and isinstance(inner := error.args[0], BaseException)
    ):
        yield from _causes(inner)
    else:
        yield error


def translated(error: BaseException, url: AmqpUrl) -> Exception:
    """Return our error for one of pika's from the time of connecting.

    pika only guesses from the state of the handshake ("probable"); the broker's own words decide.
    """
    for said in _said(error):
        for words, what in _REFUSALS:
            if all(word in said for word in words):
                return ConfigError(WHERE, f"{what} ({url})")
    return BrokerUnavailable(f"{url}: {text(error)}")


_REFUSALS: Final = (
    (("ACCESS_REFUSED",), "the broker does not accept this user name and password"),
    (("NOT_ALLOWED", "not found"), "the broker has no such virtual host"),
    (("NOT_ALLOWED", "refused for user"), "the broker keeps this user out of this virtual host"),
)
