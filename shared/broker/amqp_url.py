"""The broker's URL, taken apart once for both AMQP libraries, so that they never differ on it.

The password is in no repr and in no error text. (The URI scheme is that of
https://www.rabbitmq.com/docs/uri-spec, except that an empty path means the virtual host ``/``.)
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from shared.errors import ConfigError
from shared.network.tls import verifying

WHERE: Final = "broker.url"
_OPTIONS: Final = (
    "heartbeat",
    "connection_timeout",
    "channel_max",
    "frame_max",
    "auth_mechanism",
    "cacertfile",
    "certfile",
    "keyfile",
    "verify",
    "server_name_indication",
)
"""Those of https://www.rabbitmq.com/docs/uri-query-parameters, none of which is ours."""

_PORTS: Final = {"amqp": 5672, "amqps": 5671}


@dataclass(frozen=True, slots=True)
class AmqpUrl:
    """Where a RabbitMQ is, and who we are to it.

    Attributes:
        tls: whether to speak TLS from the first byte (``amqps``).
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    vhost: str
    tls: bool

    def __str__(self) -> str:
        """Return the URL without its password."""
        scheme = "amqps" if self.tls else "amqp"
        return f"{scheme}://{self.user}@{self.host}:{self.port}/{self.vhost.removeprefix('/')}"


def parsed(urls: str | Sequence[str]) -> tuple[AmqpUrl, ...]:
    """Return the parts of a URL, or of those of the nodes of one cluster.

    Raises:
        ConfigError: one is not such a URL, or they are not of one virtual host.
    """
    found = tuple(parse(url) for url in ([urls] if isinstance(urls, str) else urls))
    if len({url.vhost for url in found}) > 1:
        raise ConfigError("broker.urls", "they are nodes of one cluster: expected one virtual host")
    return found


def parse(url: str) -> AmqpUrl:
    """Return the parts of an ``amqp://`` or ``amqps://`` URL.

    Raises:
        ConfigError: it is not such a URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # The library's own words may quote the password.
        raise ConfigError(WHERE, "not a URL: the host or the port is malformed") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ConfigError(WHERE, "expected amqp://user:password@host:port/vhost, or amqps://")
    if parts.query or parts.fragment:
        # Only names that are no secret: after a ? may stand the rest of a password.
        options = [name for name in _OPTIONS if re.search(rf"(?:^|&){name}=", parts.query)]
        named = f" ({', '.join(options)})" if options else ""
        raise ConfigError(
            WHERE,
            f"there are no options in this URL{named}, only a virtual host may follow the host;"
            " write ? in it as %3F, # as %23",
        )
    return AmqpUrl(
        parts.hostname,
        port or _PORTS[parts.scheme],
        unquote(parts.username or "guest"),
        unquote(parts.password or "guest"),
        unquote(parts.path[1:]) or "/",
        parts.scheme == "amqps",
    )


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Return a context that verifies the broker's certificate and host name.

    Args:
        ca_file: the authority to trust, as a PEM file; the system's own store if None.

    Raises:
        ConfigError: the file cannot be read or holds no certificate.
    """
    try:
        return verifying(ca_file)
    except OSError as error:
        raise ConfigError("broker.ca_file", f"{ca_file}: {error.strerror or error}") from error
