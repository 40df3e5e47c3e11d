"""Mail for couriers, and couriers for it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from services.deliverer.courier import (
    Courier,
    CourierResult,
    DeliveryRequest,
    MailContent,
    MailObject,
    Result,
)
from services.deliverer.destinations import courier_for
from tests.clock import ManualClock

ANNA, BERT, CARL = "anna@corp.example", "bert@corp.example", "carl@corp.example"
SENDER = "sender@example.net"
PREFIX = b"X-POP3-Connector-For: anna@corp.example\r\n"
MESSAGE = b"Subject: hello\r\n\r\nDear Anna,\r\n.\r\nyours\r\n"


def stored(message: bytes) -> bytes:
    """Return a message with ``PREFIX`` as a server stores it: with LF at the end of a line."""
    return (PREFIX + message).replace(b"\r\n", b"\n")


def content(
    message: bytes = MESSAGE,
    *,
    id_: str = "3f9a",
    prefix: bytes = PREFIX,
    chunks: Iterable[bytes] | None = None,
    error: Exception | None = None,
    size: int | None = None,
    replay: bool = False,
    held: bool = True,
) -> MailContent:
    """Return content: at hand, or in chunks if they are given or an error ends them."""
    spooled = chunks is not None or error is not None
    parts = [message] if chunks is None else chunks

    async def read() -> AsyncGenerator[bytes, None]:
        for part in parts:
            yield part
        if error is not None:
            raise error

    length = len(prefix) + sum(map(len, parts)) if size is None else size
    return MailContent(
        id_, prefix, length, read, None if spooled else message, replay, lambda: held
    )


def requests(
    mail_objects: Sequence[MailObject], found: dict[int, CourierResult]
) -> list[DeliveryRequest]:
    """Return what is to be delivered; what is told of each is noted in ``found``, by its place."""

    def tell(place: int, delivered: CourierResult) -> None:
        assert place not in found
        found[place] = delivered

    return [DeliveryRequest(each, partial(tell, n)) for n, each in enumerate(mail_objects)]


async def told(courier: Courier, posts: Sequence[MailObject]) -> list[CourierResult]:
    """Have messages delivered; return what was told of each."""
    found: dict[int, CourierResult] = {}
    await courier.deliver(requests(posts, found))
    return [found.pop(place) for place in range(len(posts))]


@dataclass(frozen=True)
class One:
    """A courier that is given one message at a time."""

    courier: Courier

    async def deliver(
        self, content: MailContent, sender: str, recipients: Sequence[str]
    ) -> Mapping[str, Result]:
        """Deliver a message; raise what kept it from being delivered."""
        (delivered,) = await told(self.courier, [MailObject(content, sender, recipients)])
        if isinstance(delivered, Exception):
            raise delivered
        return delivered


@asynccontextmanager
async def courier(
    url: str, clock: ManualClock | None = None, *, connections: int = 8, patience: float = 1.0
) -> AsyncIterator[One]:
    """Open the courier for a URL until the block ends."""
    made = courier_for(
        "local", url, clock=clock or ManualClock(), connections=connections, patience=patience
    )
    try:
        yield One(made)
    finally:
        await made.close()


async def until(true: Callable[[], bool]) -> None:
    """Let the event loop run until a condition holds."""
    for _ in range(20_000):
        if true():
            return
        await asyncio.sleep(0.0005)
    raise AssertionError("it did not come true")
