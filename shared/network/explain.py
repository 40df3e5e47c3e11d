"""Says what an error of the network means, and which setting is likely wrong.

The system says "[Errno 111]" and OpenSSL "WRONG_VERSION_NUMBER"; who set up the account wants to
know whether it is the port, the name, or how TLS begins. Texts are one table; what is in none of it
is told as the system says it, escaped.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Mapping
from typing import Final, NamedTuple

from shared.log import printable
from shared.network.dial import NameNotLookedUp, NotFromHere
from shared.network.proxy import ProxyFailed


class SettingNames(NamedTuple):
    """What the settings are called that decide how a connection begins.

    Attributes:
        clear_first: for a server that begins in clear, with TLS later.
        tls_first: for one that begins with TLS.
        ca_file: names whom to trust.
    """

    clear_first: str
    tls_first: str
    ca_file: str


def explain(error: OSError, port: int | str, settings: SettingNames, *, at_once: bool) -> str:
    """Return what went wrong in connecting, in words that are safe to show.

    Args:
        error: as it was raised; by ``shared.network.dial.dial``, for instance.
        port: where it was tried.
        settings: what the settings are called.
        at_once: whether TLS was to begin with the first byte.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {_certificate(error, settings)}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {_handshake(error, settings, at_once=at_once)}"
    if isinstance(error, (NotFromHere, ProxyFailed)):
        return str(error)
    text = _plain(error)
    if text is None:
        return printable(error.strerror or str(error)) or "it did not answer in time"
    return text.format(port=port)


def silent(seconds: float, port: int | str, settings: SettingNames, *, at_once: bool) -> str:
    """Return what it means that a server took the connection and did not greet in time."""
    said = f"it took the connection and said nothing for {seconds:g} seconds"
    if at_once:
        return said
    why = "a port that expects TLS from the first byte on keeps silent"
    return f"{said}: {why}; is {settings.tls_first} meant at port {port}?"


def closed(how: str, port: int | str, settings: SettingNames, *, at_once: bool) -> str:
    """Return what it means that a server took the connection and ended it without a greeting.

    Args:
        how: what is known of the end.
        port: where it was.
        settings: what the settings are called.
        at_once: whether TLS began with the first byte.
    """
    said = f"it ended the connection before it said anything ({how}): it may have too many of them"
    if at_once:
        return said
    why = f"port {port} expects TLS from the first byte on"
    return f"{said}, or {why} and {settings.tls_first} is meant"


def ended(error: OSError) -> bool:
    """Return whether an error is that the other side ended the connection in place of an answer."""
    if isinstance(error, ssl.SSLError):
        return isinstance(error, ssl.SSLEOFError) or error.reason == _EOF
    return isinstance(error, (ConnectionResetError, BrokenPipeError))


def _certificate(error: ssl.SSLCertVerificationError, settings: SettingNames) -> str:
    said = printable(error.verify_message)
    advice = _CERTIFICATE.get(error.verify_code, "")
    return f"{said}{advice.format(ca_file=settings.ca_file)}"


def _handshake(error: ssl.SSLError, settings: SettingNames, *, at_once: bool) -> str:
    reason = error.reason or ""
    if reason in _NO_TLS:
        if not at_once:
            return "what it answers is no TLS"
        return f"it does not begin with TLS: is the port right, or is {settings.clear_first} meant?"
    return _HANDSHAKE.get(reason) or printable(reason or str(error))


def _plain(error: OSError) -> str | None:
    if isinstance(error, socket.gaierror):
        why = printable(error.strerror or str(error))
        return _NAMES.get(error.errno or 0) or f"its name cannot be looked up: {why}"
    if isinstance(error, (ConnectionAbortedError, ConnectionResetError)) and not error.errno:
        return _BROKEN_OFF[type(error)]  # made by asyncio, not by the system
    by_type = (text for kind, text in _KINDS.items() if isinstance(error, kind))
    return next(by_type, None) or _NUMBERS.get(error.errno or 0)


