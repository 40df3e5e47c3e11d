"""Deliveries one by one, for tests that are not about how many come together."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from shared.broker import Delivery


async def singly(
    batches: AsyncGenerator[Sequence[Delivery], None],
) -> AsyncGenerator[Delivery, None]:
    """Yield each delivery; those that came together with it count as seen as well."""
    async with aclosing(batches):
        async for several in batches:
            for delivery in several:
                yield delivery
