"""The sessions of one poll: as many as it takes, and round what breaks.

A session that deletes quits after a while, and another one goes on. One that breaks at a message is
followed by another that leaves this message out; one that breaks because the server did not keep
what it offered, by one that does without. All of it is bounded; ``Lessons`` says what is
remembered.
"""

from __future__ import annotations

import asyncio
import gc
from typing import Final

from services.fetcher.account import LONGEST_LOGIN_DELAY, Account
from services.fetcher.breaks import Breaks
from services.fetcher.commits import Limits
from services.fetcher.lessons import Lessons
from services.fetcher.login import may_be_the_line
from services.fetcher.pace import Pace
from services.fetcher.pages import Pages
from services.fetcher.ports import World
from services.fetcher.session import Session
from services.fetcher.troubles import Blame, Troubles
from services.fetcher.turns import LARGE
from services.fetcher.visit import CONFIRM_MOST, Visit
from services.fetcher.worklist import Safe
from shared.claims import ADOPT, Standing
from shared.errors import (
    NoAnswer,
    NoRoom,
    PromiseBroken,
    ServerFault,
    SpoolUnavailable,
    Unreachable,
)

POLL_SECONDS: Final = 900.0
"""Seconds after which a poll begins no further session; others are to have its place."""

PATIENCE: Final = 60.0
"""Seconds between two logins that are waited for in the middle of a poll (LOGIN-DELAY)."""


_ADOPTING: Final = (
    "account adopt goes on until more can be fetched of what has no UIDL: what comes meanwhile"
    " counts as delivered, too"
)
_LATER: Final = "what could not be fetched counts as delivered all the same (account adopt)"


