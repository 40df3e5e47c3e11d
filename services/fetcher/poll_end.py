"""How a poll ends: what is said of it, and when the account is polled next.

An account that fails is backed off; one that brought something before it failed starts anew. What
fails on our side (``OURS``) is no reason to back off: the account is polled at its own interval. A
disk that fills up is no failure of any account, and is told as something left undone. A defect of
this program is one of the account that meets it, as any other failure.
"""

from __future__ import annotations

from typing import Final

from services.fetcher.account import Account, after_opening, backoff, spread
from services.fetcher.interfaces import FetcherContext
from services.fetcher.poll import AccountPoll
from services.fetcher.redownload import Redownload
from services.fetcher.refused_password import fingerprint
from shared.errors import (
    BrokerUnavailable,
    ConfigError,
    LoginRefused,
    MaildropBusy,
    NoRoom,
    Refused,
    SpoolUnavailable,
)
from shared.ledger import AccountStanding

OURS: Final = (SpoolUnavailable, NoRoom, BrokerUnavailable, Refused)
"""What fails on our side, whatever the account."""


HELD: Final = 86_400.0
"""Seconds to the next look at an account that is held; with a choice of the operator it is due."""


class PollRecorder:
    """Records the ends of polls, and tells them.

    Args:
        context: the schedule, the journal and the rest.
        many: whether there are so many accounts that their polls are spread over the interval.
    """

    def __init__(self, context: FetcherContext, *, many: bool) -> None:
        self._context = context
        self._many = many
        self._undone: dict[str, list[str]] = {}

    async def finish(
        self, account: Account, poll: AccountPoll, undone: list[str], *, more: bool
    ) -> None:
        """Record that a poll came to its end.

        Args:
            account: that was polled.
            poll: its sessions.
            undone: what is left undone, a sentence each; told where it was not told before.
            more: whether there is more to be fetched: then the account is due at once.
        """
        if undone != self._undone.get(account.name, []):
            for sentence in undone:
                self._context.journal.left_undone(account.name, sentence)
        self._undone[account.name] = undone
        now = self._context.clock.now()
        interval = self._interval(account)
        if poll.fetched and account.soonest is not None:
            # Mail is coming: there may be more soon, within the account's hours.
            soon = now + min(interval, account.soonest)
            interval = min(interval, account.timetable.opens(soon) - now)
        await self._context.schedule.record_poll(
            account.name,
            next_poll=max(now + (0.0 if more else interval), poll.login_after),
            error=None,
            progress=False,
            undone="\n".join(undone) or None,
            login_after=poll.login_after,
            busiest=None if more else poll.brought,
        )

    async def hold(self, account: Account, why: Redownload) -> None:
        """Hold an account of which more would be taken than is plausible."""
        await self._context.ledger.hold_account(account.name, str(why))
        self._context.journal.account_held(account.name, str(why))
        self._context.note_held()
        until = self._context.clock.now() + HELD
        await self._context.schedule.put_off(account.name, until=until)

    async def back_off(
        self, account: Account, error: Exception, standing: AccountStanding, poll: AccountPoll
    ) -> None:
        """Record that a poll failed, at the server or on our side.

        Args:
            account: that was polled.
            error: why.
            standing: how the account stood before.
            poll: its sessions.
        """
        progress = poll.fetched > 0
        interval = wait = self._interval(account)
        ours = isinstance(error, OURS)
        if not ours:
            failures = 0 if progress else standing.failures
            busy = isinstance(error, MaildropBusy)
            wait = max(account.floor, backoff(wait, failures, busy=busy))
        self._context.journal.account_failed(account.name, str(error), wait, ours=ours)
        now = self._context.clock.now()
        refused = await _refused_fingerprint(account, error)
        # A disk that fills up is no failure of any account: they would all look the same.
        lacking = self._lacking(error)
        # A password that has been changed counts with the next interval.
        look = wait if refused is None else min(wait, interval)
        await self._context.schedule.record_poll(
            account.name,
            next_poll=self._within_hours(account, max(now + look, poll.login_after)),
            error=None if lacking else str(error),
            progress=progress,
            undone=lacking,
            login_after=poll.login_after,
            refused=refused,
            retry_at=now + wait if refused is not None else 0.0,
        )

    def _within_hours(self, account: Account, moment: float) -> float:
        """Return a moment, or the next one at which the account may be polled."""
        opens = account.timetable.opens(moment)
        return after_opening(account, opens) if self._many and opens > moment else opens

    def _interval(self, account: Account) -> float:
        """Return seconds until an account is polled next where nothing has failed."""
        now = self._context.clock.now()
        return spread(account, now) if self._many else account.timetable.interval(now)

    def _lacking(self, error: Exception) -> str | None:
        """Return what there is too little of, if that is why a poll came to no good end."""
        if isinstance(error, NoRoom):
            return str(error)
        return self._context.lacking(0) if isinstance(error, OURS) else None

    async def record_defect(
        self, account: Account, standing: AccountStanding, error: Exception
    ) -> None:
        """Back an account off that has met a defect of this program, as for any other failure."""
        self._context.journal.crashed("", account.name, error)
        why = f"unexpected error: {type(error).__name__}: {error}"
        wait = backoff(self._interval(account), standing.failures, busy=False)
        self._context.journal.account_failed(account.name, why, wait)
        await self._context.schedule.record_poll(
            account.name,
            next_poll=self._within_hours(
                account, max(self._context.clock.now() + wait, standing.login_after)
            ),
            error=why,
            progress=False,
            undone=None,
            login_after=standing.login_after,
        )


async def _refused_fingerprint(account: Account, error: Exception) -> str | None:
    """Return what a password that was refused is recognised by, None where it was not."""
    if not isinstance(error, LoginRefused):
        return None
    try:
        return await fingerprint(account.login)
    except ConfigError:  # it was there a moment ago
        return None
