"""The courier for mail servers, over SMTP or LMTP.

Addresses that could end their protocol line are refused here and never sent. A kept connection that
turns out to be dead costs one fresh try, not a failure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.deliverer.addresses import refusals
from services.deliverer.courier import Letter, Result
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

    async def deliver(
        self, letter: Letter, sender: str, recipients: Sequence[str]
    ) -> Mapping[str, Result]:
        """Deliver a letter and return what became of it for each recipient.

        Args:
            letter: the message.
            sender: the envelope sender, "" for the null sender.
            recipients: the envelope recipients.

        Raises:
            Unreachable: the server is down, or does not let us in; nothing was delivered.
            SpoolMissing: the message is not in the spool; nothing was delivered.
            SpoolUnavailable: the message could not be read; nothing was delivered.
            ClaimLost: the message is no longer ours; nothing was delivered.
        """
        refused = refusals(sender, recipients)
        rest = [recipient for recipient in recipients if recipient not in refused]
        return refused | await self._transact(letter, sender, rest) if rest else refused

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
