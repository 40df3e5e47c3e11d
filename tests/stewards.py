"""What tests have the operator's side of a broker do with messages."""

from shared.broker import Onward, Send, Stored
from shared.broker.requeue import Order, again

NOW = 1_700_000_500.0


def to(queue: str) -> Onward:
    """Move messages to a queue, as they are."""

    def onward(stored: Stored) -> Send:
        return Send(queue, stored.body, stored.message_id, stored.headers)

    return onward


def back(stored: Stored) -> Send | None:
    """Have a message tried again."""
    return again(stored, Order("requeue", NOW))


def its_id(stored: Stored) -> str:
    """Note a message by its id."""
    return stored.message_id
