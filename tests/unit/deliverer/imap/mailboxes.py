"""Couriers into mailboxes at an IMAP server, and mail for them."""

import contextlib
from collections.abc import AsyncIterator, Callable

from services.deliverer.courier import Courier, MailObject
from services.deliverer.destinations import courier_for
from tests.clock import ManualClock
from tests.servers.imap import ImapServer
from tests.unit.deliverer.content import ANNA, MESSAGE, SENDER, content


def id_line(id_: str) -> bytes:
    return b"X-POP3-Connector-Id: %s\r\n" % id_.encode()


def mail(
    message: bytes = MESSAGE, *recipients: str, id_: str = "3f9a", replay: bool = False
) -> MailObject:
    made = content(message, id_=id_, prefix=id_line(id_), replay=replay)
    return MailObject(made, SENDER, list(recipients or (ANNA,)))


def mails(count: int) -> list[MailObject]:
    return [mail(b"Subject: %d\r\n\r\nbody\r\n" % n, id_=f"{n:032x}") for n in range(count)]


@contextlib.asynccontextmanager
async def opened(
    server: ImapServer,
    path: str = "",
    clock: ManualClock | None = None,
    *,
    connections: int = 8,
    listen: Callable[[str], None] | None = None,
    patience: float = 1.0,
) -> AsyncIterator[Courier]:
    """Open the courier for a folder, with options of the URL if any, until the block ends."""
    tls = "&tls=none" if "?" in path else "?tls=none"
    made = courier_for(
        "away",
        server.url + path + tls,
        clock=clock or ManualClock(),
        connections=connections,
        listen=None if listen is None else lambda _: listen,
        patience=patience,
    )
    try:
        yield made
    finally:
        await made.close()
