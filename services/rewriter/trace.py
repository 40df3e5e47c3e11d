"""Writes the header lines that go before a raw message: where it came from, and to whom it goes.

They are only ever put in front. The same envelope always gets the same bytes, so that a message
delivered twice is the same file twice: the date is when it was fetched, which is when this system
received it. Text from a server is escaped; no line is longer than 998 bytes (RFC 5322 2.1.1).
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Final

from shared.log import printable
from shared.message import Envelope, Parsed

VALUE_LIMIT: Final = 300
"""Characters of a value that are written."""

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)
_END_OF_TIME: Final = 253_402_300_799.0
"""The last second with a year of four digits."""

_VISIBLE: Final = re.compile(rf"[!-~]{{1,{VALUE_LIMIT}}}")
_SERVER: Final = re.compile(r"([A-Za-z0-9._-]{1,255}?)(?::[0-9]+)?")
_IPV4: Final = re.compile(rb"[0-9.]+")


class Trace:
    """The lines for the messages of one account.

    Args:
        account: its name.
        recipients: the envelope recipients of its messages.
        hostname: of this machine, for the Received line.
        version: of this program.
    """

    def __init__(
        self, account: str, recipients: Sequence[str], hostname: str, version: str
    ) -> None:
        to = [_address(recipient) for recipient in recipients]
        self._by = b" by %s with POP3\r\n\t(pop3-connector %s) id " % (
            _visible(hostname),
            _visible(version),
        )
        # RFC 5321 section 7.2: naming one recipient of several would tell on blind copies.
        self._for = b"\r\n\tfor <%s>; " % to[0] if len(to) == 1 else b";\r\n\t"
        # Not Delivered-To: many a mail server takes it for its own, and the message for a loop.
        delivered = b"".join(b"X-POP3-Connector-For: %s\r\n" % recipient for recipient in to)
        self._fixed = b"\r\n%sX-POP3-Connector-Account: %s\r\nX-POP3-Connector-Id: " % (
            delivered,
            _visible(account),
        )

    def lines(self, envelope: Envelope[Parsed]) -> bytes:
        """Return the lines for an envelope, each ended by CRLF."""
        parsed = envelope.payload
        id_ = _visible(envelope.id)
        uidl = _visible(parsed.uidl)
        return b"".join(
            (
                b"Received: from ",
                _domain(parsed.server),
                self._by,
                id_,
                self._for,
                date(envelope.first_seen),
                self._fixed,
                id_,
                b"\r\nX-POP3-Connector-UIDL: %s\r\n" % uidl if uidl else b"\r\n",
            )
        )


def date(at: float) -> bytes:
    """Return a moment as RFC 5322 section 3.3 writes it, in UTC.

    Args:
        at: seconds since 1970 (UTC); what is out of range becomes the nearest that is not.
    """
    t = time.gmtime(min(max(0.0, at), _END_OF_TIME))
    return b"%s, %02d %s %04d %02d:%02d:%02d +0000" % (
        _DAYS[t.tm_wday].encode(),
        t.tm_mday,
        _MONTHS[t.tm_mon - 1].encode(),
        t.tm_year,
        t.tm_hour,
        t.tm_min,
        t.tm_sec,
    )


def _domain(server: str) -> bytes:
    """Return the host in ``host:port`` as the domain of a Received line (RFC 5321 4.1.3)."""
    match = _SERVER.fullmatch(server)
    if match is None:
        return _visible(server) or b"unknown"
    host = match[1].encode()
    return b"[%s]" % host if _IPV4.fullmatch(host) else host


def _visible(text: str) -> bytes:
    """Return text in visible ASCII, everything else in it escaped, cut to ``VALUE_LIMIT``."""
    if _VISIBLE.fullmatch(text):
        return text.encode()
    cut = printable(text, VALUE_LIMIT).encode("ascii", "backslashreplace")
    return cut.replace(b" ", b"\\x20")[:VALUE_LIMIT]


def _address(recipient: str) -> bytes:
    # UTF-8 as it is: an address that needs it only goes where header lines may have it (RFC 6532).
    return printable(recipient, VALUE_LIMIT).encode()
