"""Policies at RabbitMQ: those that keep mail from harm, and what others would do to it.

One policy counts for a queue, that of the highest priority; so a policy of our own displaces one
that somebody has set on everything. An operator policy counts beside it, and cannot be displaced:
it can only be told of. Where a number stands in a policy and in a queue's arguments, the lower one
counts; ``overflow`` is taken from the policy; the ``dead-letter`` keys from the arguments
(``rabbit_quorum_queue``, 3.10 and 4.0; https://www.rabbitmq.com/docs/policies). What is judged here
is what RabbitMQ says is in effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from shared.queues import DELIVERY_LIMIT, MARK, QueueSpec

PRIORITY: Final = 1_000_000
"""Above whatever somebody gives to a policy for everything."""

REJECT: Final = "reject-publish"
REPLACE: Final = "drop-head"
_MANY: Final = 1_000_000
"""A delivery limit that nobody reaches by looking."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that we want to be there.

    Attributes:
        pattern: of the names of the queues, a regular expression.
        definition: its keys; ``overflow`` says what RabbitMQ does anyway, as there has to be one.
        left: keys that the operator may have set otherwise, or besides.
    """

    name: str
    pattern: str
    definition: Mapping[str, object]
    left: tuple[str, ...] = ()


POLICIES: Final = (
    Policy(
        "backlog",
        "^(incoming|parsed|pickup)$",
        {"max-length-bytes": 2147483648, "overflow": REJECT},
        ("max-length-bytes", "max-length"),
    ),
    Policy(
        "kept",
        r"^((poll|topology|quarantine)(\..+)?|(incoming|parsed|pickup)\..+)$",
        {"overflow": REJECT},
    ),
    Policy("mark", rf"^{MARK}(\..+)?$", {"overflow": REPLACE}),
)

OURS: Final = frozenset(f"policy {policy.name}" for policy in POLICIES)
"""Our policies, by the names in ``DescribedQueue.policies``."""


@dataclass(frozen=True, slots=True)
class DescribedQueue:
    """A queue as RabbitMQ describes it.

    Attributes:
        arguments: it was declared with.
        effective: what its policies come to, by key.
        policies: the names of the policy and the operator policy that count.
        withheld: how many messages RabbitMQ holds back, as the queue that they are to go on to does
            not take them; None where it does not say. No client sees or counts these.
    """

    arguments: Mapping[str, Any]
    effective: Mapping[str, Any] = field(default_factory=dict)
    policies: tuple[str, ...] = ()
    withheld: int | None = None


def dangers(spec: QueueSpec, seen: DescribedQueue) -> list[str]:
    """Return what could happen to mail in a queue by its policies: one clause each, none if safe.

    Args:
        spec: the queue.
        seen: what RabbitMQ says of it.
    """
    if spec.kind == "memory":
        return []
    named = " and ".join(seen.policies) or "a policy"
    found = [f"{named}: {what}" for check in _CHECKS for what in check(spec, seen)]
    return [f"{what}; {remedy(seen)}" for what in found]


def withheld(spec: QueueSpec, seen: DescribedQueue) -> list[str]:
    """Return a clause on what RabbitMQ holds back in a queue, if it does.

    Retry tiers hold messages back whenever their inbox is full, and for an instant all the time.
    """
    if not seen.withheld or spec.kind == "retry":
        return []
    target = seen.arguments.get("x-dead-letter-routing-key")
    return [
        f"RabbitMQ holds {seen.withheld} of its messages back, out of sight, which go to {target};"
        " topology migrate puts them back into quarantine"
        if spec.kind == "held"
        else f"RabbitMQ holds {seen.withheld} of its messages back, out of sight, until {target}"
        " takes them"
    ]


def remedy(seen: DescribedQueue) -> str:
    """Return what an operator can do about policies that endanger mail in a queue."""
    if OURS.isdisjoint(seen.policies):
        return "remedy: topology declare --policies"
    return "ours is in effect already; whoever runs RabbitMQ can change the operator policy"


def look_limit(seen: DescribedQueue) -> int | None:
    """Return how often a message may be looked at before a policy takes it away; None for ever.

    RabbitMQ counts each return of a message, whichever way it is given back: ``basic.nack``,
    ``basic.reject``, ``basic.recover``, the end of a channel or of a connection (3.10 to 4.2;
    https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling).
    """
    limit = seen.effective.get("delivery-limit")
    return int(limit) if limit is not None and limit < _MANY else None


def _expires(_: QueueSpec, seen: DescribedQueue) -> Iterator[str]:
    if (after := seen.effective.get("expires")) is not None:
        yield f"expires {after}: deletes it, with all that is in it, when unused for so long (ms)"


def _full(spec: QueueSpec, seen: DescribedQueue) -> Iterator[str]:
    overflow = seen.effective.get("overflow", seen.arguments.get("x-overflow"))
    if spec.kind == "mark":
        if overflow != REPLACE:
            yield f"overflow {overflow}: the mark of the state database cannot be replaced"
        return
    for key in ("max-length", "max-length-bytes"):
        limit = seen.effective.get(key)
        if limit is not None and overflow != REJECT:
            yield f"{key} {limit} without overflow {REJECT}: the oldest {_fate(seen)} when full"


def _old(spec: QueueSpec, seen: DescribedQueue) -> Iterator[str]:
    after = seen.effective.get("message-ttl")
    if after is not None and spec.kind != "retry":
        yield f"message-ttl {after}: what waits for so long (ms) {_fate(seen)}"


def _handed_out(spec: QueueSpec, seen: DescribedQueue) -> Iterator[str]:
    limit = seen.effective.get("delivery-limit")
    least = DELIVERY_LIMIT if spec.kind in ("work", "retry") else _MANY
    if limit is not None and limit < least:
        yield f"delivery-limit {limit}: what was handed out, or looked at, more often {_fate(seen)}"


def _fate(seen: DescribedQueue) -> str:
    """Return what becomes of a message that a queue does not keep."""
    if "x-dead-letter-exchange" in seen.arguments:
        return f"goes to {seen.arguments.get('x-dead-letter-routing-key')}"
    if (exchange := seen.effective.get("dead-letter-exchange")) is not None:
        return f"goes to the exchange {exchange!r}, where nobody looks for it"
    return "is thrown away"


_Check = Callable[[QueueSpec, DescribedQueue], Iterator[str]]
_CHECKS: Final[tuple[_Check, ...]] = (_expires, _full, _old, _handed_out)
