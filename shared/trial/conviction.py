"""What becomes of a message that has crashed its process three times by itself: to quarantine.

It goes there as it is, and is not read for that: reading it may be what crashes. What an operator
sees of it was read where it was tried, as far as it came.
"""

from __future__ import annotations

from shared.settlement import Settlement, undecodable
from shared.stage import Stage
from shared.trial import kept_headers
from shared.trial.side_by_side import Suspect


def convict(stage: Stage, suspect: Suspect, how: str, now: float) -> Settlement:
    """Return what follows from a message that crashes its process.

    Args:
        stage: that handled it.
        suspect: the message.
        how: how the last process has ended.
        now: seconds since 1970 (UTC).
    """
    delivery = suspect.delivery
    reason = f"it crashed its process {suspect.crashes} times, alone in it: {how}"
    step = undecodable(
        delivery.body,
        delivery.message_id,
        reason,
        stage=stage.name,
        inbox=stage.inbox,
        now=now,
    )
    if step.send is None:
        return Settlement((step,))
    told = {**kept_headers(delivery), **step.send.headers, **(suspect.told or {}), "reason": reason}
    return Settlement((step._replace(send=step.send._replace(headers=told)),))
