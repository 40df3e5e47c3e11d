"""State database and marks, on real files: when the marks follow, and what holds that up."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from services.fetcher.housekeeping import PATIENCE, Housekeeping
from services.fetcher.installation_check import EVERY, LOOK_EVERY, SOON, InstallationCheck
from services.marks import SPOOL_WITHIN, Marks
from shared.ledger import ADOPT
from shared.log import silent
from shared.mark import Mark, read
from shared.settings.load import load
from shared.settings.model import Settings
from shared.spool import Spool
from shared.state import State, new_owner
from tests.clock import ManualClock

OTHER = Mark("another", 7, 1_000_000.0)


class Journal:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.troubles: list[str] = []

    def trouble(self, what: str, /, **about: object) -> None:
        self.troubles.append(f"{what} {about}")


class Site:
    """An installation, and how much mail has come to it."""

    def __init__(self, settings: Settings, state: State, clock: ManualClock) -> None:
        self.journal = Journal()
        self.state = state
        self.clock = clock
        self.came = 0
        self.accounts = ["sales"]
        self.spool = Spool(settings.spool_url)
        self.marks = Marks(settings, self.spool, "fetcher", self.journal.trouble, clock)
        self.file = settings.queue_file.with_name(f"{settings.queue_file.name}.mark")

    def doubts(self) -> InstallationCheck:
        return InstallationCheck(
            self.state,
            self.marks,
            self.journal.trouble,
            self.clock,
            self.accounts,
            lambda: self.came,
        )

    def mark(self) -> Mark | None:
        return read(self.file.read_bytes()) if self.file.exists() else None

    def number(self) -> int:
        mark = self.mark()
        return 0 if mark is None else mark.number

    async def own(self) -> int:
        own = (await self.state.installation()).own
        return 0 if own is None else own.number


@pytest.fixture
async def site(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Site]:
    config = tmp_path / "connector.toml"
    config.write_text(f'data_dir = "{tmp_path}/data"\n[delivery]\nurl = "smtp://mail.example"\n')
    (tmp_path / "data" / "spool" / "tmp").mkdir(parents=True)
    settings = load(config, {})
    state = await State.open(settings.state_address(), owner=new_owner())
    yield Site(settings, state, clock)
    await state.close()


@contextlib.contextmanager
def hanging(path: Path) -> Iterator[None]:
    """Have whoever opens a file hang, as on a file system that is away, until the block ends."""
    os.mkfifo(path)
    try:
        yield
    finally:
        path.rename(path.with_name("hung"))
        with contextlib.suppress(OSError):  # nobody hangs
            os.close(os.open(path.with_name("hung"), os.O_WRONLY | os.O_NONBLOCK))


async def eventually(true: Callable[[], bool]) -> None:
    """Wait for what a thread does."""
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


async def waits(clock: ManualClock, seconds: float, task: asyncio.Task[None]) -> None:
    """Let time pass as soon as somebody waits for it; return when the task has ended."""
    await eventually(lambda: clock.sleepers > 0)
    await clock.advance(seconds)
    await task


async def test_the_marks_follow_within_a_minute_of_mail_and_else_hourly(site: Site) -> None:
    doubts = site.doubts()
    await doubts.check()
    assert site.number() == await site.own() == 1
    running = asyncio.create_task(doubts.run(asyncio.Event()))

    async def minutes_until(number: int) -> float:
        """Let minutes pass, each with what it begins, until the mark is there; return seconds."""
        begun = site.clock.monotonic()
        async with asyncio.timeout(60):
            while site.number() < number:
                await site.clock.advance(LOOK_EVERY)
                await asyncio.sleep(0.01)
        return site.clock.monotonic() - begun

    assert await minutes_until(2) > EVERY - LOOK_EVERY, "nothing has come"
    site.came += 1
    assert await minutes_until(3) < EVERY / 4
    assert await minutes_until(4) > EVERY / 2, "it has followed"
    running.cancel()


async def test_the_marks_follow_at_the_end_if_anything_came(site: Site) -> None:
    doubts = site.doubts()
    await doubts.check()
    await doubts.leave()
    assert site.number() == 1
    site.came += 3
    await doubts.leave()
    assert site.number() == await site.own() == 2


async def test_nothing_follows_while_the_operator_is_asked(site: Site) -> None:
    site.file.write_text(OTHER.text())
    doubts = site.doubts()
    await doubts.check()
    site.came += 1
    await doubts.leave()
    assert (site.mark(), await site.own(), doubts.held) == (OTHER, 0, 1)
    assert sum("accounts are held" in line for line in site.journal.troubles) == 1
    await site.state.choose(["sales"], ADOPT)
    running = asyncio.create_task(doubts.run(asyncio.Event()))
    await eventually(lambda: site.clock.sleepers > 0)
    await site.clock.advance(SOON)
    await eventually(lambda: site.number() == 1)
    running.cancel()


async def test_whoever_has_no_account_yet_does_not_take_the_mark_of_another(site: Site) -> None:
    site.accounts = []
    site.file.write_text(OTHER.text())
    for _ in range(3):
        await site.doubts().check()
    assert site.mark() == OTHER
    await site.state.choose([], ADOPT, ends=True)
    await site.doubts().check()
    assert site.number() == 1


async def test_a_spool_that_hangs_holds_nothing_up_and_is_not_taken_for_new(site: Site) -> None:
    doubts = site.doubts()
    await doubts.check()
    spool = site.file.parent / "spool"
    (spool / "ledger").unlink()
    with hanging(spool / "ledger"):
        await waits(site.clock, SPOOL_WITHIN, asyncio.create_task(doubts.check()))
        await doubts.check()
        assert site.number() == await site.own() == 3
        (said,) = site.journal.troubles
        assert "it has not answered within 10 seconds" in said
    await eventually(lambda: not site.marks.hangs)
    await doubts.check()
    assert "the blobs in the spool are new" in site.journal.troubles[-1]
    assert read((spool / "ledger").read_bytes()) == site.mark()


async def test_a_spool_that_hangs_does_not_hold_up_who_clears_it_away(site: Site) -> None:
    report = site.journal.trouble
    upkeep = Housekeeping([], site.state, site.spool, silent, report, site.clock, 90 * 86_400.0)
    with hanging(site.file.parent / "spool" / "tmp" / "draft"):
        await waits(site.clock, PATIENCE, asyncio.create_task(upkeep.begin()))
    (said,) = site.journal.troubles
    assert "unfinished blobs could not be discarded" in said
