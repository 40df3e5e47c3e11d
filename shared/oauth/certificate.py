"""A certificate in place of a client secret: what signs the assertion, and names itself in it.

RFC 7523 (``private_key_jwt``). Entra finds the certificate by its thumbprint: ``x5t`` (RFC 7515
section 4.1.7) and ``x5t#S256``. Known limit: a private key that is encrypted is not taken.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from shared.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What an assertion is signed with.

    Attributes:
        pem: the private key.
        algorithm: ``RS256`` or ``ES256``.
        thumbprint: of the certificate, by SHA-1, in base64url.
        thumbprint_sha256: the same by SHA-256.
    """

    pem: bytes = field(repr=False)
    algorithm: str
    thumbprint: str
    thumbprint_sha256: str


def signing_key(pem: bytes, where: str) -> SigningKey:
    """Return the key in a PEM text that holds a certificate and its private key.

    Args:
        pem: the text.
        where: whose it is, for the error.

    Raises:
        ConfigError: there is none that can be used.
    """
    try:
        certificate = x509.load_pem_x509_certificates(pem)[0]
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        # Without the cause, which may quote the file.
        expected = "a certificate and its private key, not encrypted"
        raise ConfigError(where, f"certificate_file: expected PEM with {expected}") from None
    if _public(key.public_key()) != _public(certificate.public_key()):
        what = "the private key is not the one of the certificate"
        raise ConfigError(where, f"certificate_file: {what}")
    own = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return SigningKey(
        own,
        _algorithm(key, where),
        _base64url(certificate.fingerprint(hashes.SHA1())),  # noqa: S303  (a name, no proof)
        _base64url(certificate.fingerprint(hashes.SHA256())),
    )


def _algorithm(key: object, where: str) -> str:
    if isinstance(key, rsa.RSAPrivateKey):
        return "RS256"
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return "ES256"
    raise ConfigError(where, "certificate_file: expected an RSA key, or one on the curve P-256")


def _public(key: object) -> bytes:
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    public: bytes = key.public_bytes(encoding, form)  # type: ignore[attr-defined]
    return public


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