class Sessions:
    """The sessions of one poll of one account.

    Args:
        account: that is polled, under its lease.
        world: ledger, outbox and the rest.
        limits: how much one session does before it quits.
        standing: what is known of the account and its server.
        pace: told of every wait for the server.
    """

    def __init__(
        self, account: Account, world: World, limits: Limits, standing: Standing, pace: Pace
    ) -> None:
        self._pace = pace
        self._account = account
        self._world = world
        self._limits = limits
        self._lessons = Lessons(account, world, standing)
        self._troubles = Troubles(standing.troubles, world.clock.now())
        self._breaks = Breaks(frozenset(standing.troubles))
        self._cut_at = ""  # the quirk that the line was cut at, which may have been chance
        self._carefully = False
        self._confirm_most = CONFIRM_MOST
        self._large = standing.large
        self.adopting = standing.choice == ADOPT
        """Whether the operator's choice to adopt the maildrop is not done yet."""
        self._complete = False  # all that is there was tried
        self._deleted: dict[str, Safe] = {}
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
        said = [*self._troubles.said(), *self._notes]
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
        clock = self._world.clock
        started = clock.monotonic()
        while await self._one():
            if self.found >= LARGE:
                # What a failure was raised through refers to itself, and is collected seldom: of a
                # million messages each broken session left up to 20 MB, and in the end 300.
                gc.collect()
            if clock.monotonic() - started > POLL_SECONDS:
                await self._count()
                return self._breaks.in_vain == 0  # else at its own interval
            if not await self._may_log_in():
                await self._count()
                return True
        if self._failure is not None:
            raise self._failure
        self._complete = not self._breaks.enough
        return False

    async def end_adopting(self) -> None:
        """Write down that the maildrop is adopted, if all was tried, and what there still is to be.

        Raises:
            StateUnavailable: it is done in another poll.
        """
        if not (self.adopting and self._complete):
            return
        ledger, name = self._world.ledger, self._account.name
        unread = self._troubles.adopt()
        if unread is None:
            self._notes = (*self._notes, _ADOPTING)
            return
        if unread:
            await ledger.troubled(name, unread)
            self._notes = (*self._notes, _LATER)
        await ledger.adopt(name, {}, choice=ADOPT)

    async def _may_log_in(self) -> bool:
        """Wait for the next login to be welcome; return whether it is."""
        wait = self.login_after - self._world.clock.now()
        if wait > PATIENCE:
            return False
        with self._pace.waiting():
            await self._world.clock.sleep(max(wait, 0.0))
        return True

    async def _one(self) -> bool:
        """Run a session; return whether there is to be another one."""
        ledger, name = self._world.ledger, self._account.name
        # On its way while we log in: of a large maildrop it takes a second.
        known = Pages(ledger, name, self._world.turns.ahead)
        try:
            session = await self._open()
            visit = Visit(
                self._account,
                session,
                self._world,
                self._limits,
                self._troubles,
                sizes_vary=self._lessons.sizes_vary,
                carefully=self._carefully,
                confirm_most=self._confirm_most,
                large=self._large,
                deleted=self._deleted,
                again=self._still_there,
                in_vain=self._breaks.in_vain,
                adopt=self.adopting,
            )
            try:
                return await visit.run(known)
            except ServerFault as error:
                if await self._goes_on(visit, error):
                    return True
                if not visit.listed:
                    await self._lessons.failed()
                if not self._breaks.enough:
                    raise
                return False
            finally:
                await session.abort()
                await self._written_down(visit, session)
        finally:
            await known.close()

    async def _open(self) -> Session:
        """Log in; what the last session broke at is a trouble if it was not the line that broke."""
        session: Session | None = None
        try:
            most = self._limits.max_messages
            tell = self._world.journal.dialogue(account=self._account.name)
            login = self._account.login
            session = await Session.open(login, self._lessons.quirks, tell, self._pace, most)
        except Unreachable:
            await self._count(counts=False)
            await self._lessons.unreachable()
            raise
        except ServerFault:
            await self._count()
            raise
        finally:
            if not self.logged_in.done():
                self.logged_in.set_result(session is not None)
        await self._count()
        if session.login_delay:
            self._login_delay = session.login_delay
            wait = min(session.login_delay, LONGEST_LOGIN_DELAY)
            self.login_after = self._world.clock.now() + wait
        self._lessons.logged_in(session.quirks)
        return session

    async def _count(self, *, counts: bool = True) -> None:
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
            await self._world.ledger.troubled(self._account.name, self._troubles.to_record())

    async def _goes_on(self, visit: Visit, error: ServerFault) -> bool:
        """Return whether another session may do better; it does without what broke this one."""
        cut = visit.confirming == 1 and isinstance(error, Unreachable)
        if cut or (visit.confirming and isinstance(error, NoAnswer)):
            error = PromiseBroken(error.server, f"TOP: {error.said}", "no_top")
            self._confirm_most = CONFIRM_MOST  # nothing is asked by TOP any more
        if isinstance(error, PromiseBroken):
            without = self._lessons.quirks
            if without.has(error.quirk) or without.would_ask_nothing(error.quirk):
                return False
            if may_be_the_line(error) and self._cut_at != error.quirk:
                self._cut_at = error.quirk
                return True
            await self._lessons.broken(error.quirk)
            self._world.journal.trouble(
                "once more without what the server did not keep",
                account=self._account.name,
                server=error.server,
                quirk=error.quirk,
                why=error.said,
            )
            return True
        if visit.blame is None and not visit.unclear:
            return False
        self._carefully = self._carefully or visit.unclear
        if visit.confirming > 1:
            # Rather the line than the message: less at a time gets on.
            self._confirm_most = max(1, visit.confirming // 8)
        elif visit.blame is not None:
            self._blamed = visit.blame, error.said
            self._world.journal.trouble(
                "a session broke at a message",
                account=self._account.name,
                number=visit.blame.number,
                uidl="" if visit.blame.key.startswith(" ") else visit.blame.key,
                why=error.said,
            )
        key = visit.blame.key if visit.blame and not visit.blame.deletes else None
        goes_on = self._breaks.goes_on(key, brought=visit.brought)
        if not goes_on:
            await self._count()
        return goes_on

    async def _written_down(self, visit: Visit, session: Session) -> None:
        """Remember what a session came to, however it ended."""
        ledger, name = self._world.ledger, self._account.name
        self.adopting = visit.adopt
        self.found = max(self.found, visit.found)
        self.fetched += visit.fetched
        if visit.listed:  # what it did not see again is gone
            self._deleted = visit.deleted
        self._still_there.update(visit.still_there)
        self._notes = visit.notes or self._notes
        self._failure = visit.failure or self._failure
        if visit.listed:
            await self._lessons.listed(session.quirks, visit.quirks)
        if new := self._troubles.to_record():
            await ledger.troubled(name, new)
        if over := self._troubles.to_forget():
            await ledger.settled(name, over)
