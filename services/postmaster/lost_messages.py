"""What a queue file has lost: messages that the ledgers know as fetched, and that are nowhere.

They are neither in a queue, nor delivered to anybody. Those that may still lie at their provider
are forgotten, so that they are fetched again: that costs a download, where they were elsewhere
after all, and the ledger of deliveries keeps them from coming twice. A message that the operator
has dropped looks the same, and comes again. Nothing runs meanwhile. Where a file of ledgers was
ever made anew here, deliveries may be missing from it, and messages that were delivered would come
twice: then it is only said.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from services.postmaster.opening import open_state, open_steward
from shared.clock import SystemClock
from shared.ledger import safe_age
from shared.settings.model import Settings


class LostMessages(NamedTuple):
    """What was lost from the queues, in messages by account.

    Attributes:
        again: they may still be at the provider.
        gone: they are there no more.
        forgotten: whether the first are fetched again.
    """

    again: Counter[str]
    gone: Counter[str]
    forgotten: bool


def find_lost(settings: Settings, ledgers: Path | None) -> LostMessages:
    """Find what was lost, and have it fetched again if that is safe.

    Args:
        settings: the configuration, with the embedded broker.
        ledgers: the file of the ledgers; None where they are at a server.

    Raises:
        ConfigError: one of the files cannot be used.
        StateUnavailable: the ledgers do not answer.
        BrokerUnavailable: the queues cannot be read.
    """
    with open_steward(settings) as steward:
        queued = {stored.message_id for stored in steward.everything()}
    whole = ledgers is None or not list(ledgers.parent.glob(f"{ledgers.name}.damaged*"))
    return asyncio.run(_compare(settings, queued, whole))


async def _compare(settings: Settings, queued: Collection[str], whole: bool) -> LostMessages:
    async with open_state(settings.state_address()) as state:
        since = SystemClock().now() - safe_age(settings.retry.give_up_after)
        lost = [each for each in await state.delivered_to_nobody(since) if each.id not in queued]
        if whole:
            await state.forget_lost(lost)
    return LostMessages(
        Counter(each.account for each in lost if each.listed),
        Counter(each.account for each in lost if not each.listed),
        whole,
    )
