"""TLS contexts, and what is known of a connection: whom to trust, and how it is told apart.

It trusts the operator's choice of authorities, or of certificates. A file that cannot be used is an
OSError (``ssl.SSLError`` is one); who asked says which setting it came from.
"""

from __future__ import annotations

import functools
import hashlib
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.authentication.mechanism import Binding


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom to trust, and who we are.

    Attributes:
        ca_file: PEM certificates of authorities, None for those of the system.
        fingerprints: SHA-256 of the certificates that the server may have, in hexadecimal digits;
            without a ``ca_file`` nobody else has to vouch for them.
        client_cert: PEM certificate by which the server knows us, None for none.
        client_key: PEM key of that, None where it stands in the same file.
    """

    ca_file: str | None = None
    fingerprints: frozenset[str] = frozenset()
    client_cert: str | None = None
    client_key: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The files that it is made of."""
        store = self.ca_file or (None if self.fingerprints else default_authorities())
        return tuple(filter(None, (store, self.client_cert, self.client_key)))


SYSTEM: Final = Trust()
"""The authorities of the system."""


def verifying(ca_file: str | None, minimum: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Return a context that verifies the certificate and the host name (see ``trusting``)."""
    return trusting(Trust(ca_file), minimum)


def trusting(trust: Trust, minimum: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Return a context that verifies by authorities, or leaves it to ``pinned``.

    Contexts are kept until a file changes: reading the system's authorities is slow.

    Args:
        trust: whom to trust, and who we are.
        minimum: the oldest version of TLS to speak; None leaves it to OpenSSL.

    Raises:
        OSError: a file cannot be read, or holds no certificate or key.
    """
    return _trusting(trust, minimum, tuple(Path(f).stat().st_mtime_ns for f in trust.files))


def fingerprint(connection: ssl.SSLObject) -> str:
    """Return the SHA-256 of a server's certificate, in hexadecimal digits."""
    return hashlib.sha256(connection.getpeercert(binary_form=True) or b"").hexdigest()


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


@functools.lru_cache(maxsize=64)
def _trusting(
    trust: Trust, minimum: ssl.TLSVersion | None, modified: tuple[int, ...]
) -> ssl.SSLContext:
    del modified  # a part of the key alone
    by_fingerprint = trust.fingerprints and trust.ca_file is None
    context = unverified() if by_fingerprint else _by_authorities(trust.ca_file)
    if minimum is not None:
        context.minimum_version = minimum
    if trust.client_cert is not None:
        _load(context, trust.client_cert, trust.client_key or trust.client_cert)
    return context


def _by_authorities(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        why = "there is no certificate in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise OSError(error.errno, why, ca_file) from error


def _load(context: ssl.SSLContext, cert: str, key: str) -> None:
    """Load the certificate and key by which a server knows us; OpenSSL's own words say little."""
    try:
        # A key that is encrypted would have OpenSSL ask at the terminal.
        context.load_cert_chain(cert, key, password=lambda: "")
    except ssl.SSLError as error:
        if "-----BEGIN CERTIFICATE" not in _text(cert):
            raise OSError(error.errno, "there is no certificate in it", cert) from error
        raise OSError(error.errno, _wrong_key(error, key), key) from error
    except OSError as error:
        at_fault = cert if not os.access(cert, os.R_OK) or Path(cert).is_dir() else key
        raise OSError(error.errno, error.strerror, at_fault) from error


def _wrong_key(error: ssl.SSLError, key: str) -> str:
    text = _text(key)
    if "ENCRYPTED" in text:
        return "the key in it is encrypted: write it without a passphrase (openssl pkey -in ...)"
    if "PRIVATE KEY-----" not in text:
        return "there is no key in it"
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key in it does not belong to the certificate"
    return error.strerror or str(error)


def _text(path: str) -> str:
    return Path(path).read_text("utf-8", "replace")