_NO_TLS: Final = frozenset(
    {
        "WRONG_VERSION_NUMBER",
        "UNKNOWN_PROTOCOL",
        "HTTP_REQUEST",
        "PACKET_LENGTH_TOO_LONG",
        "RECORD_LAYER_FAILURE",
        "BAD_RECORD_TYPE",
        "UNEXPECTED_MESSAGE",
    }
)
"""What OpenSSL makes of an answer in clear."""

_EOF: Final = "UNEXPECTED_EOF_WHILE_READING"
_OLD: Final = "it speaks no TLS of version 1.2 or newer"
_HANDSHAKE: Final[Mapping[str, str]] = {
    "UNSUPPORTED_PROTOCOL": _OLD,
    "NO_PROTOCOLS_AVAILABLE": _OLD,
    "TLSV1_ALERT_PROTOCOL_VERSION": _OLD,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it and we have no way of encryption in common",
    "DH_KEY_TOO_SMALL": "its Diffie-Hellman key is too short to be safe",
    "TLSV1_UNRECOGNIZED_NAME": "it does not know itself by this name: is the host right?",
    _EOF: "it closed the connection when TLS began",
}

_ISSUER: Final = ", or {ca_file} has to name the authority that signed it"
_CERTIFICATE: Final[Mapping[int, str]] = {
    9: ": is this machine's clock right?",  # X509_V_ERR_CERT_NOT_YET_VALID
    10: ": whoever runs the server has to renew it, if this machine's clock is right",
    18: ": nobody vouches for it; {ca_file} has to name it, if it is theirs",
    19: ": the authority that signed it is not known here; {ca_file} has to name it",
    20: ": the authority that signed it is not known here; {ca_file} has to name it",
    21: ": the server sends no intermediate certificate" + _ISSUER,
    62: ": is the host the name that the provider tells to use?",
    64: ": it is not made out to an address; is there a name to use as host?",
}
"""By the codes of OpenSSL's x509_vfy.h."""

_NO_ADDRESS: Final[int] = getattr(socket, "EAI_NODATA", socket.EAI_NONAME)  # not on every system
_NAMES: Final[Mapping[int, str]] = {
    _NO_ADDRESS: "its name has no address (DNS): is it the name of a mail server?",
    socket.EAI_NONAME: "its name is not known (DNS): is the host spelled right?",
    socket.EAI_AGAIN: "its name could not be looked up just now: DNS does not answer",
    socket.EAI_FAIL: "its name could not be looked up: DNS fails",
}

_BROKEN_OFF: Final[Mapping[type[OSError], str]] = {
    ConnectionAbortedError: "it took the connection and did not begin TLS in time",
    ConnectionResetError: "it closed the connection when TLS began",
}

_NO_ANSWER: Final = "no answer at port {port}: is the port right, and does a firewall let it pass?"
_KINDS: Final[Mapping[type[OSError], str]] = {
    NameNotLookedUp: "its name could not be looked up in time: DNS does not answer",
    ConnectionRefusedError: "nothing listens at port {port} (connection refused): is it right?",
    ConnectionResetError: "it broke off the connection as soon as it was made",
    ConnectionAbortedError: "it broke off the connection as soon as it was made",
    TimeoutError: _NO_ANSWER,
}
_NUMBERS: Final[Mapping[int, str]] = {
    errno.EHOSTUNREACH: "there is no way to it: the host, or a router, says it is out of reach",
    errno.ENETUNREACH: "there is no way to its network: is this machine online?",
    errno.EACCES: "this machine does not let us connect to port {port}",
    errno.EPERM: "this machine's firewall does not let us connect to port {port}",
    errno.EMFILE: "this process has too many files open (ulimit -n)",
    errno.ENFILE: "this machine has too many files open",
    errno.EADDRNOTAVAIL: "no local port is free for it, or its address is none to connect to",
}
