"""Two hours of a house with many accounts, in which everything happens that may be unfair to some.

It begins at six. Most accounts are at one large provider, where some hang, and one has its first
synchronisation. Others are polled by office hours, which begin at seven, some ask for more mail
sooner while it comes, some are at a provider with LOGIN-DELAY. One of three fetchers is killed,
another is started, and in the end all accounts are to be fetched now.
"""

import asyncio
import tempfile
from collections import Counter, defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import time
from itertools import count
from pathlib import Path

from services.fetcher.account import Account
from services.fetcher.pop3.login import Login
from shared.timetable import Rule, Timetable
from tests.simulation.house import House
from tests.simulation.loop import PROCESS, LoopClock, SimulatedLoop, simulate
from tests.simulation.maildrops import Maildrop, Provider, served

SIX = 1_796_104_800.0
"""In the morning of a Tuesday (UTC)."""

MINUTE = 60.0
HANGING = 20
KILLED, ADDED, OPENING, NOW, END = (minutes * MINUTE for minutes in (25, 45, 60, 90, 120))

LARGE, DELAYING = 1, 2
UNSOUND = ("hangs", "first")


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        accounts: that are sound.
        every: seconds from one poll to the next; a fifth of it where there is more to come soon,
            three times as long where the server wants that.
        first: messages of the first synchronisation.
        bytes_each: of these.
        pace: seconds that the provider takes for each.
        latency: seconds that the large provider takes for each answer.
        connections: at it, of each fetcher.
    """

    accounts: int
    every: float
    first: int
    bytes_each: int
    pace: float
    latency: float
    connections: int


@dataclass
class Findings:
    """What came of it; times in seconds.

    Attributes:
        late: of each poll, how long after its account was due it began, by kind of account.
        overdue: for how long accounts were due that waited at the end.
        polls: sessions that logged in.
        doubles: maildrops that had two at once.
        unleased: logins of a fetcher that had not the lease, or not alone.
        early: logins before LOGIN-DELAY was over.
        never: sound accounts that were not polled at all.
        first_left: messages of the first synchronisation that did not come.
        first_took: until the last session began that had any.
        opening: when accounts with office hours were polled, since these began.
        all_took: until the last account was polled, since all were to be fetched now.
        said: how often the fetchers said what.
    """

    late: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    overdue: list[float] = field(default_factory=list)
    polls: int = 0
    doubles: int = 0
    unleased: int = 0
    early: int = 0
    never: int = 0
    first_left: int = 0
    first_took: float = 0.0
    opening: list[float] = field(default_factory=list)
    all_took: float = 0.0
    said: Counter[str] = field(default_factory=Counter)


class Day:
    """The accounts, their servers, and what happens.

    Args:
        size: how many.
        folder: for the state database and the queues.
        loop: whose time it is.
    """

    def __init__(self, size: Size, folder: Path, loop: SimulatedLoop) -> None:
        self._size = size
        self._loop = loop
        self._clock = LoopClock(loop, SIX)
        self._accounts: dict[str, Account] = {}
        self._kinds: dict[str, str] = {}
        self._providers: dict[int, Provider] = defaultdict(Provider)
        self._providers[LARGE] = Provider(latency=size.latency)
        self._providers[DELAYING] = Provider(login_delay=3 * size.every)
        self._add_all()
        self._house = House(folder, self._accounts, self._clock, size.connections)
        self._asked_now: set[str] = set()
        self.found = Findings()

    def _add_all(self) -> None:
        size = self._size
        office = (Rule(size.every, frozenset(range(5)), time(7), time(19)), Rule(1_800.0))
        for number in range(size.accounts):
            name, small = f"account {number:05}", 1_000 + number % 211
            if number % 20 == 0:
                self._add(name, "soonest", small if number % 40 else LARGE, soonest=size.every / 5)
            elif number % 20 == 1:
                self._add(name, "delayed", DELAYING)
            elif number % 20 < 14:
                self._add(name, "large", LARGE)
            else:
                self._add(name, "office", small, table=Timetable(office))
        for number in range(HANGING):
            where = LARGE if number < HANGING // 2 else 2_000 + number
            self._add(f"hangs {number}", "hangs", where)
            drop = self._providers[where].maildrops[f"hangs {number}"]
            drop.hangs = "greeting" if number % 2 else "login"
        self._add("first", "first", LARGE)
        drop = self._providers[LARGE].maildrops["first"]
        drop.uidls = [f"{number:06}" for number in range(size.first)]
        drop.size, drop.pace = size.bytes_each, size.pace

    def _add(
        self,
        name: str,
        kind: str,
        port: int,
        *,
        table: Timetable | None = None,
        soonest: float | None = None,
    ) -> None:
        login = Login("127.0.0.1", port, "none", name, lambda: "secret")
        table = table or Timetable.always(self._size.every)
        self._accounts[name] = Account(name, login, table, 0.0, soonest=soonest)
        self._kinds[name] = kind
        self._providers[port].maildrops[name] = Maildrop()

    async def run(self) -> Findings:
        """Let it happen."""
        house = self._house
        with served(self._providers, self._note_login):
            house.take_in()
            _, second, _ = (house.start(f"fetcher {number}") for number in range(3))
            sending = asyncio.create_task(self._send_mail())
            await self._until(KILLED)
            second.kill()
            await self._until(ADDED)
            house.start("fetcher 3")
            await self._until(NOW)
            await self._ask_for_all()
            await self._until(END)
            sending.cancel()
            self._note_end()
            house.end()
            await asyncio.sleep(1.0)
        return self.found

    async def _until(self, moment: float) -> None:
        await asyncio.sleep(moment - self._loop.time())

    async def _send_mail(self) -> None:
        """Send mail each minute to who is polled sooner while it comes, and to a few others."""
        drops = {name: p.maildrops[name] for p in self._providers.values() for name in p.maildrops}
        eager = [name for name, kind in self._kinds.items() if kind == "soonest"]
        others = [name for name, kind in self._kinds.items() if kind in ("large", "office")]
        for minute in count():
            for name in (*eager, *others[minute % 60 :: 60]):
                drops[name].uidls.append(f"{name}-{minute}")
            await asyncio.sleep(MINUTE)

    async def _ask_for_all(self) -> None:
        """Do as ``account fetch-now --all`` does."""
        state = await self._house.state("operator")
        await state.fetch_now(list(self._accounts))
        await state.close()
        now = self._clock.now()
        self._asked_now = {
            name
            for name, due in self._house.due.items()  # else it is being polled
            if self._kinds[name] not in (*UNSOUND, "delayed") and due > now
        }
        self._house.due.update(dict.fromkeys(self._asked_now, now))

    def _note_login(self, name: str) -> None:
        found, kind, now = self.found, self._kinds[name], self._clock.now()
        found.polls += 1
        if self._house.leased_by(name) != [PROCESS.get()]:
            found.unleased += 1
        due = self._house.due.pop(name, None)  # of a further session of the same poll, none
        if due is not None and kind != "delayed" and name not in self._asked_now:
            found.late[kind].append(now - due)
        since = now - SIX - OPENING
        if kind == "office" and 0 <= since < self._size.every:
            found.opening.append(since)
        if kind == "first" and self._providers[LARGE].maildrops[name].uidls:
            found.first_took = self._loop.time()
        if name in self._asked_now:
            self._asked_now.remove(name)
            found.all_took = self._loop.time() - NOW

    def _note_end(self) -> None:
        found, now = self.found, self._clock.now()
        found.overdue = [
            now - due
            for name, due in self._house.due.items()
            if due < now and self._kinds[name] not in UNSOUND
        ]
        drops = [drop for p in self._providers.values() for drop in p.maildrops.values()]
        found.doubles = sum(drop.most > 1 for drop in drops)
        found.early = sum(drop.early for drop in drops)
        found.never = sum(
            not self._providers[a.login.port].maildrops[n].logins
            for n, a in self._accounts.items()
            if self._kinds[n] not in UNSOUND
        )
        first = self._providers[LARGE].maildrops["first"]
        found.first_left = len(first.uidls)
        found.said = self._house.said


def live(size: Size) -> Findings:
    """Let such a day happen, in memory where there is a file system of memory."""

    def main(loop: SimulatedLoop) -> Coroutine[None, None, Findings]:
        return Day(size, Path(folder), loop).run()

    memory = Path("/dev/shm")  # of each transaction only the sync would be waited for
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        return simulate(main)
