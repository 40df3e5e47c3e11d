"""The fields of an account that say how its server is reached, and by what it is known.

A fingerprint is a hash of the certificate as OpenSSL prints it. Pure text in, values out, as in
``shared.settings.fields``.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Final, TypeAlias
from urllib.parse import unquote, urlsplit

from shared.settings.fields import ParsedField
from shared.settings.values import Url

_FINGERPRINT: Final = re.compile(r"sha256:((?:[0-9a-f]{2}:?){32})", re.IGNORECASE)
_EXPECTED: Final = (
    'expected "sha256:" and 64 hexadecimal digits, with or without colons, as'
    " `openssl x509 -fingerprint -sha256` prints them; or a list of such"
)
_PROXIES: Final = ("socks5", "socks5h", "socks4", "http")
_SOCKS_MOST: Final = 255
"""Bytes of a user name or password (RFC 1929 section 2)."""


def _fingerprints(value: object) -> frozenset[str]:
    """Return the fingerprints, 64 small hexadecimal digits each."""
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list):
        raise ValueError(_EXPECTED)  # noqa: TRY004  (a field's validator raises no other)
    found = [
        _FINGERPRINT.fullmatch(one.strip()) if isinstance(one, str) else None for one in listed
    ]
    digits = [match[1].replace(":", "").lower() for match in found if match is not None]
    if not listed or len(digits) < len(listed):
        raise ValueError(_EXPECTED)
    return frozenset(digits)


def _proxy(value: object) -> Url:
    url = Url.parse(value)
    rest = url.reveal().partition(":")[2]
    try:
        parts = urlsplit(url.reveal())
        whole = bool(parts.hostname and parts.port)
    except ValueError:  # no port, or no address in brackets
        whole = False
    if url.scheme not in _PROXIES or not whole or not re.fullmatch(r"//[^/?#]+:\d{1,5}/?", rest):
        raise ValueError('expected a proxy with its port, such as "socks5://127.0.0.1:1080"')
    login = [unquote(part or "") for part in (parts.username, parts.password)]
    if url.scheme != "http" and any(
        len(part) > _SOCKS_MOST or not part.isascii() for part in login
    ):
        raise ValueError(
            f"expected a user name and password of up to {_SOCKS_MOST} letters of ASCII, which is"
            " what SOCKS takes"
        )
    return url


def _address(value: object) -> str:
    try:
        return str(ipaddress.ip_address(value if isinstance(value, str) else ""))
    except ValueError:
        raise ValueError('expected an IP address of this machine, such as "192.0.2.7"') from None


Fingerprints: TypeAlias = Annotated[frozenset[str], ParsedField(_fingerprints)]
ProxyUrl: TypeAlias = Annotated[Url, ParsedField(_proxy)]
BindAddress: TypeAlias = Annotated[str, ParsedField(_address)]
