"""What a poll learns of its server and its maildrop, and when that is believed.

That the server did not keep a promise may have been an outage. So to do without is on trial first,
for this account alone. It is remembered once a session without it was told what there is, and
forgotten when the poll failed before any was. What concerns a maildrop is remembered for its
account; only what is of the program that serves (``OF_SERVERS``) is, for all its accounts.

Known limit: a trial outlives a poll whose next login was refused, so that a server which holds on
to the maildrop after a broken session is got on with.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from services.fetcher.account import Account
from services.fetcher.interfaces import FetcherContext
from services.fetcher.inventory import SIZES_VARY
from services.fetcher.pop3.quirks import LISTINGS, NAMES, OF_SERVERS, Quirks, begun_with
from shared.ledger import AccountStanding, Quirk

REMEMBERED: Final = 7 * 86_400.0
"""Seconds for which a quirk is remembered; then it is tried anew."""

LISTING_REMEMBERED: Final = 86_400.0
"""The same of a listing that hung or was refused: without, each poll costs more than a trial does,
and one that hung once may have been one bad moment of the server."""

_ON_TRIAL: Final = 0
_BELIEVED: Final = 1


def remembered_quirks(standing: AccountStanding) -> Quirks:
    """Return what a session does without, by what is believed of an account and its server."""
    return begun_with(_believed(standing))


def _believed(standing: AccountStanding) -> set[str]:
    own = standing.own
    believed = {name for name in standing.quirks if name in OF_SERVERS}
    return believed | {name for name in own if own[name].value != _ON_TRIAL}


class QuirkTracker:
    """What is known and learnt in one poll.

    Args:
        account: that is polled.
        context: ledger and clock.
        standing: what is known from earlier polls.

    Attributes:
        quirks: what the next session does without.
        sizes_vary: whether other sizes mean nothing in this maildrop.
    """

    def __init__(
        self, account: Account, context: FetcherContext, standing: AccountStanding
    ) -> None:
        self._account = account
        self._context = context
        own = standing.own
        self._believed = _believed(standing)
        self._tried = {name for name in own if own[name].value == _ON_TRIAL}
        self.quirks = begun_with(self._believed | self._tried)
        self.sizes_vary = SIZES_VARY in self._believed

    async def note_broken(self, quirk: str) -> None:
        """Do without this in the next session, on trial."""
        self.quirks = self.quirks.having(quirk)
        if quirk not in self._believed | self._tried:
            self._tried.add(quirk)
            await self._write(quirk, _ON_TRIAL, self._account.name)

    async def note_listed(self, quirks: Quirks, seen: Iterable[str]) -> None:
        """Believe what a session did without that was told what there is.

        Args:
            quirks: what it did without.
            seen: what it has seen besides.
        """
        seen = set(seen)
        # What hung without PIPELINING as well may have been the maildrop from the first.
        hung_without = self._tried & set(LISTINGS)
        for name in sorted(({n for n in NAMES if quirks.has(n)} | seen) - self._believed):
            everywhere = name in OF_SERVERS and not hung_without
            account = None if everywhere else self._account.name
            await self._write(name, _BELIEVED, account)
            self._believed.add(name)
        self.sizes_vary = self.sizes_vary or SIZES_VARY in seen
        for name in seen & set(NAMES):
            self.quirks = self.quirks.having(name)

    async def forget_useless(self) -> None:
        """Forget what did not help: no session got a listing, with it or without."""
        await self._forget(self._tried | self._believed & set(LISTINGS))

    async def forget_on_trial(self) -> None:
        """Forget what is on trial: it was an outage, then, that broke the session."""
        await self._forget(self._tried)

    async def _forget(self, names: Iterable[str]) -> None:
        for name in sorted(names):
            await self._write(name, _ON_TRIAL, self._account.name, 0.0)
        self._tried.clear()

    async def _write(
        self, name: str, value: int, account: str | None, seconds: float | None = None
    ) -> None:
        if seconds is None:
            seconds = LISTING_REMEMBERED if name in LISTINGS else REMEMBERED
        until = self._context.clock.now() + seconds
        await self._context.ledger.learn(self._account.server, Quirk(name, value, until), account)
