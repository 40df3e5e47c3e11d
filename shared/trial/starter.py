"""Starts of processes for one stage's suspects: tried again with pauses, but nobody waits for ever.

What keeps a process from starting concerns all alike: a configuration that was changed, no memory,
somebody who kills each. So all lines start theirs here. After some tries in vain they are told so,
and let their suspects go; from then on a process is tried when somebody comes after the pause.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shared.backoff import Backoff
from shared.clock import Clock
from shared.log import MailLog
from shared.trial import NotStarted, Start, TrialProcess

PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0
"""Seconds until a process is started again that could not be, or in which a message was alone."""

TRIES: Final = 4
"""Failed starts in a row after which suspects are put off."""

WARN_AFTER: Final = 60.0
"""Seconds without a process after which somebody should look."""


class ProcessStarter:
    """Starts processes, and knows whether they do start.

    Args:
        start: starts one.
        clock: times the pauses.
        log: is told of each that does not start.
    """

    def __init__(self, start: Start, clock: Clock, log: MailLog) -> None:
        self._start = start
        self._clock = clock
        self._log = log
        self._failed = 0
        self._backoff = Backoff(clock, PAUSE, LONGEST_PAUSE)
        self._next = self._since = 0.0  # by the monotonic clock
        self._why = ""

    async def process(self) -> TrialProcess:
        """Return a process.

        Raises:
            NotStarted: there is none, after some tries.
        """
        while True:
            if (left := self._next - self._clock.monotonic()) > 0:
                self._give_up()
                await self._clock.sleep(left)
                continue
            try:
                process = await self._start()
            except NotStarted as error:
                self._note(str(error))
                self._give_up()
                continue
            self._failed = 0
            self._backoff.reset()
            return process

    @property
    def untried(self) -> float:
        """Seconds for which no process has started, 0 while one does; from any thread."""
        return self._clock.monotonic() - self._since if self._failed else 0.0

    def warnings(self) -> Sequence[str]:
        """Return that suspects cannot be tried, if that is so for long; from any thread."""
        seconds = self.untried
        if seconds < WARN_AFTER:
            return ()
        what = f"the process that tries suspects has not started for {seconds:.0f} s: {self._why}"
        return (f"{what}; suspects wait in a retry tier",)

    def _give_up(self) -> None:
        if self._failed >= TRIES:
            raise NotStarted(self._why)

    def _note(self, why: str) -> None:
        now = self._clock.monotonic()
        if not self._failed:
            self._since = now
        self._failed, self._why = self._failed + 1, why
        self._next = now + self._backoff.next_pause()
        self._log.trouble("the process that tries suspects does not start; they wait", why=why)
