"""The leases and claims that this process has, kept as long as it lives.

A claim counts as ours only while none of our clocks says that it has expired. One whose delivery
could not be recorded is neither renewed nor given back: expired, it tells whoever claims the
message next that it may have been delivered. It trusts ``renew`` to run all the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shared.clock import Clock
from shared.errors import StateUnavailable, Unstorable
from shared.ledger import Claim, DeliveryKey, Finished
from shared.log import Report
from shared.state.deliveries import CLAIM, FINISH, UNCLAIM, lease_of
from shared.state.leases import EXPIRE, GIVE_BACK, RENEW, RENEWAL, TAKE, Since
from shared.state.transactions import Transactions

UNRECORDABLE: Final = (
    "delivered but cannot be recorded: if it is fetched again, it is delivered twice"
)


class HeldLeases:
    """What one process holds.

    Args:
        transactions: those of this process.
        clock: says since when a claim is held, and when it is renewed.
        report: is told of what cannot be recorded, and of renewals that fail.
    """

    def __init__(self, transactions: Transactions, clock: Clock, report: Report) -> None:
        self._transactions = transactions
        self._clock = clock
        self._report = report
        self._names: set[str] = set()
        self._claims: dict[DeliveryKey, Since | None] = {}  # None for what is not ours
        self._unrecorded: set[DeliveryKey] = set()
        self._any = False  # or perhaps

    async def lease(self, name: str) -> bool:
        """Take a lease, or keep it; it is renewed until it is released.

        Returns:
            Whether it is ours now. Two tasks of one process that ask both get it.

        Raises:
            StateUnavailable: nobody knows.
        """
        self._any = True
        ours = await self._transactions.ask(TAKE, name)
        (self._names.add if ours else self._names.discard)(name)
        return ours

    async def release(self, name: str) -> None:
        """Give a lease back. Where that fails (StateUnavailable) it expires by itself."""
        self._names.discard(name)
        await self._transactions.ask(GIVE_BACK, name)

    async def claim(self, deliveries: Sequence[DeliveryKey]) -> list[Claim | Unstorable | None]:
        """Claim messages for delivery.

        Returns:
            For each what is known of its delivery; None where somebody has it in hand, this process
            or another one that is alive; Unstorable where it can never be claimed.

        Raises:
            StateUnavailable: nobody knows; what was taken all the same expires by itself.
        """
        asked = dict.fromkeys(d for d in deliveries if d not in self._claims)
        now = Since.now(self._clock)
        self._any = True
        self._claims.update(dict.fromkeys(asked))  # not yet ours, nor to be renewed
        found: dict[DeliveryKey, Claim | Unstorable | None] = {}
        try:
            answers = await self._transactions.ask_all(CLAIM, list(asked))
            found = dict(zip(asked, answers, strict=True))
        finally:
            for delivery in asked:
                if isinstance(found.get(delivery), Claim):
                    self._claims[delivery] = now
                else:
                    self._claims.pop(delivery, None)
        return [found.pop(delivery, None) for delivery in deliveries]

    def holds(self, delivery: DeliveryKey) -> bool:
        """Return whether a claim is ours without doubt: by none of our clocks has it expired."""
        since = self._claims.get(delivery)
        return since is not None and since.runs(self._clock)

    async def finish(self, finished: Sequence[Finished]) -> None:
        """Record recipients as delivered and give the claims back, in one transaction.

        What the database does not take is reported, and not tried again: the message has arrived.

        Raises:
            StateUnavailable: it may not be recorded. The claims are still held; ``unclaim`` then
                leaves a mark, by which the next claim is a replay.
        """
        deliveries = [delivery for delivery, _ in finished]
        self._unrecorded.update(deliveries)
        answers = await self._transactions.ask_all(FINISH, finished)
        bad = {d: a for d, a in zip(deliveries, answers, strict=True) if isinstance(a, Unstorable)}
        for delivery, why in bad.items():
            self._report(UNRECORDABLE, id=delivery.id, destination=delivery.destination, why=why)
        await self._transactions.ask_all(UNCLAIM, list(bad))
        self._unrecorded.difference_update(deliveries)
        for delivery in deliveries:
            self._claims.pop(delivery, None)

    async def unclaim(self, deliveries: Sequence[DeliveryKey]) -> None:
        """Give claims back with nothing to record.

        Raises:
            StateUnavailable: the leases run until they expire; here they count as given back.
        """
        for delivery in deliveries:
            self._claims.pop(delivery, None)
        # The lease of one that could not be recorded is the mark: not renewed, not given back.
        marked = self._unrecorded.intersection(deliveries)
        self._unrecorded -= marked
        await self._transactions.ask_all(UNCLAIM, [d for d in deliveries if d not in marked])

    def let_expire(self, deliveries: Sequence[DeliveryKey]) -> None:
        """Hold claims no longer; their leases run out, which marks them for the next claim.

        Nobody knows what became of the deliveries. A claim of this process gets them at once, one
        of another when they have expired; either is told that it is a replay.
        """
        for delivery in deliveries:
            self._claims.pop(delivery, None)

    async def expire(self) -> None:
        """Let all expire now. Where there never were any, the database is not even asked.

        Raises:
            StateUnavailable: they expire by themselves.
        """
        if self._any:  # the operator's role may not even ask
            await self._transactions.ask(EXPIRE)

    async def renew(self) -> None:
        """Renew what is held, until this is cancelled."""
        while True:
            await self._clock.sleep(RENEWAL)
            claims = [delivery for delivery, since in self._claims.items() if since is not None]
            names = [*self._names, *(lease_of(delivery) for delivery in claims)]
            if names:
                try:
                    await self._renew_once(claims, names)
                except StateUnavailable:
                    pass  # every other call says so as well
                except Exception as error:  # noqa: BLE001  (ended, it would lose all leases)
                    why = f"{type(error).__name__}: {error}"
                    self._report("leases were not renewed; retrying", why=why)

    async def _renew_once(self, claims: Sequence[DeliveryKey], names: Sequence[str]) -> None:
        since = Since.now(self._clock)
        ours = await self._transactions.ask(RENEW, names)
        for delivery in claims:
            if delivery in self._claims:
                self._claims[delivery] = since if lease_of(delivery) in ours else None
