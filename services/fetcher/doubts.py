"""An empty ledger is no licence: makes sure that the state database is that of the installation.

A ledger that is new, or as it was yesterday, looks as one that was never needed: all that lies at
the providers would be delivered again. So before anything is polled, what the database says of
itself is compared with marks that lie elsewhere, and where it is new, with what was delivered into
Maildirs. Where they do not go together, every account is held, and the operator is asked, once:
for each account, also for one that is configured later, as it may have been there before; or for
all.
Then the marks follow the database. It trusts the clock for words alone. Limits: where database,
queues and spool are all new, and mail goes to a server, there is nothing to tell it by; where all
were put back together, as they were at one moment, neither.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Final, Protocol

from shared.clock import Clock
from shared.errors import StateUnavailable
from shared.mark import Mark, doubt

LEASE: Final = "installation"
_TURN: Final = 0.2

EVERY: Final = 3_600.0
"""Seconds after which the marks are brought up to date, and an earlier database is noticed."""

SOON: Final = 10.0
"""Seconds to the next look while the operator is asked."""

ADVICE: Final = (
    "choose for each account, or for --all: pop3-connector account adopt NAME (what lies at its"
    " server now counts as delivered), or account fetch-again NAME --undelivered (what this state"
    " database does not know is fetched)"
)


class Installation(Protocol):
    """What the state database says of itself."""

    @property
    def own(self) -> Mark | None:
        """How far it has got; None where it never wrote that down."""

    @property
    def used(self) -> bool:
        """Whether it knows of any mail."""

    @property
    def asked(self) -> str | None:
        """What the operator was asked about."""

    @property
    def marked(self) -> str | None:
        """Places that took its last mark."""


class Ledger(Protocol):
    """The state database. Every call may raise StateUnavailable."""

    async def lease(self, name: str) -> bool:
        """Take a lease; return whether it is ours."""

    async def release(self, name: str) -> None:
        """Give a lease up."""

    async def installation(self) -> Installation:
        """Return what it says of itself."""

    async def note(self, *, beyond: int = 0) -> Mark:
        """Get on, beyond a number; return how far. Nothing is asked any more."""

    async def asked(self, marks: str) -> None:
        """Record what the operator is asked about."""

    async def marked(self, places: str) -> None:
        """Record the places that took the last mark."""

    async def hold(self, accounts: Sequence[str], why: str) -> None:
        """Have these accounts not polled, nor any other, also if it is not known yet."""

    async def enrol(self, accounts: Sequence[str]) -> None:
        """Have these known; those that were not are held where the database was doubted."""

    async def held(self, accounts: Sequence[str]) -> int:
        """Return how many of these are held."""


class Marks(Protocol):
    """The marks elsewhere."""

    async def read(self) -> Sequence[tuple[str, Mark]]:
        """Return them, each with the words for its place."""

    async def write(self, mark: Mark) -> Sequence[str]:
        """Write one wherever that works; return these places."""

    def delivered(self, accounts: Sequence[str]) -> str | None:
        """Return why accounts are known to have delivered mail before; blocking."""


class Journal(Protocol):
    """Told what is wrong."""

    def trouble(self, what: str, /, **about: object) -> None:
        """Something is wrong."""


class Doubts:
    """Compares state database and marks: at the start, and every hour.

    Args:
        ledger: the state database.
        marks: elsewhere.
        journal: told of what does not go together.
        clock: the time.
        accounts: the names of all that are configured.

    Attributes:
        held: how many accounts are held, when it looked last.
    """

    def __init__(
        self,
        ledger: Ledger,
        marks: Marks,
        journal: Journal,
        clock: Clock,
        accounts: Sequence[str],
    ) -> None:
        self._ledger = ledger
        self._marks = marks
        self._journal = journal
        self._clock = clock
        self._accounts = accounts
        self.held = 0

    def warnings(self) -> Sequence[str]:
        """Return that accounts are not polled, if that is so; the others are."""
        if not self.held:
            return ()
        accounts = "1 account is" if self.held == 1 else f"{self.held} accounts are"
        return (f"{accounts} held: see pop3-connector accounts",)

    async def run(self, stop: asyncio.Event) -> None:
        """Look again, until ``stop`` is set."""
        while not stop.is_set():
            await self._clock.sleep(SOON if self.held else EVERY)
            try:
                before = self.held
                if before:
                    self.held = await self._ledger.held(self._accounts)
                if not before or not self.held:
                    await self.check()
            except StateUnavailable as error:
                self._journal.trouble("the state database could not be compared", why=error)

    async def check(self) -> None:
        """Compare, and have the accounts held where they must not be polled.

        Raises:
            StateUnavailable: nobody knows.
        """
        while not await self._ledger.lease(LEASE):
            await self._clock.sleep(_TURN)
        try:
            await self._compare()
        finally:
            await self._ledger.release(LEASE)
        await self._ledger.enrol(self._accounts)
        self.held = await self._ledger.held(self._accounts)
        if self.held:
            self._journal.trouble("accounts are held", held=self.held, advice=ADVICE)

    async def _compare(self) -> None:
        standing = await self._ledger.installation()
        found = await self._marks.read()
        own = standing.own
        why = doubt(own, standing.used, found)
        if why is None and own is None and not standing.used:
            why = await asyncio.to_thread(self._marks.delivered, self._accounts)
        if why is None:
            self._tell_what_is_gone(standing, found)
        else:
            about = json.dumps(sorted({mark.state for _, mark in found}))
            if standing.asked != about:
                self._journal.trouble(f"nothing is polled: {why}")
                await self._ledger.hold(self._accounts, why)
                await self._ledger.asked(about)
                return
            if await self._ledger.held(self._accounts):
                return
        ours = [mark.number for _, mark in found if own is not None and mark.state == own.state]
        mark = await self._ledger.note(beyond=max(ours, default=0))
        places = json.dumps(await self._marks.write(mark))
        if places != standing.marked:
            await self._ledger.marked(places)

    def _tell_what_is_gone(self, standing: Installation, found: Sequence[tuple[str, Mark]]) -> None:
        """Say where a mark is gone: what waited in those queues was fetched, and never comes."""
        there = {where for where, _ in found}
        for where in json.loads(standing.marked or "[]"):
            if where not in there:
                self._journal.trouble(
                    f"{where} are new, and the state database is not: what they held is gone. If it"
                    " is still at the providers: pop3-connector account fetch-again --all"
                    " --undelivered"
                )
