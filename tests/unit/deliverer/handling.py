"""Messages handed to a deliverer, and what it answers for each."""

from collections.abc import Sequence

from services.deliverer.deliver import Deliverer, Deliveries
from shared.ledger import Claim
from shared.message import Addressed, Envelope
from shared.outcome import Outcome
from tests.ledger import claim_one


async def answers(
    deliverer: Deliverer, mails: Sequence[Envelope[Addressed]]
) -> list[Outcome | Exception]:
    """Have messages delivered in one call; return the answer for each."""
    found: dict[int, Outcome | Exception] = {}

    def answer(place: int, answered: Outcome | Exception) -> None:
        assert place not in found
        found[place] = answered

    await deliverer.handle(mails, answer)
    return [found.pop(place) for place in range(len(mails))]


async def handled(deliverer: Deliverer, mail: Envelope[Addressed]) -> Outcome:
    """Have one message delivered; raise what kept it from an outcome."""
    (outcome,) = await answers(deliverer, [mail])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


async def claimed(ledger: Deliveries) -> Claim:
    claim = await claim_one(ledger, "3f9a", "local")
    assert claim is not None
    return claim
