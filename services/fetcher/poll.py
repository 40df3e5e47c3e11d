"""The sessions of one poll: as many as it takes, and round what breaks.

A session that deletes quits after a while, and another one goes on. One that breaks at a message is
followed by another that leaves this message out; one that breaks because the server did not keep
what it offered, by one that does without. All of it is bounded; ``QuirkTracker`` says what is
remembered.
"""

from __future__ import annotations

import asyncio
import gc
from typing import Final

from services.fetcher.account import LONGEST_LOGIN_DELAY, Account
from services.fetcher.broken_sessions import BrokenSessions
from services.fetcher.deletion import CONFIRM_MOST, Deletion
from services.fetcher.interfaces import FetcherContext
from services.fetcher.large_listings import LARGE
from services.fetcher.ledger_pages import LedgerPages
from services.fetcher.pop3.deadlines import WaitMeter
from services.fetcher.pop3.login import may_be_the_line
from services.fetcher.pop3.session import Pop3Session
from services.fetcher.quirk_tracker import QuirkTracker
from services.fetcher.redownload import RedownloadBreaker
from services.fetcher.retriever import Retriever
from services.fetcher.troubles import Blame, Troubles
from services.fetcher.worklist import SafeMessage
from shared.errors import (
    NoAnswer,
    NoRoom,
    PromiseBroken,
    ServerFault,
    SpoolUnavailable,
    Unreachable,
)
from shared.ledger import ADOPT, RELEASE, SKIP, AccountStanding

POLL_SECONDS: Final = 900.0
"""Seconds after which a poll begins no further session; others are to have its slot."""

PATIENCE: Final = 60.0
"""Seconds between two logins that are waited for in the middle of a poll (LOGIN-DELAY)."""


_ADOPTING: Final = (
    "account adopt goes on until more can be fetched of what has no UIDL: what comes meanwhile"
    " counts as delivered, too"
)
_LATER: Final = "what could not be fetched counts as delivered all the same (account adopt)"


