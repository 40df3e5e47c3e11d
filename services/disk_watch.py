"""Watches the disks of a process: says when there is too little room, and sees to the reserves.

Each database file has a reserve beside it, which is given up when its disk is full: what was
fetched is delivered then, and that makes room. A look every second is enough, because whoever could
not write tries again. At the start it comes first: a full disk would not even let a file be opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from shared.clock import Clock
from shared.disk.space import Reserve, Room
from shared.log import MailLog
from shared.settings.model import Settings
from shared.supervision import supervise

LOOK_EVERY: Final = 1.0
"""Seconds between two looks."""

AGAIN: Final = 3_600.0
"""Seconds after which it is said once more that nothing is fetched."""

RESERVE: Final = "reserve"
"""The name of the file that is a reserve."""


def databases(settings: Settings) -> list[Path]:
    """Return the SQLite files that these settings lead to."""
    files = [settings.queue_file] if settings.broker.embedded else []
    if settings.state.url is None:
        files.append(settings.data_dir / "state.db")
    elif settings.state.url.scheme == "sqlite":
        # Not at the top: who has no such URL needs no SQLAlchemy for this.
        from shared.state.database import file_of

        if (file := file_of(settings.state.url.reveal())) is not None:
            files.append(file)
    return files


def room_of(settings: Settings) -> Room:
    """Return what tells how much room there is on the disks that fetched mail comes to lie on."""
    places = databases(settings)
    spool = settings.spool_url
    if "://" not in spool or spool.startswith("file://"):
        places.append(Path(spool.removeprefix("file://")))
    return Room(list(dict.fromkeys(p.absolute().parent for p in places)), settings.limits.min_free)


@asynccontextmanager
async def watch_disks(
    settings: Settings, room: Room, stuck: Callable[[], bool], log: MailLog, clock: Clock
) -> AsyncGenerator[None, None]:
    """Watch the disks until the block ends.

    Args:
        settings: the configuration.
        room: says whether enough is free.
        stuck: whether the broker cannot write just now.
        log: is told.
        clock: the time.
    """
    folders = dict.fromkeys(file.absolute().parent for file in databases(settings))
    reserves = [Reserve(folder / RESERVE, settings.limits.min_free) for folder in folders]
    watch = DiskWatch(room, reserves, stuck, log, clock)
    await watch.look()
    watching = supervise(watch.run, "looks at the room on the disks", clock)
    try:
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        for reserve in reserves:
            reserve.give_up()


class DiskWatch:
    """Looks at the disks again and again.

    Args:
        room: says whether enough is free.
        reserves: beside the databases.
        stuck: whether the broker cannot write just now.
        log: is told.
        clock: the time.
    """

    def __init__(
        self,
        room: Room,
        reserves: list[Reserve],
        stuck: Callable[[], bool],
        log: MailLog,
        clock: Clock,
    ) -> None:
        self._room = room
        self._reserves = reserves
        self._stuck = stuck
        self._log = log
        self._clock = clock
        self._tell_at: float | None = None

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self._clock.sleep(LOOK_EVERY)
            await self.look()

    async def look(self) -> None:
        """See to the reserves, and say what has changed."""
        for reserve in self._reserves:
            if await asyncio.to_thread(reserve.see_to_it, stuck=self._stuck()):
                self._log.trouble("the disk is full: the reserve was released")
        self._tell(self._room.lacking())

    def _tell(self, lacking: str | None) -> None:
        now = self._clock.monotonic()
        if lacking is None and self._tell_at is not None:
            self._tell_at = None
            self._log.note("enough disk space again: fetching resumes")
        elif lacking is not None and (self._tell_at is None or now >= self._tell_at):
            self._tell_at = now + AGAIN
            self._log.trouble("disk space is low: fetching is paused", why=lacking)
