"""What ``spool.options`` may say, and what it means to the file system of a URL.

The file system itself takes any name, and complains with the first use, in words of some library
below it. So names are judged here: those of S3 by a list, since s3fs hands on what it does not
know; of others only those that are ours to set, as what else they take nobody can know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from shared.errors import ConfigError
from shared.log import printable

_RESERVED: Final = frozenset(
    ("url", "protocol", "asynchronous", "loop", "skip_instance_cache", "use_listings_cache")
)
"""What ``url_to_fs`` and we ourselves say; the file system would get it twice, or not work."""


def of_folder(options: Mapping[str, str]) -> None:
    """Make sure that nothing is said of a folder.

    Raises:
        ConfigError: something is, and would have no effect.
    """
    if options:
        raise _wrong(next(iter(options)), "a spool in a folder has no options")


def meant(scheme: str, url: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Return the options of a file system, as it takes them.

    Args:
        scheme: of its URL.
        url: where the blobs lie.
        options: as texts.

    Raises:
        ConfigError: one is not known, or does not mean what it has to mean.
    """
    for name in options:
        if name in _RESERVED:
            raise _wrong(name, "this cannot be set")
    return _of_s3(url, options) if scheme in ("s3", "s3a") else dict(options)


def _of_s3(url: str, options: Mapping[str, str]) -> dict[str, Any]:
    if not urlsplit(url).netloc:
        raise ConfigError("spool.url", "expected s3://bucket/path")
    if unknown := next((name for name in options if name not in _S3), None):
        raise _wrong(unknown, f"unknown option; expected one of {', '.join(_S3)}")
    for one, other in (("key", "secret"), ("secret", "key")):
        if one in options and other not in options:
            raise _wrong(one, f"there is no {other} beside it")
    return {name: _S3[name](name, text) for name, text in options.items()}


def _text(name: str, text: str) -> str:
    if not text:
        raise _wrong(name, "it is empty")
    return text


def _endpoint(name: str, text: str) -> str:
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise _wrong(name, "expected https://host or http://host:port")
    return text


def _flag(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise _wrong(name, 'expected "true" or "false"')
    return text == "true"


def _wrong(name: str, what: str) -> ConfigError:
    return ConfigError(f"spool.options.{printable(name)}", what)


_S3: Final[Mapping[str, Callable[[str, str], Any]]] = {
    "endpoint_url": _endpoint,
    "key": _text,
    "secret": _text,
    "token": _text,
    "profile": _text,
    "anon": _flag,
    "use_ssl": _flag,
    "requester_pays": _flag,
}
"""What s3fs takes of what can be said in a text, and what of it makes sense for a spool."""
