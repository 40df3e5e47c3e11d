"""Messages with several recipients, as the rewriter would send them on; accounts have one each."""

import time
from collections.abc import Sequence
from typing import TypeVar

from services.parser.parse import parse
from services.rewriter.rewrite import Rewriter, Route
from shared.broker import Broker
from shared.message import Addressed, Envelope, Fetched, Inline, Parsed
from shared.outcome import Forward, Outcome
from shared.queue_publisher import QueuePublisher
from shared.queues import PICKUP
from tests.ids import identify

ACCOUNT = "two"


async def put_addressed(
    broker: Broker, destination: str, names: Sequence[str], messages: Sequence[bytes]
) -> None:
    """Put messages into the deliverer's inbox.

    Args:
        broker: open, as the rewriter.
        destination: by its name.
        names: the mailboxes of corp.example that each message is for.
        messages: raw.
    """
    route = Route(tuple(f"{name}@corp.example" for name in names), destination)
    rewriter = Rewriter({ACCOUNT: route}, "test.example", "0")
    for message in messages:
        id_, now = identify(ACCOUNT, message), time.time()
        fetched = Fetched(Inline(message), "u", "pop.example.net:995")
        parsed = _onward(parse(Envelope(id_, ACCOUNT, fetched, now)), Parsed)
        addressed = _onward(rewriter.handle(Envelope(id_, ACCOUNT, parsed, now)), Addressed)
        await QueuePublisher(broker, PICKUP).put(Envelope(id_, ACCOUNT, addressed, now))


P = TypeVar("P", Parsed, Addressed)


def _onward(outcome: Outcome, kind: type[P]) -> P:
    """Return what a stage passes on."""
    assert isinstance(outcome, Forward), outcome
    (payload,) = outcome.payloads
    assert isinstance(payload, kind)
    return payload
