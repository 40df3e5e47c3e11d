"""TLS contexts: one that verifies whom it speaks to, and one that does not.

It trusts the operator's choice of authorities. An authority's file that cannot be used is an
OSError (``ssl.SSLError`` is one); who asked says which setting it came from.
"""

from __future__ import annotations

import functools
import ssl
from pathlib import Path

from shared.authentication.mechanism import Binding


def verifying(ca_file: str | None, minimum: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Return a context that verifies the certificate and the host name.

    Contexts are kept until the file changes: reading the system's authorities is slow.

    Args:
        ca_file: PEM certificates of authorities to trust, None for those of the system.
        minimum: the oldest version of TLS to speak; None leaves it to OpenSSL.

    Raises:
        OSError: the file cannot be read, or holds no certificate.
    """
    store = ca_file or default_authorities()
    modified = 0 if store is None else Path(store).stat().st_mtime_ns
    return _verifying(ca_file, minimum, modified)


def default_authorities() -> str | None:
    """Return the file of the system's authorities; None where they are a folder, or nowhere."""
    return ssl.get_default_verify_paths().cafile


def unverified() -> ssl.SSLContext:
    """Return a context that encrypts, whoever is at the other end."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def channel_binding(connection: ssl.SSLObject | ssl.SSLSocket | None) -> Binding | None:
    """Return what is of one TLS connection and no other (RFC 5929 section 3).

    None without TLS, and for TLS 1.3, where RFC 9266 wants what Python's ssl does not give.
    """
    if connection is None or connection.version() == "TLSv1.3":
        return None
    data = connection.get_channel_binding("tls-unique")
    return None if not data else Binding("tls-unique", data)


@functools.lru_cache(maxsize=16)
def _verifying(
    ca_file: str | None, minimum: ssl.TLSVersion | None, modified: int
) -> ssl.SSLContext:
    del modified  # a part of the key alone
    context = ssl.create_default_context(cafile=ca_file)
    if minimum is not None:
        context.minimum_version = minimum
    return context
