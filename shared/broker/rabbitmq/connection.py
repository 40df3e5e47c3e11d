"""How one connection to RabbitMQ is made with pika, and what its errors mean."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import pika
from pika.adapters.asyncio_connection import AsyncioConnection

from shared.broker.amqp_url import AmqpUrl, tls_context
from shared.broker.rabbitmq import frames
from shared.broker.refusal_words import refusal
from shared.errors import BrokerUnavailable
from shared.log import printable

HEARTBEAT: Final = 30
"""Seconds without a sign of life after which a connection counts as gone, give or take a few; less
where the broker proposes less."""

_CHUNK: Final = 65536

Receiver: TypeAlias = Callable[[frames.DeliveredFrames], None]
Confirmed: TypeAlias = Callable[[int, bool], None]
"""Takes a delivery tag, and whether all below it are meant too."""


class MailConnection(AsyncioConnection):  # type: ignore[misc]  # pika has no types
    """A connection of pika's that handles mail in bulk, and all else as pika does.

    What one turn of the event loop produced leaves in few writes: a write for each frame, each a
    packet of its own (TCP_NODELAY), is much of the cost of a message. Deliveries to a channel that
    has a receiver, and confirms to one that listens to them, are taken out of what arrives before
    pika makes objects of them (see ``frames``).
    ``_adapter_emit_data``, ``_output_marshaled_frames`` and ``_on_data_available`` are the seams.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._frames: list[bytes] = []
        self._size = 0
        self._arrived = b""
        self._receivers: dict[int, Receiver] = {}
        self._confirmed: dict[int, Confirmed] = {}
        self._loop = asyncio.get_running_loop()
        super().__init__(*args, **kwargs)

    def emit(self, message: bytes) -> None:
        """Send the frames of a message."""
        self._output_marshaled_frames([message])

    def receive(self, channel: int, receiver: Receiver | None) -> None:
        """Give deliveries to a channel to this receiver from now on; to pika if None."""
        if receiver is None:
            self._receivers.pop(channel, None)
        else:
            self._receivers[channel] = receiver

    def confirm(self, channel: int, confirmed: Confirmed | None) -> None:
        """Tell this one of confirms on a channel from now on; pika if None."""
        if confirmed is None:
            self._confirmed.pop(channel, None)
        else:
            self._confirmed[channel] = confirmed

    def _proto_connection_made(self, transport: Any) -> None:
        super()._proto_connection_made(transport)
        transport._MAX_RECV_BYTES = _CHUNK  # noqa: SLF001  (4 KiB: two reads for each message)

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

    def _on_data_available(self, data_in: bytes) -> None:
        buffer = self._arrived + data_in if self._arrived else bytes(data_in)
        self._arrived = b""
        at = 0
        while True:
            end, channel = frames.seen(buffer, at)
            if not end:
                break
            receiver = self._receivers.get(channel)
            message = None if receiver is None else frames.delivered(buffer, at, end, channel)
            if message == "partial":
                break
            if message is None or receiver is None:
                if not self._took_confirm(buffer, at, end):
                    super()._on_data_available(frames.decodable(buffer[at:end]))
                at = end
            else:
                at += message.size
                self.bytes_received += message.size  # by which pika knows that the broker lives
                receiver(message)
        self._arrived = buffer[at:]

    def _took_confirm(self, buffer: bytes, start: int, end: int) -> bool:
        acked = frames.acked(buffer, start, end) if self._confirmed else None
        if acked is None or (confirmed := self._confirmed.get(acked[0])) is None:
            return False
        self.bytes_received += end - start
        confirmed(*acked[1:])
        return True


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


def translate(error: BaseException, url: AmqpUrl) -> Exception:
    """Return our error for one of pika's from the time of connecting.

    pika only guesses from the state of the handshake ("probable"); the broker's own words decide.
    """
    return refusal(_said(error), url) or BrokerUnavailable(f"{url}: {text(error)}")
