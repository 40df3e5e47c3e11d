"""What a stage may say of an envelope. The runner does the rest: settle, retry, dead-letter.

The stage that saw a failure decides between temporary (Retry) and permanent (DeadLetter); what it
does not know is temporary. Corrupt mail goes to quarantine with its raw bytes. Nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from shared.message import Payload


@dataclass(frozen=True, slots=True)
class Forward:
    """Goes on to the outbox, as one envelope for each payload."""

    payloads: tuple[Payload, ...]

    @staticmethod
    def to(*payloads: Payload) -> Forward:
        """Return a Forward of these payloads."""
        return Forward(payloads)


@dataclass(frozen=True, slots=True)
class Done:
    """Has arrived (or was here before, and is suppressed).

    Attributes:
        receipt: what the far end said, for the log.
        event: ``delivered``; ``suppressed`` for a message that had been delivered before; or
            ``polled`` for a poll job.
    """

    receipt: str
    event: Literal["delivered", "suppressed", "polled"] = "delivered"


@dataclass(frozen=True, slots=True)
class Retry:
    """Cannot go on now, and may later.

    Attributes:
        reason: a sentence for the log and for the operator.
        after: seconds before which another try is pointless; None leaves it to the tiers.
        payload: what is still to do, where part of it is done; None for all of it.
    """

    reason: str
    after: float | None = None
    payload: Payload | None = None


@dataclass(frozen=True, slots=True)
class Busy:
    """There is no room for it just now on our side of a destination: it waits, as it is.

    Nothing was tried, so no try is counted: it moves up no tier, and does not come closer to being
    given up.

    Attributes:
        reason: a sentence for whoever looks at what waits.
        after: seconds of work that are before it. It is back by then, or after the shortest tier.
        payload: what is still to do, where part of it is done; None for all of it.
    """

    reason: str
    after: float = 0.0
    payload: Payload | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Can never go on as it is: to Failed Mail, for the operator to mend and requeue."""

    reason: str
    payload: Payload | None = None


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Is corrupt: to the quarantine, raw bytes and all."""

    reason: str
    payload: Payload | None = None


Verdict: TypeAlias = Forward | Done | Retry | Busy | DeadLetter | Quarantine


@dataclass(frozen=True, slots=True)
class Split:
    """Different verdicts for different recipients, settled together in one step."""

    verdicts: tuple[Verdict, ...]


Outcome: TypeAlias = Verdict | Split

Answer: TypeAlias = Callable[[int, Outcome | Exception], None]
"""Takes the outcome of a message, or what went wrong, with its place among those of its lane."""
