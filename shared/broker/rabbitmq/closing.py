"""Closing a channel only when the queue has what was acknowledged on it.

Nothing confirms an acknowledgement. A channel of RabbitMQ (3.10 to 4.0) has 32 of them under way to
a quorum queue, keeps further ones to itself, and when it is closed takes these along: what was
settled is handed out again. But the queue forgets a cancelled consumer with the last of what that
one had, and how many consumers it has can be asked for.

Known limits: the count does not say whose consumers went. Where others consume the queue,
``OTHERS`` is waited as well, and so another's end is not taken for ours unless the broker is that
slow. One that begins to consume meanwhile makes us wait for ``PARTING``.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from shared.broker.rabbitmq.channel import AsyncChannel, ChannelEnded

PARTING: Final = 5.0
"""Seconds that the broker has to end a subscription, and to take the last acknowledgements. That of
a queue which has lost its quorum it cannot, and we are to end all the same."""

OTHERS: Final = 0.3
"""Seconds that acknowledgements have at least where others consume the queue."""

TURN: Final = 0.01
"""Seconds between two questions."""


async def wait_until_taken(channel: AsyncChannel, queue: str, before: int) -> None:
    """Return when the queue has what was acknowledged, or after ``PARTING`` seconds, or without it.

    Args:
        channel: over which it was acknowledged; its consumer is cancelled.
        queue: its name.
        before: how many consumers the queue had when that was one of them.
    """
    with suppress(ChannelEnded, TimeoutError):
        async with asyncio.timeout(PARTING):
            if before > 1:
                await asyncio.sleep(OTHERS)
            while (said := await channel.declare_passive(queue)).consumer_count >= before:  # noqa: ASYNC110
                await asyncio.sleep(TURN)
            if not said.consumer_count and not said.message_count:
                # It says so of a queue that is too busy to answer, too.
                await channel.look(queue)
