"""The courier for mail servers, over SMTP or LMTP.

Addresses that could end their protocol line are refused here and never sent. A kept connection that
turns out to be dead costs one fresh try, not a failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.deliverer.addresses import refusals
from services.deliverer.courier import Delivered, Letter, Post, Result
from services.deliverer.pool import Pool
from services.deliverer.session import Target
from services.deliverer.transaction import transact
from shared.clock import Clock
from shared.errors import Unreachable


class SmtpCourier:
    """Delivers to one SMTP or LMTP server.

    Args:
        target: the server.
        clock: the time.
        connections: how many there may be at once.
    """

    def __init__(self, target: Target, clock: Clock, connections: int = 8) -> None:
        self._pool = Pool(target, clock, connections)

    @property
    def joint(self) -> bool:
        """False: a server may take minutes for one letter, and nothing for the next."""
        return False

    async def deliver(self, posts: Sequence[Post]) -> Sequence[Delivered]:
        """Deliver letters at the same time and return what became of each."""
        if len(posts) == 1:  # as it nearly always is: no task for it
            return [await self._deliver(posts[0])]
        return await asyncio.gather(*map(self._deliver, posts))

    async def _deliver(self, post: Post) -> Delivered:
        letter, sender, recipients = post
        refused = refusals(sender, recipients)
        rest = [recipient for recipient in recipients if recipient not in refused]
        try:
            return refused | await self._transact(letter, sender, rest) if rest else refused
        except Exception as error:  # noqa: BLE001  (that of one letter; whose fault, its type says)
            return error

    async def _transact(
        self, letter: Letter, sender: str, recipients: Sequence[str]
    ) -> dict[str, Result]:
        async with self._pool.session() as session:
            reused = session.served > 0
            try:
                return await transact(session, letter, sender, recipients)
            except Unreachable:
                if not reused:
                    raise
        async with self._pool.session(fresh=True) as session:
            return await transact(session, letter, sender, recipients)

    async def close(self) -> None:
        """Take leave of the server."""
        await self._pool.close()
