"""Claims on one message at a time, for tests that tell a story of one."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from shared.errors import Unstorable
from shared.ledger import Claim, DeliveryKey, Finished


class Deliveries(Protocol):
    """The ledger of deliveries, as far as it is asked here."""

    async def claim(
        self, deliveries: Sequence[DeliveryKey]
    ) -> Sequence[Claim | Unstorable | None]: ...

    async def finish(self, finished: Sequence[Finished]) -> None: ...

    async def unclaim(self, deliveries: Sequence[DeliveryKey]) -> None: ...


async def claim_one(ledger: Deliveries, id_: str, destination: str) -> Claim | None:
    """Claim one message."""
    (claim,) = await ledger.claim([DeliveryKey(id_, destination)])
    if isinstance(claim, Unstorable):
        raise claim
    return claim


async def finish_one(
    ledger: Deliveries, id_: str, destination: str, receipts: Mapping[str, str]
) -> None:
    """Record one message as delivered."""
    await ledger.finish([Finished(DeliveryKey(id_, destination), receipts)])


async def unclaim_one(ledger: Deliveries, id_: str, destination: str) -> None:
    """Give one claim back."""
    await ledger.unclaim([DeliveryKey(id_, destination)])
