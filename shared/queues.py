"""The topology as plain data: every queue by name, kind and timing, and who may send to it.

``shared.broker.topology`` turns this into AMQP declarations, ``shared.broker.embedded.broker`` into
rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

POLL: Final = "poll"
INCOMING: Final = "incoming"
PARSED: Final = "parsed"
PICKUP: Final = "pickup"
QUARANTINE: Final = "quarantine"

STAGES: Final = {"fetcher": POLL, "parser": INCOMING, "rewriter": PARSED, "deliverer": PICKUP}
"""The inbox of each stage."""

DECLARED: Final = "topology"
"""At RabbitMQ, the queue that remembers the names of all the others; it carries no mail."""

HELD: Final = "quarantine.held"
"""At RabbitMQ, the queue that takes what a policy of somebody else's throws out of quarantine."""

HELD_BACK: Final = f"{HELD}.held"
"""At RabbitMQ, the queue that takes what a policy throws out of ``HELD``. As a rule there is none,
and RabbitMQ holds that back in ``HELD``, where nothing happens to it; ``topology migrate`` makes
one, to put it back."""

MOVING: Final = ".moving"
"""At RabbitMQ, follows the name of a queue in that of the queue which has its messages while it is
given other arguments."""

MARK: Final = "ledger"
"""At RabbitMQ, the queue that says which state database the others were filled with; no mail."""

RETRIED: Final = (INCOMING, PARSED, PICKUP)
"""The inboxes whose stages may retry and dead-letter."""

DELIVERY_LIMIT: Final = 20
"""How often RabbitMQ hands a message out unsettled before it gives it up by itself, in queues that
an earlier version declared. No stage lets it come to that (``shared.runner.RENEW``): what a message
does is found out, and not counted."""


@dataclass(frozen=True, slots=True)
class Tier:
    """A retry tier: its label in queue names (``5m``) and its wait in seconds."""

    label: str
    seconds: float


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """One queue.

    Attributes:
        kind: ``work`` queues are consumed by stages; ``retry`` queues hold each message for
            ``ttl`` seconds and then pass it back to ``back_to``; ``failed`` and ``quarantine``
            keep messages for the operator, however often somebody looks at them. ``held``,
            ``memory`` and ``mark`` are at RabbitMQ alone, one of each: ``HELD``, ``DECLARED`` and
            ``MARK``.
    """

    name: str
    kind: Literal["work", "retry", "failed", "quarantine", "held", "memory", "mark"]
    ttl: float | None = None
    back_to: str | None = None


def failed_queue(inbox: str) -> str:
    """Return the name of the dead-letter queue of an inbox."""
    return f"{inbox}.failed"


def retry_queue(inbox: str, tier: Tier) -> str:
    """Return the name of the queue in which messages of an inbox wait out a tier."""
    return f"{inbox}.retry.{tier.label}"


def plan(tiers: Sequence[Tier]) -> tuple[QueueSpec, ...]:
    """Return every queue of the topology for these retry tiers."""
    work = [QueueSpec(name, "work") for name in (POLL, *RETRIED)]
    retry = [
        QueueSpec(retry_queue(inbox, tier), "retry", tier.seconds, inbox)
        for inbox in RETRIED
        for tier in tiers
    ]
    failed = [QueueSpec(failed_queue(inbox), "failed", back_to=inbox) for inbox in RETRIED]
    return (*work, *retry, *failed, QueueSpec(QUARANTINE, "quarantine"))


SENDERS: Final = {
    "fetcher": (POLL, INCOMING),
    "parser": (INCOMING, PARSED),
    "rewriter": (PARSED, PICKUP),
    "deliverer": (PICKUP,),
    "postmaster": (POLL, INCOMING, PARSED, PICKUP),
}
"""Which queues each sender may put messages into. For the inbox of a stage, and for all that the
postmaster serves, that means its retry tiers and its failed queue too; quarantine is open to all.
The name is also that of the sender's exchange, so that a broker can refuse everything else."""


def reachable(sender: str, queues: Sequence[QueueSpec]) -> tuple[str, ...]:
    """Return the names of the queues that a sender's exchange is bound to."""
    named = SENDERS[sender]
    return tuple(
        q.name for q in queues if q.name in named or q.back_to in named or q.kind == "quarantine"
    )
