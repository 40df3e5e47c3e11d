"""An empty ledger is no licence: makes sure that the state database is that of the installation.

A ledger that is new, or as it was yesterday, looks as one that was never needed: all that lies at
the providers would be delivered again. So before anything is polled, what the database says of
itself is compared with marks that lie elsewhere, and where it is new, with what was delivered into
Maildirs. Where they do not go together, every account is held, and the operator is asked, once:
for each account, also for one that is configured later, as it may have been there before; or for
all. With the first choice the database is taken as it is: who is held is written in it.
Then the marks follow the database: at each start, at an orderly end, at most a minute after
something came, and every hour. They are written last, so that a mark is never ahead of its
database. It trusts the clock for words alone.

Known limits: where database, queues and spool are all new, and mail goes to a server, there is
nothing to tell it by; where all were put back together, as they were at one moment, neither; nor
where an earlier database is put back after a kill, within a minute of the mail that it lacks.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from shared.clock import Clock
from shared.daemon_thread import answer_within
from shared.errors import StateUnavailable
from shared.log import Report
from shared.mark import Mark, doubt
from shared.waiting import any_of, until_there

LEASE_NAME: Final = "installation"
_TURN: Final = 0.2

EVERY: Final = 3_600.0
"""Seconds after which the marks are brought up to date, and an earlier database is noticed."""

LOOK_EVERY: Final = 60.0
"""Seconds between two looks whether anything came; then that is done at once."""

FAREWELL: Final = 5.0
"""Seconds that it may take at the end: the broker may be away."""

SOON: Final = 10.0
"""Seconds to the next look while the operator is asked."""

ADVICE: Final = (
    "choose for each account, or for --all: pop3-connector account adopt NAME (what lies at its"
    " server now counts as delivered), or account fetch-again NAME --undelivered (what this state"
    " database does not know is fetched); where mail seemed to come all over again, account release"
    " NAME [--skip]"
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

    @property
    def chosen(self) -> bool:
        """Whether the operator has chosen for some account since it was asked, or for all."""


class StateDatabase(Protocol):
    """The state database. Every call may raise StateUnavailable."""

    async def lease(self, name: str) -> bool:
        """Take a lease; return whether it is ours."""

    async def release(self, name: str) -> None:
        """Give a lease up."""

    async def installation(self) -> Installation:
        """Return what it says of itself."""

    async def advance(self, *, beyond: int = 0) -> Mark:
        """Get on, beyond a number; return how far. Nothing is asked any more."""

    async def record_asked(self, marks: str) -> None:
        """Record what the operator is asked about."""

    async def record_marked(self, places: str) -> None:
        """Record the places that took the last mark."""

    async def hold(self, accounts: Sequence[str], why: str) -> None:
        """Have these accounts not polled, nor any other, also if it is not known yet."""

    async def enrol(self, accounts: Sequence[str]) -> None:
        """Have these known; those that were not are held where the database was doubted."""

    async def count_held(self, accounts: Sequence[str]) -> int:
        """Return how many of these are held."""


class MarkStore(Protocol):
    """The marks elsewhere."""

    async def read(self) -> Mapping[str, Mark | None]:
        """Return them by the words for their places; None where there is none."""

    async def write(self, mark: Mark) -> Sequence[str]:
        """Write one wherever that works; return these places."""

    def delivered(self, accounts: Sequence[str]) -> str | None:
        """Return why accounts are known to have delivered mail before; blocking."""


class InstallationCheck:
    """Compares state database and marks, and has the marks follow.

    Args:
        ledger: the state database.
        marks: elsewhere.
        report: told of what does not go together.
        clock: the time.
        accounts: the names of all that are configured.
        came: tells how much mail has come since the start, recorded in the ledger.

    Attributes:
        held: how many accounts are held, when it looked last.
    """

    def __init__(
        self,
        ledger: StateDatabase,
        marks: MarkStore,
        report: Report,
        clock: Clock,
        accounts: Sequence[str],
        came: Callable[[], int],
    ) -> None:
        self._ledger = ledger
        self._marks = marks
        self._report = report
        self._clock = clock
        self._accounts = accounts
        self._came = came
        self._compared = came()
        self._compared_at = clock.monotonic()
        self._told = 0
        self.held = 0

    def note_held(self) -> None:
        """Take note that one more account is held; they are counted soon."""
        self.held += 1

    def warnings(self) -> Sequence[str]:
        """Return that accounts are not polled, if that is so; the others are."""
        if not self.held:
            return ()
        accounts = "1 account is" if self.held == 1 else f"{self.held} accounts are"
        return (f"{accounts} held: see pop3-connector accounts",)

    async def run(self, stop: asyncio.Event) -> None:
        """Look again, until ``stop`` is set."""
        while not stop.is_set():
            await self._clock.sleep(SOON if self.held else LOOK_EVERY)
            try:
                await self._look()
            except StateUnavailable as error:
                self._report("the state database could not be compared", why=error)

    async def _look(self) -> None:
        before = self.held
        if before:
            self.held = await self._ledger.count_held(self._accounts)
        waited = self._clock.monotonic() - self._compared_at
        came = self._came() != self._compared and waited >= LOOK_EVERY
        if before != self.held or came or waited >= EVERY:
            await self.check()

    async def begin(self) -> None:
        """Compare before anything is polled; a state database that is away is waited for."""
        await until_there(
            self.check,
            any_of(StateUnavailable),
            self._report,
            "waiting for the state database",
        )

    async def check(self) -> None:
        """Compare, and have the accounts held where they must not be polled.

        Raises:
            StateUnavailable: nobody knows.
        """
        await self._compare_alone()
        await self._ledger.enrol(self._accounts)
        self.held = await self._ledger.count_held(self._accounts)
        if self.held and self.held != self._told:
            self._report("accounts are held", held=self.held, advice=ADVICE)
        self._told = self.held

    async def leave(self) -> None:
        """Have the marks follow once more, if anything came since, when nothing comes any more."""
        if self._came() == self._compared:
            return
        last = asyncio.ensure_future(self._compare_alone())
        try:
            await answer_within(self._clock, FAREWELL, last)
        except (StateUnavailable, TimeoutError) as error:
            last.cancel()
            why = str(error) or f"it took longer than {FAREWELL:g} seconds"
            self._report("the marks of the state database are not up to date", why=why)

    async def _compare_alone(self) -> None:
        """Compare, one fetcher at a time."""
        while not await self._ledger.lease(LEASE_NAME):
            await self._clock.sleep(_TURN)
        try:
            await self._compare()
        finally:
            await self._ledger.release(LEASE_NAME)

    async def _compare(self) -> None:
        came = self._came()
        standing = await self._ledger.installation()
        found = await self._marks.read()
        there = [(where, mark) for where, mark in found.items() if mark is not None]
        own = standing.own
        why = doubt(own, standing.used, there)
        if why is None and own is None and not standing.used:
            why = await asyncio.to_thread(self._marks.delivered, self._accounts)
        follows = why is None
        if why is not None:
            follows = await self._ask_once(why, standing, there)
        if follows:
            self._tell_what_is_gone(standing, found)
            await self._follow(standing, found)
        self._compared, self._compared_at = came, self._clock.monotonic()

    async def _ask_once(
        self, why: str, standing: Installation, there: Sequence[tuple[str, Mark]]
    ) -> bool:
        """Ask the operator, once; return whether that was answered for some account.

        Then the database is the one to go on with, and the marks follow it, or the next one that is
        put back would not be noticed. The other accounts are held by the database itself.
        """
        about = json.dumps(sorted({mark.state for _, mark in there}))
        if standing.asked == about:
            return standing.chosen
        self._report(f"nothing is polled: {why}")
        await self._ledger.hold(self._accounts, why)
        await self._ledger.record_asked(about)
        return False

    async def _follow(self, standing: Installation, found: Mapping[str, Mark | None]) -> None:
        """Get on in the database, and then in the marks: whenever this is killed, none is ahead."""
        own = standing.own
        ours = [m.number for m in found.values() if m and own and m.state == own.state]
        mark = await self._ledger.advance(beyond=max(ours, default=0))
        before = json.loads(standing.marked or "[]")
        kept = [where for where in before if where not in found]  # nobody could ask there
        places = json.dumps(sorted({*await self._marks.write(mark), *kept}))
        if places != standing.marked:
            await self._ledger.record_marked(places)

    def _tell_what_is_gone(self, standing: Installation, found: Mapping[str, Mark | None]) -> None:
        """Say where a mark is gone: what waited in those queues was fetched, and never comes."""
        for where in json.loads(standing.marked or "[]"):
            if where in found and found[where] is None:
                self._report(
                    f"{where} are new, and the state database is not: what they held is gone. If it"
                    " is still at the providers: pop3-connector account fetch-again --all"
                    " --undelivered"
                )
