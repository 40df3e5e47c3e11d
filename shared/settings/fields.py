"""The types of the configuration's fields: each checks its text and says what it expects.

Built on pydantic's validators, so that ``shared.settings.model`` reads as a list of what can be
set.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import GetCoreSchemaHandler
from pydantic.functional_validators import BeforeValidator
from pydantic_core import core_schema
from pydantic_core.core_schema import CoreSchema, ValidationInfo

from shared.disk.space import Floor
from shared.queues import Tier
from shared.settings.secret import Secret
from shared.settings.values import (
    Keep,
    Url,
    duration,
    floor,
    names_several,
    path,
    size,
    tiers,
)

_BROKERS: Final = 20
_HOSTED: Final = ("smtp", "smtps", "lmtp", "imap", "imaps")
_FOLDERS: Final = ("lmtp+unix", "maildir", "pickup", "replay")


def _secret(value: object, info: ValidationInfo) -> Secret:
    """Return the secret that the key of this field names."""
    if not isinstance(value, str) or not value:
        raise ValueError("expected a text that is not empty")
    source = info.field_name or ""
    if source.endswith("_command"):
        try:
            shlex.split(value)
        except ValueError:
            raise ValueError("expected a command line; a quotation mark is not closed") from None
    return Secret.make(source, value, (info.context or {}).get("environ", {}))


def _delivery_url(value: object) -> Url:
    """Return the URL of a destination, its scheme and the shape that belongs to it checked."""
    url = Url.parse(value)
    rest = url.reveal().partition(":")[2]
    if url.scheme in _FOLDERS and not re.match(r"///[^/]", rest):
        raise ValueError(f"expected an absolute path after three slashes: {url.scheme}:///path")
    if url.scheme in _HOSTED and not re.match(r"//[^/?#]", rest):
        raise ValueError(f"expected a host: {url.scheme}://host:port")
    if url.scheme not in _HOSTED + _FOLDERS:
        known = ", ".join(f"{scheme}:" for scheme in _HOSTED + _FOLDERS)
        raise ValueError(
            f"expected a URL that begins with {known.replace(', replay', ' or replay')}"
        )
    return url


def _broker_url(value: object) -> Url:
    if isinstance(value, str) and names_several(value):
        raise ValueError(
            'several brokers are a list: urls = ["amqp://...", "amqp://..."];'
            " in a password ; is written as %3B and , as %2C"
        )
    url = Url.parse(value)
    if url.scheme not in ("amqp", "amqps"):
        raise ValueError(
            "expected amqp://user:password@host:5672/vhost or amqps://...;"
            " leave the key out for the embedded broker"
        )
    return url


def _management_url(value: object) -> Url:
    """Return the URL of RabbitMQ's management API."""
    url = Url.parse(value)
    if not re.match(r"https?://[^/?#]+/?[^?#]*$", url.reveal()):
        raise ValueError("expected http://user:password@host:15672 or https://...")
    return url


def _broker_urls(value: object) -> tuple[Url, ...]:
    """Return the URLs in a list, or in a text with commas between them."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, Sequence) or not 1 <= len(items) <= _BROKERS:
        raise ValueError(f"expected a list of 1 to {_BROKERS} URLs, each of them amqp://...")
    return tuple(_broker_url(item.strip() if isinstance(item, str) else item) for item in items)


def _state_url(value: object) -> Url:
    """Return the URL of a database; psycopg (version 3) is the one driver for PostgreSQL."""
    if isinstance(value, str):
        value = re.sub(r"^postgres(ql)?:", "postgresql+psycopg:", value)
    url = Url.parse(value)
    if url.scheme not in ("postgresql+psycopg", "sqlite"):
        raise ValueError("expected postgresql+psycopg://user@host/database or sqlite:////path")
    return url


def _spool_url(value: object) -> Url:
    """Return the URL of a spool; a plain path is one too."""
    if isinstance(value, str) and value.startswith(("/", "./", "~/")):
        return Url(f"file://{path(value).absolute()}")
    return Url.parse(value)


class ParsedField:
    """A field that is whatever a function makes of its text.

    As pydantic's PlainValidator, but that one describes the type of what is made as well, for uses
    that we have none of, at every start.

    Args:
        make: raises ValueError, with what it expects.
    """

    def __init__(self, make: Callable[[object], object]) -> None:
        self._make = make

    def __get_pydantic_core_schema__(self, _: object, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._make)


class _ParsedSecret:
    """A secret, of which it matters which key it stands under."""

    def __get_pydantic_core_schema__(self, _: object, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(_secret)


def matching(pattern: str, expected: str) -> BeforeValidator:
    """Return a validator for text that matches a pattern as a whole, and is described so."""
    compiled = re.compile(pattern, re.ASCII)

    def check(value: object) -> object:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise ValueError(f"expected {expected}")
        return value

    return BeforeValidator(check)


Seconds: TypeAlias = Annotated[float, ParsedField(duration)]
Bytes: TypeAlias = Annotated[int, ParsedField(size)]
Free: TypeAlias = Annotated[Floor, ParsedField(floor)]
Location: TypeAlias = Annotated[Path, ParsedField(path)]
Password: TypeAlias = Annotated[Secret, _ParsedSecret()]
Retention: TypeAlias = Annotated[Keep, ParsedField(Keep.parse)]
Tiers: TypeAlias = Annotated[tuple[Tier, ...], ParsedField(tiers)]
BrokerUrl: TypeAlias = Annotated[Url, ParsedField(_broker_url)]
BrokerUrls: TypeAlias = Annotated[tuple[Url, ...], ParsedField(_broker_urls)]
ManagementUrl: TypeAlias = Annotated[Url, ParsedField(_management_url)]
StateUrl: TypeAlias = Annotated[Url, ParsedField(_state_url)]
SpoolUrl: TypeAlias = Annotated[Url, ParsedField(_spool_url)]
DeliveryUrl: TypeAlias = Annotated[Url, ParsedField(_delivery_url)]

Name: TypeAlias = Annotated[
    str, matching(r"[A-Za-z0-9._@+-]{1,100}", "1 to 100 letters, digits and . _ @ + - as a name")
]
Host: TypeAlias = Annotated[
    str,
    matching(
        r"[^\s/@:\[\]]{1,255}|(?:[0-9A-Fa-f]{0,4}:){2,8}[0-9A-Fa-f.]*",
        'a host name or address, such as "pop.example.net", without pop3:// or :port',
    ),
]
Username: TypeAlias = Annotated[str, matching(r"[^\r\n\0]{1,500}", "a user name on one line")]
Auth: TypeAlias = Literal[
    "auto",
    "user",
    "apop",
    "plain",
    "login",
    "cram-md5",
    "scram-sha-1",
    "scram-sha-256",
    "ntlm",
    "xoauth2",
    "oauthbearer",
]
POLL_EVERY: Final = 300.0
"""Seconds from one poll of an account to the next, where nothing is said."""

MAILBOX: Final = r"[^\s<>\x00-\x20\x7f]{1,254}"
Mailbox: TypeAlias = Annotated[str, matching(MAILBOX, 'a mailbox, such as "sales@corp.example"')]
ListenAddress: TypeAlias = Annotated[
    str,
    matching(
        r"(?:[^\s/@:\[\]]{1,255}|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}",
        'an address and a port, such as "127.0.0.1:9108"',
    ),
]