class AccountPoll:
    """The sessions of one poll of one account.

    Args:
        account: that is polled, under its lease.
        context: ledger, publisher and the rest.
        standing: what is known of the account and its server.
        pace: told of every wait for the server.
    """

    def __init__(
        self,
        account: Account,
        context: FetcherContext,
        standing: AccountStanding,
        pace: WaitMeter,
    ) -> None:
        self._pace = pace
        self._account = account
        self._context = context
        self._quirk_tracker = QuirkTracker(account, context, standing)
        self._troubles = Troubles(standing.troubles, context.clock.now())
        self._breaks = BrokenSessions(frozenset(standing.troubles))
        self._cut_at = ""  # the quirk that the line was cut at, which may have been chance
        self._carefully = False
        self._confirm_most = CONFIRM_MOST
        self._large = standing.large
        self._standing = standing
        self._choice = standing.choice
        self.releasing = standing.choice == RELEASE
        """Whether the operator wants all of it, however much is new."""
        self.adopting = standing.choice == ADOPT
        """Whether the operator's choice to adopt the maildrop is not done yet."""
        self.skipping = standing.choice == SKIP
        """The same of skipping what is there."""
        self._complete = False  # all that is there was tried
        self._deleted: dict[str, SafeMessage] = {}
        self._still_there: set[str] = set()
        self._blamed: tuple[Blame, str] | None = None
        self._failure: ServerFault | SpoolUnavailable | NoRoom | None = None
        self._notes: tuple[str, ...] = ()
        self._login_delay = 0.0  # that the server asks for
        self.login_after = standing.login_after
        """When the server wants the next login at the earliest, in seconds since 1970."""
        self.logged_in: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Whether the first login went well, once that is known."""
        self.found = 0
        self.fetched = 0

    @property
    def undone(self) -> list[str]:
        """What is left undone, a sentence each."""
        said = [*self._troubles.sentences(), *self._notes]
        if (count := len(self._still_there)) > 0:
            what = "1 message is" if count == 1 else f"{count} messages are"
            said.append(f"{what} there still, though the server said +OK to DELE and QUIT")
        if self._login_delay > LONGEST_LOGIN_DELAY:
            said.append(
                f"the server wants {self._login_delay:.0f} seconds between two logins"
                f" (LOGIN-DELAY): it is given {LONGEST_LOGIN_DELAY:.0f}"
            )
        if self._breaks.enough:
            said.append("the session broke too often for one poll: the next one goes on")
        return said

    async def run(self) -> bool:
        """Run sessions until nothing is left; return whether something is, for another poll.

        Raises:
            ServerFault: the server failed, and not at one message alone.
            SpoolUnavailable: a large message could not be kept; all others were.
            NoRoom: messages were left where they are, because a disk of ours is filling up.
            BrokerUnavailable: a message could not be published.
        """
        clock = self._context.clock
        started = clock.monotonic()
        while await self._run_session():
            if self.found >= LARGE:
                # What a failure was raised through refers to itself, and is collected seldom: of a
                # million messages each broken session left up to 20 MB, and in the end 300.
                gc.collect()
            if clock.monotonic() - started > POLL_SECONDS:
                await self._count_try()
                return self._breaks.in_vain == 0  # else at its own interval
            if not await self._may_log_in():
                await self._count_try()
                return True
        if self._failure is not None:
            raise self._failure
        self._complete = not self._breaks.enough
        return False

    async def end_choice(self) -> None:
        """Write down that what was chosen is done, if all was tried, and what there still is to be.

        Raises:
            StateUnavailable: it is done in another poll.
        """
        ledger, name = self._context.ledger, self._account.name
        if self.releasing and self._complete:
            await ledger.adopt(name, {}, choice=RELEASE)
        if not (self.adopting and self._complete):
            return
        unread = self._troubles.adopt()
        if unread is None:
            self._notes = (*self._notes, _ADOPTING)
            return
        if unread:
            await ledger.record_troubles(name, unread)
            self._notes = (*self._notes, _LATER)
        await ledger.adopt(name, {}, choice=self._choice)

    @property
    def brought(self) -> int | None:
        """How many messages came, as a measure of later polls; None where not all was tried.

        What came with the first poll, or was released, is no measure.
        """
        if not self._complete:
            return None
        usual = self._standing.busiest is not None and not self.releasing
        return self.fetched if usual else 0

    async def _may_log_in(self) -> bool:
        """Wait for the next login to be welcome; return whether it is."""
        wait = self.login_after - self._context.clock.now()
        if wait > PATIENCE:
            return False
        with self._pace.waiting():
            await self._context.clock.sleep(max(wait, 0.0))
        return True

    async def _run_session(self) -> bool:
        """Run a session; return whether there is to be another one."""
        ledger, name = self._context.ledger, self._account.name
        # On its way while we log in: of a large maildrop it takes as long.
        known = LedgerPages(ledger, name, self._context.turns.ahead)
        try:
            session = await self._open()
            deletion = Deletion(
                name,
                session,
                self._context,
                self._troubles,
                carefully=self._carefully,
                confirm_most=self._confirm_most,
                before=self._deleted,
                again=self._still_there,
            )
            retriever = Retriever(
                self._account,
                session,
                self._context,
                self._troubles,
                deletion,
                sizes_vary=self._quirk_tracker.sizes_vary,
                large=self._large,
                in_vain=self._breaks.in_vain,
                choice=self._choice,
                adopt=self.adopting,
                skip=self.skipping,
                breaker=RedownloadBreaker(self._account, self._context, self._standing),
            )
            try:
                return await retriever.run(known)
            except ServerFault as error:
                if await self._goes_on(retriever, deletion, error):
                    return True
                if not retriever.listed:
                    await self._quirk_tracker.forget_useless()
                if not self._breaks.enough:
                    raise
                return False
            finally:
                await session.abort()
                await self._write_down(retriever, deletion, session)
        finally:
            await known.close()

    async def _open(self) -> Pop3Session:
        """Log in; what the last session broke at is a trouble if it was not the line that broke."""
        session: Pop3Session | None = None
        try:
            most = self._context.limits.max_messages
            tell = self._context.journal.dialogue(account=self._account.name)
            login = self._account.login
            session = await Pop3Session.open(
                login, self._quirk_tracker.quirks, tell, self._pace, most
            )
        except Unreachable:
            await self._count_try(counts=False)
            await self._quirk_tracker.forget_on_trial()
            raise
        except ServerFault:
            await self._count_try()
            raise
        finally:
            if not self.logged_in.done():
                self.logged_in.set_result(session is not None)
        await self._count_try()
        if session.login_delay:
            self._login_delay = session.login_delay
            wait = min(session.login_delay, LONGEST_LOGIN_DELAY)
            self.login_after = self._context.clock.now() + wait
        self._quirk_tracker.quirks = session.quirks  # and what the login has shown
        return session

    async def _count_try(self, *, counts: bool = True) -> None:
        """Count a try of the message at which the last session broke."""
        blamed, self._blamed = self._blamed, None
        if blamed is not None:
            blame, why = blamed
            self._troubles.add(
                blame.key,
                blame.number,
                why,
                deletes=blame.deletes,
                counts=counts and blame.exact,
                again=not blame.exact,
                lasting=blame.lasting,
            )
            await self._context.ledger.record_troubles(
                self._account.name, self._troubles.to_record()
            )

    async def _goes_on(self, retriever: Retriever, deletion: Deletion, error: ServerFault) -> bool:
        """Return whether another session may do better; it does without what broke this one."""
        cut = deletion.confirming == 1 and isinstance(error, Unreachable)
        if cut or (deletion.confirming and isinstance(error, NoAnswer)):
            error = PromiseBroken(error.server, f"TOP: {error.said}", "no_top")
            self._confirm_most = CONFIRM_MOST  # nothing is asked by TOP any more
        if isinstance(error, PromiseBroken):
            without = self._quirk_tracker.quirks
            if without.has(error.quirk) or without.would_ask_nothing(error.quirk):
                return False
            if may_be_the_line(error) and self._cut_at != error.quirk:
                self._cut_at = error.quirk
                return True
            await self._quirk_tracker.note_broken(error.quirk)
            self._context.journal.trouble(
                "retrying without a capability that the server did not honour",
                account=self._account.name,
                server=error.server,
                quirk=error.quirk,
                why=error.said,
            )
            return True
        if retriever.blame is None and not deletion.unclear:
            return False
        self._carefully = self._carefully or deletion.unclear
        if deletion.confirming > 1:
            # The connection rather than the message: ask for less at a time.
            self._confirm_most = max(1, deletion.confirming // 8)
        elif retriever.blame is not None:
            self._blamed = retriever.blame, error.said
            self._context.journal.trouble(
                "a session failed at a message",
                account=self._account.name,
                number=retriever.blame.number,
                uidl="" if retriever.blame.key.startswith(" ") else retriever.blame.key,
                why=error.said,
            )
        key = retriever.blame.key if retriever.blame and not retriever.blame.deletes else None
        goes_on = self._breaks.goes_on(key, brought=retriever.brought)
        if not goes_on:
            await self._count_try()
        return goes_on

    async def _write_down(
        self, retriever: Retriever, deletion: Deletion, session: Pop3Session
    ) -> None:
        """Remember what a session came to, however it ended."""
        ledger, name = self._context.ledger, self._account.name
        self.adopting, self.skipping = retriever.adopt, retriever.skip
        self.found = max(self.found, retriever.found)
        self.fetched += retriever.fetched
        if retriever.listed:  # what it did not see again is gone
            self._deleted = deletion.done
        self._still_there.update(deletion.still_there)
        self._notes = retriever.notes or self._notes
        self._failure = retriever.failure or self._failure
        if retriever.listed:
            await self._quirk_tracker.note_listed(session.quirks, retriever.quirks)
        if new := self._troubles.to_record():
            await ledger.record_troubles(name, new)
        if over := self._troubles.to_forget():
            await ledger.forget_troubles(name, over)
