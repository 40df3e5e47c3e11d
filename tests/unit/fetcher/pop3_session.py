"""What the tests of POP3 sessions share: some mail, a login, and ways to wait without sleeping."""

import asyncio
import ssl
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import replace

from services.fetcher.pop3.listing import UidlListing
from services.fetcher.pop3.login import Login
from services.fetcher.pop3.session import Pop3Session
from tests.servers.certificates import Certificates
from tests.servers.pop3 import Pop3Server

MAIL = [b"Subject: %d\r\n\r\nbody %d\r\n" % (n, n) for n in range(1, 201)]


def login(server: Pop3Server, **changes: object) -> Login:
    plain = Login("127.0.0.1", server.port, "none", "sales", lambda: "top secret")
    return replace(plain, **changes)  # type: ignore[arg-type]


def server_context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.cert, certificates.key)
    return context


async def retrieved(session: Pop3Session, numbers: list[int]) -> list[bytes | str]:
    """Return each message, or the text of its refusal."""
    found: list[bytes | str] = []
    async with aclosing(session.retrieve(numbers)) as messages:
        async for message in messages:
            whole = b"".join([chunk async for chunk in message.chunks()])
            found.append(whole if message.refused is None else message.refused)
    return found


def uidls_of(pairs: Iterable[tuple[int, str]]) -> UidlListing:
    """Return what is made of a listing of these message numbers and UIDLs."""
    listing = UidlListing()
    for number, uidl in pairs:
        listing.feed(f"{number} {uidl}\r\n".encode("latin-1"))
    return listing.end()


async def everything_runs() -> None:
    """Let everything run that can run without anything new."""
    for _ in range(20):
        await asyncio.sleep(0)


async def nobody_connected(server: Pop3Server) -> None:
    async with asyncio.timeout(20):
        while server.open:
            await asyncio.sleep(0)
