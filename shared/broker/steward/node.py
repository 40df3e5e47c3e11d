"""The connection of the operator's side to one node of RabbitMQ, and what its errors mean.

It connects when it is first needed, to the first node that lets us in, and anew after a loss. It
trusts no node to be there: each is tried, in random order. Nor does it trust what others write into
message properties: a date of the year 10000 or a table of an unknown type, in the headers of one
message, would end the connection with an error, and so each look into its queue. Such a message is
shown without any properties.
"""

# kombu has few annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import random
import ssl
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from amqp.exceptions import (
    AccessRefused,
    AMQPError,
    FrameSyntaxError,
    NotAllowed,
    NotFound,
    PreconditionFailed,
)
from kombu.connection import Connection
from kombu.exceptions import KombuError

from shared.broker.amqp_url import WHERE, AmqpUrl, parsed, tls_context
from shared.broker.refusal_words import refusal
from shared.broker.steward.outgoing import ANSWERING, text
from shared.errors import BrokerRefuses, BrokerUnavailable, ConfigError

_CONNECTING: Final = 10
_HEADER: Final = 2
_CONTENT: Final = struct.Struct(">HHQ")
_NO_FLAGS: Final = b"\0\0"
_UNREADABLE: Final = (ArithmeticError, ValueError, TypeError, LookupError, struct.error, OSError)


class Node:
    """The node of RabbitMQ that we are connected to.

    Args:
        urls: ``amqp://user:password@host:port/vhost``, or ``amqps://``; or one for each node.
        ca_file: the authority that TLS trusts; the system's store if None.
        name: how we are called in the management UI.

    Raises:
        ConfigError: the URL or the file is wrong.
    """

    def __init__(self, urls: str | Sequence[str], ca_file: str | None, name: str) -> None:
        self._urls = parsed(urls)
        self._url = self._urls[0]  # or the one we are connected to
        self._tls = [_tls(url, ca_file) for url in self._urls]
        self._name = name
        self._connection: Connection | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    def connection(self) -> Connection:
        """Return the connection, made anew where there is none.

        Raises:
            BrokerUnavailable: no node answers.
            ConfigError: one refuses us.
        """
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def close(self) -> None:
        """Disconnect."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(AMQPError, KombuError, OSError):
                connection.release()

    @contextmanager
    def translate_errors(self, what: str) -> Iterator[None]:
        """Say what went wrong in our own words, and forget a connection that is no more.

        Args:
            what: the block is about.
        """
        try:
            yield
        except (AccessRefused, NotAllowed) as error:
            said = f"access refused by {self._url}: {text(error)}"
            known = refusal([text(error)], self._url)
            raise known or BrokerRefuses(what, said, login=False) from error
        except NotFound as error:
            advice = "it does not exist; declare the topology"
            raise ConfigError(what, f"{advice} ({text(error)})") from error
        except (AMQPError, KombuError, OSError) as error:
            self.close()
            if isinstance(error, PreconditionFailed):
                known = refusal([text(error)], self._url)
                raise known or BrokerUnavailable(f"{self._url}: {text(error)}") from error
            raise BrokerUnavailable(f"{self._url}: {text(error)}") from error

    def _connect(self) -> Connection:
        """Return a connection to the first node that lets us in, tried in random order."""
        nodes = list(zip(self._urls, self._tls, strict=True))
        errors: list[BrokerUnavailable | BrokerRefuses] = []
        for self._url, tls in random.sample(nodes, len(nodes)):
            connection = _connection(self._url, tls, self._name)
            try:
                with self.translate_errors(WHERE):
                    connection.connect()
                    _take_unreadable_headers(connection)
            except (BrokerUnavailable, BrokerRefuses) as error:
                errors.append(error)
            else:
                return connection
        away = [error for error in errors if isinstance(error, BrokerUnavailable)]
        if len(away) > 1:
            raise BrokerUnavailable("; ".join(map(str, away)))
        raise (away or errors)[0]


def _take_unreadable_headers(connection: Connection) -> None:
    """Have a connection that is open take messages with properties that cannot be read."""
    amqp: Any = connection.connection
    strict = amqp.on_inbound_frame

    def handle(frame: tuple[int, int, bytes]) -> object:
        kind, channel, payload = frame
        try:
            return strict(frame)
        except (*_UNREADABLE, FrameSyntaxError):
            if kind != _HEADER:
                raise
            bare = bytes(payload[: _CONTENT.size]) + _NO_FLAGS
            return strict((kind, channel, bare))

    amqp.on_inbound_frame = handle


def _tls(url: AmqpUrl, ca_file: str | None) -> dict[str, Any] | bool:
    if not url.tls:
        return False
    tls_context(ca_file)
    return {"server_hostname": url.host, "cert_reqs": ssl.CERT_REQUIRED, "ca_certs": ca_file}


def _connection(url: AmqpUrl, tls: dict[str, Any] | bool, name: str) -> Connection:
    return Connection(
        hostname=url.host,
        port=url.port,
        userid=url.user,
        password=url.password,
        virtual_host=url.vhost,
        transport="pyamqp",
        ssl=tls,
        connect_timeout=_CONNECTING,
        transport_options={
            "confirm_publish": True,
            "read_timeout": ANSWERING,
            "write_timeout": ANSWERING,
            "client_properties": {"connection_name": f"pop3-connector {name}"},
        },
    )
