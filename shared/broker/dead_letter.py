"""What the headers of a message in a failed queue or in quarantine say of where it came from.

Our own stages write ``inbox``, ``stage`` and ``reason``. Whatever else puts messages there writes
less: the broker itself (one that was handed out too often, or that a policy lets expire or makes
room of) has ``x-death``: the events of its past, the latest first, each with queue and reason
(https://www.rabbitmq.com/docs/dlx); who moves them by hand or with a shovel may lose all headers.
What is missing is then read from the envelope. Nothing in the headers is trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from shared.broker import Header
from shared.broker.requeue import described
from shared.log import printable
from shared.queues import STAGES, QueueSpec

_STAGE_OF: Final = {inbox: stage for stage, inbox in STAGES.items()}
_KEPT: Final = ("failed", "quarantine")
_PLAIN: Final = (str, int, float, Decimal)
_REASONS: Final = {
    "delivery_limit": "handed out of {} more often than RabbitMQ allows without being settled"
    " (delivery-limit)",
    "expired": "it lay in {} for longer than a policy of RabbitMQ allows (message-ttl)",
    "maxlen": "{} was fuller than a policy of RabbitMQ allows (max-length)",
    "rejected": "somebody else took it out of {}, and rejected it",
}
_OTHERWISE: Final = "RabbitMQ moved it here from {}"
_UNKNOWN: Final = "nothing tells why: moved here by hand, or by another program"

ROUTING: Final = ("CC", "BCC")
"""Headers by which RabbitMQ routes a message once more, wherever it is published; anything but a
list in one closes the channel. https://www.rabbitmq.com/docs/sender-selected"""


def own(headers: Mapping[str, Any] | None) -> dict[str, Header]:
    """Return the headers that a sender has set, without the broker's own (``x-death`` and such),
    and those by which it would route the message to other queues besides.

    Whoever sends the message on would send those too, and RabbitMQ 4 would believe them.
    """
    return {
        name: value if isinstance(value, str) else _number(value)
        for name, value in (headers or {}).items()
        if isinstance(value, _PLAIN) and type(value) is not bool and not _brokers(name)
    }


def _brokers(name: str) -> bool:
    return name.startswith("x-") or name in ROUTING


def _number(value: float | Decimal) -> int | float:
    """Return a plain number: what has 64 bits, pika reads as an int of a class of its own."""
    return int(value) if isinstance(value, int) else float(value)


def readable(
    headers: Mapping[str, Any] | None, body: bytes, queue: str, queues: Sequence[QueueSpec]
) -> dict[str, Header]:
    """Return the headers for the operator, with what is missing in them.

    Args:
        headers: all that it has, the broker's too.
        body: an encoded envelope, or bytes that are none.
        queue: where it is. Where that is not for the operator, only the sender's are returned.
        queues: the topology.
    """
    kept = own(headers)
    if all(spec.name != queue or spec.kind not in _KEPT for spec in queues):
        return kept
    death = _death(headers or {})
    origin = None if death is None else death.get("queue")
    work = isinstance(origin, str) and any(
        spec.name == origin and spec.kind == "work" for spec in queues
    )
    if "reason" in kept and not work:  # a stage gave it up, or somebody has been asked before
        return kept
    found: dict[str, Header] = {"size": len(body), **described(body), **kept}
    found["reason"] = _reason(death) + (
        f"; before that: {kept['reason']}" if "reason" in kept else ""
    )
    if work:
        found |= {"inbox": str(origin), "stage": _STAGE_OF.get(str(origin), "")}
    if death is not None and isinstance(at := death.get("time"), datetime):
        found["failed-at"] = at.replace(tzinfo=UTC).isoformat(timespec="seconds")
    return found


def _reason(death: Mapping[str, Any] | None) -> str:
    if death is None:
        return _UNKNOWN
    text = _REASONS.get(str(death.get("reason")), _OTHERWISE)
    return text.format(printable(str(death.get("queue", "?")), 80))


def _death(headers: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the broker's account of how it came to move the message the last time."""
    deaths = headers.get("x-death")
    if not isinstance(deaths, list) or not deaths or not isinstance(deaths[0], dict):
        return None
    return deaths[0]
