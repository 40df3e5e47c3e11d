"""Many messages for one server, and time that passes by itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from services.deliverer.courier import CourierResult, MailObject
from services.deliverer.destinations import courier_for
from services.deliverer.servers.courier import ServerCourier
from services.deliverer.smtp.session import SmtpSession
from tests.clock import ManualClock
from tests.servers.smtp import SmtpServer
from tests.unit.deliverer.content import ANNA, SENDER, content


def posts(count: int, recipient: str = ANNA) -> list[MailObject]:
    return [
        MailObject(content(b"Subject: %d\r\n\r\nbody\r\n" % n, id_=f"{n}"), SENDER, [recipient])
        for n in range(count)
    ]


@contextlib.asynccontextmanager
async def opened(
    server: SmtpServer, clock: ManualClock, connections: int = 8
) -> AsyncIterator[ServerCourier[SmtpSession]]:
    made = courier_for(
        "local", server.url + "?pipelining=full", clock=clock, connections=connections
    )
    assert isinstance(made, ServerCourier)
    try:
        async with asyncio.timeout(60):
            yield made
    finally:
        await made.close()


@contextlib.asynccontextmanager
async def passing(clock: ManualClock) -> AsyncIterator[None]:
    """Let time pass, a tenth of a second after the other."""

    async def on() -> None:
        while True:
            await asyncio.sleep(0.002)
            await clock.advance(0.1)

    task = asyncio.create_task(on())
    try:
        yield
    finally:
        task.cancel()


def fates(delivered: list[CourierResult]) -> set[str]:
    return {
        type(d).__name__ if isinstance(d, Exception) else "/".join(r.verdict for r in d.values())
        for d in delivered
    }


def subjects(server: SmtpServer) -> list[int]:
    return sorted(
        int(m.data.split(b"Subject: ")[1].split(b"\r\n")[0]) for m in server.received if m.accepted
    )
