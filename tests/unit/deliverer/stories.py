"""What the story of a delivery is told with: a message, couriers that do as told, a ledger."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.deliverer.courier import (
    ClaimLost,
    CourierResult,
    DeliveryRequest,
    MailContent,
    Result,
)
from services.deliverer.deliver import Deliveries
from shared.errors import SpoolMissing, SpoolUnavailable, StateUnavailable, Unstorable
from shared.ledger import Claim, DeliveryKey, Finished
from shared.message import Addressed, Envelope, Inline, Raw, Summary
from tests.unit.deliverer.content import ANNA, MESSAGE, PREFIX, SENDER

TAKEN = Result("delivered", "250 2.0.0 taken")
FULL = Result("temporary", "452 4.2.2 mailbox full")
UNKNOWN = Result("permanent", "550 5.1.1 no such user")


@dataclass
class Told:
    """A courier that gives each recipient the result it was told, TAKEN by default."""

    results: dict[str, Result] = field(default_factory=dict)
    error: BaseException | None = None
    forgets: str = ""
    taken: list[tuple[MailContent, bytes, list[str]]] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event | None = None

    async def deliver(self, requests: Sequence[DeliveryRequest]) -> None:
        for post, tell in requests:
            tell(await self._deliver(*post))

    async def probe(self, recipients: Sequence[str]) -> None:
        raise NotImplementedError

    async def _deliver(
        self, content: MailContent, sender: str, recipients: Sequence[str]
    ) -> CourierResult:
        assert sender == SENDER
        self.started.set()
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.error, Exception):
            return self.error
        if self.error is not None:
            raise self.error
        try:
            data = b"".join([chunk async for chunk in content.chunks()])
            content.check()
        except (ClaimLost, SpoolMissing, SpoolUnavailable) as error:
            return error
        self.taken.append((content, data, list(recipients)))
        return {r: self.results.get(r, TAKEN) for r in recipients if r != self.forgets}

    async def close(self) -> None:
        self.taken.clear()


class Away:
    """The ledger, with an outage of some of its calls on demand."""

    def __init__(self, ledger: Deliveries) -> None:
        self._ledger = ledger
        self.out: set[str] = set()

    def _check(self, call: str) -> None:
        if call in self.out:
            raise StateUnavailable("the database is locked")

    async def claim(self, deliveries: Sequence[DeliveryKey]) -> Sequence[Claim | Unstorable | None]:
        self._check("claim")
        return await self._ledger.claim(deliveries)

    async def finish(self, finished: Sequence[Finished]) -> None:
        self._check("finish")
        await self._ledger.finish(finished)

    async def unclaim(self, deliveries: Sequence[DeliveryKey]) -> None:
        self._check("unclaim")
        await self._ledger.unclaim(deliveries)

    def let_expire(self, deliveries: Sequence[DeliveryKey]) -> None:
        self._ledger.let_expire(deliveries)

    def holds(self, delivery: DeliveryKey) -> bool:
        return "holds" not in self.out and self._ledger.holds(delivery)


def envelope(*recipients: str, raw: Raw | None = None, to: str = "local") -> Envelope[Addressed]:
    raw = raw or Inline(MESSAGE)
    mail = Addressed(raw, "1", "pop:110", Summary(), SENDER, recipients or (ANNA,), to, PREFIX)
    return Envelope("3f9a", "sales", mail, 0.0)
