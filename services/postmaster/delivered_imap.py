"""What was delivered before, as our own header lines in a mailbox at an IMAP server tell.

All folders that can be opened are looked through, read-only and with BODY.PEEK, so nothing is
marked as read (RFC 3501). Of each message two header fields are asked for, no body. Trusts the
server to tell the truth, as it is the one that has the mail.
"""

from __future__ import annotations

import imaplib
import re
import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from services.postmaster.delivered import Delivered, delivered
from shared.network.same_host import is_here

WITHIN: Final = 60.0
"""Seconds without an answer after which the server counts as gone."""

AT_ONCE: Final = 500
"""Messages that one command asks about."""

_FIELDS: Final = "(BODY.PEEK[HEADER.FIELDS (X-POP3-CONNECTOR-ID X-POP3-CONNECTOR-ACCOUNT)])"
_FOLDER: Final = re.compile(rb'\(([^)]*)\) +(?:"(?:\\.|[^"\\])*"|NIL) +(.*)', re.DOTALL)
_PORTS: Final = {"imap": 143, "imaps": 993}


class Mailbox(NamedTuple):
    """A mailbox at an IMAP server.

    Attributes:
        secured: TLS from the first byte; else STARTTLS, but for this machine itself.
        ca_file: the authorities to trust, in place of the system's.
    """

    host: str
    port: int
    secured: bool
    username: str
    password: str | None
    ca_file: str | None


def mailbox_at(url: str) -> Mailbox:
    """Return the mailbox that ``imaps://user@host:port?ca_file=/path`` means.

    Raises:
        ValueError: it is no such URL; the text never repeats it.
    """
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    if parts.scheme not in _PORTS or not parts.hostname or not parts.username:
        raise ValueError("expected imaps://user@host, or imap://user@host with STARTTLS")
    if options.keys() - {"ca_file"}:
        raise ValueError("the only option of this URL is ca_file")
    return Mailbox(
        parts.hostname,
        parts.port or _PORTS[parts.scheme],
        parts.scheme == "imaps",
        unquote(parts.username),
        None if parts.password is None else unquote(parts.password),
        options.get("ca_file", [None])[0],
    )


def delivered_at(mailbox: Mailbox, password: str) -> Iterator[Delivered]:
    """Yield the messages of ours in all folders of a mailbox.

    Raises:
        OSError: the server cannot be reached, or not trusted.
        imaplib.IMAP4.error: it refuses the login, or breaks the protocol.
    """
    client = _connect(mailbox)
    try:
        client.login(mailbox.username, password)
        for folder in _folders(client):
            yield from _delivered_in(client, folder)
    finally:
        with suppress(OSError, imaplib.IMAP4.error):
            client.logout()


def _connect(mailbox: Mailbox) -> imaplib.IMAP4:
    context = ssl.create_default_context(cafile=mailbox.ca_file)
    if mailbox.secured:
        return imaplib.IMAP4_SSL(mailbox.host, mailbox.port, ssl_context=context, timeout=WITHIN)
    client = imaplib.IMAP4(mailbox.host, mailbox.port, timeout=WITHIN)
    if mailbox.ca_file is not None or not is_here(mailbox.host):
        client.starttls(context)
    return client


def _folders(client: imaplib.IMAP4) -> Iterator[str]:
    """Yield the names of the folders that can be opened, as they stand in a command."""
    _, lines = client.list()
    for line in lines:
        # A name that cannot be quoted comes as a literal, behind its length.
        text, literal = line if isinstance(line, tuple) else (line, None)
        found = _FOLDER.fullmatch(text or b"")
        if found is None or b"\\noselect" in found[1].lower():
            continue
        name = found[2] if literal is None else b'"%s"' % re.sub(rb'(["\\])', rb"\\\1", literal)
        yield name.decode("ascii", "surrogateescape")


def _delivered_in(client: imaplib.IMAP4, folder: str) -> Iterator[Delivered]:
    said, answer = client.select(folder, readonly=True)
    if said != "OK":  # of others, or gone by now
        return
    count = int(answer[0] or 0)
    for start in range(1, count + 1, AT_ONCE):
        said, parts = client.fetch(f"{start}:{min(start + AT_ONCE - 1, count)}", _FIELDS)
        if said != "OK":
            raise client.error(f"FETCH is refused: {said}")
        for part in parts:
            if isinstance(part, tuple) and (found := delivered(part[1])) is not None:
                yield found
