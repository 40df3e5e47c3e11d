"""What the headers of a message in a failed queue or in quarantine say of where it came from.

Our own stages write ``inbox``, ``stage`` and ``reason``. A message that the broker itself has put
into quarantine, because it was handed out too often, has only the broker's ``x-death``: the events
of its past, the latest first, each with queue and reason (https://www.rabbitmq.com/docs/dlx).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from shared.broker import Header
from shared.broker.requeue import described
from shared.queues import DELIVERY_LIMIT, INCOMING, PARSED, PICKUP, POLL, QueueSpec

_STAGES: Final = {POLL: "fetcher", INCOMING: "parser", PARSED: "rewriter", PICKUP: "deliverer"}
_PLAIN: Final = (str, int, float, Decimal)
_REASON: Final = (
    f"handed out more than {DELIVERY_LIMIT} times without being settled: "
    "it may crash the process that takes it"
)


def own(headers: Mapping[str, Any]) -> dict[str, Header]:
    """Return the headers that a sender has set, without the broker's own (``x-death`` and such).

    Whoever sends the message on would send those too, and RabbitMQ 4 would believe them.
    """
    return {
        name: value if isinstance(value, str) else _number(value)
        for name, value in headers.items()
        if isinstance(value, _PLAIN) and type(value) is not bool and not name.startswith("x-")
    }


def _number(value: float | Decimal) -> int | float:
    """Return a plain number: what has 64 bits, pika reads as an int of a class of its own."""
    return int(value) if isinstance(value, int) else float(value)


def inbox(headers: Mapping[str, Any], queues: Sequence[QueueSpec]) -> str | None:
    """Return the queue from which a message was given up, None if its headers do not tell.

    Args:
        headers: all of its headers.
        queues: the topology; only a work queue of it is an answer.
    """
    work = {spec.name for spec in queues if spec.kind == "work"}
    named = headers.get("inbox")
    if isinstance(named, str) and named in work:
        return named
    death = _death(headers)
    origin = None if death is None else death.get("queue")
    return origin if isinstance(origin, str) and origin in work else None


def readable(
    headers: Mapping[str, Any], body: bytes, queues: Sequence[QueueSpec]
) -> dict[str, Header]:
    """Return the headers for the operator; those of a native dead letter are filled in."""
    death = _death(headers)
    if "reason" in headers or death is None:
        return own(headers)
    origin = inbox(headers, queues)
    found: dict[str, Header] = {"reason": _REASON, "size": len(body)}
    if origin is not None:
        found |= {"inbox": origin, "stage": _STAGES[origin]} | described(body, origin)
    if isinstance(at := death.get("time"), datetime):
        found["failed-at"] = at.isoformat(timespec="seconds") + "Z"
    return found | own(headers)


def _death(headers: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the broker's account of how it gave the message up; what came before is history."""
    deaths = headers.get("x-death")
    if not isinstance(deaths, list):
        return None
    given_up = (
        death
        for death in deaths
        if isinstance(death, dict) and death.get("reason") == "delivery_limit"
    )
    return next(given_up, None)
