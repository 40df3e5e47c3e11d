"""The breaker against fetching a maildrop all over again.

A provider that moves house gives all mail new UIDLs, and may add a header line to it: then
thousands of messages that were delivered look new. So before anything is published of what an
account with a history would suddenly take, it is looked at. Mail whose content is known is
suppressed, as ever, and is no sign of anything. Of what is truly new, a sample is compared by a
looser fingerprint (``identity.loose_fingerprint``) with what was fetched in earlier polls: where
most of it is alike, and where more is new than is plausible, nothing of it is taken. The account is
held, and the operator is asked; all of it is still at the server.

It costs the polls of few messages nothing. What is suspicious is taken oldest first, whatever the
account says: what is known lies at that end. Known limits: what came before the fingerprints were
recorded is not alike; the first poll of an account is never a flood, nor is any before one has come
to its end; fewer than ``SAMPLE_LEAST`` new messages are never one either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.fetcher.account import Account
from services.fetcher.interfaces import FetcherContext
from shared.ledger import FLOOD, AccountStanding

SAMPLE: Final = 64
"""Messages that are looked at before any of them is published."""

SAMPLE_LEAST: Final = 20
"""Messages by which it can be told whether most are alike: mailing lists send some mail twice."""

SAMPLE_BYTES: Final = 16 * 1024 * 1024
"""Bytes of them that are held at the most."""

TIMES_BUSIEST: Final = 10


class Redownload(Exception):
    """More would be taken than is plausible, or what was taken before.

    Args:
        account: its name.
        why: what was found.
    """

    def __init__(self, account: str, why: str) -> None:
        advice = (
            f"Nothing of it was taken: account release {account} has it fetched, with --skip it"
            " counts as seen and stays there"
        )
        super().__init__(f"{FLOOD}{why}. {advice}")


class RedownloadBreaker:
    """The breaker of one session.

    Args:
        account: that is polled.
        context: ledger and clock.
        standing: how the account stood; its history, and what the operator has chosen.
    """

    def __init__(
        self, account: Account, context: FetcherContext, standing: AccountStanding
    ) -> None:
        self._name = account.name
        self._ledger = context.ledger
        self._began = context.clock.now()
        intake, busiest = account.intake, standing.busiest
        self._watches = busiest is not None and standing.choice is None
        usual = max(intake.flood_least, TIMES_BUSIEST * (busiest or 0))
        self._limit = usual if intake.flood_limit is None else intake.flood_limit
        self._left = 0
        self._listed = 0
        self._sample: list[int] | None = None
        self._looked_at = 0

    def begin(self, listed: int) -> bool:
        """Take note of how many messages are new by their UIDLs; return whether to beware."""
        if self._watches and listed >= SAMPLE_LEAST:
            self._listed = self._left = listed
            self._sample = []
        return self.active

    @property
    def active(self) -> bool:
        """Whether what comes is to be judged before it is published."""
        return self._listed > 0

    @property
    def suspects_all(self) -> bool:
        """Whether more is new by its UIDL than is plausible, if all of it is."""
        return self.active and self._left > self._limit

    def is_full(self, count: int, size: int) -> bool:
        """Return whether so many messages, of so many bytes in memory, are to be judged now."""
        return count >= SAMPLE or size >= SAMPLE_BYTES

    async def judge(self, new: Sequence[int | None], suppressed: int) -> None:
        """See whether messages may be published.

        Args:
            new: the looser fingerprints of those that nobody has seen, as far as they have one.
            suppressed: how many others there are beside them.

        Raises:
            Redownload: they may not.
        """
        self._left -= suppressed
        if not new:
            return
        await self._compare(new)
        if self._left > self._limit and len(new) > suppressed:
            raise Redownload(
                self._name,
                f"{self._left} messages are new all at once, where {self._limit} would be plausible"
                " (flood_limit)",
            )

    async def _compare(self, new: Sequence[int | None]) -> None:
        """Look whether most of a sample is alike to what was fetched in earlier polls."""
        if self._sample is None:
            return
        self._looked_at += len(new)
        self._sample += [loose for loose in new if loose is not None]
        if self._looked_at < SAMPLE_LEAST:
            return
        sample, self._sample = self._sample, None
        alike = await self._ledger.alike(self._name, sample, before=self._began)
        if 2 * alike > self._looked_at:
            raise Redownload(
                self._name,
                f"{alike} of {self._looked_at} messages have Message-ID, Date, From and text of"
                f" mail that was fetched before, and {self._left} are listed as new: has the"
                " provider moved?",
            )
