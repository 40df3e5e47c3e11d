"""A suspect by itself: a process of its own from the first moment to the last, few at a time.

What ends the process there has not been another message. Three crashes in a row, and it is given
up; a process that does not start is no crash: who waits for it is put off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from shared.clock import Clock
from shared.log import MailLog
from shared.settlement import Settlement
from shared.trial import Ended, NotHandedOver, NotStarted
from shared.trial.side_by_side import Answered, Postpone, Spawn, Suspect
from shared.trial.starter import PAUSE, ProcessStarter

AT_A_TIME: Final = 2
CRASHES: Final = 3
"""Crashes in a row that a message is given up for."""


class IsolatedTrials:
    """Tries suspects by themselves.

    Args:
        starts: starts processes.
        answered: is told what follows.
        put_off: is told of one for which no process starts, or that none can be handed.
        convict: says what follows from one that crashes its process, in the words for how.
        spawn: starts tasks that are waited for when the stage ends.
        clock: times the pause between two crashes.
        log: is told of each.
    """

    def __init__(
        self,
        starts: ProcessStarter,
        answered: Answered,
        put_off: Postpone,
        convict: Callable[[Suspect, str], Settlement],
        spawn: Spawn,
        clock: Clock,
        log: MailLog,
    ) -> None:
        self._starts = starts
        self._answered = answered
        self._put_off = put_off
        self._convict = convict
        self._spawn = spawn
        self._clock = clock
        self._log = log
        self._places = asyncio.Semaphore(AT_A_TIME)
        self._waiting: dict[Suspect, asyncio.Task[None]] = {}  # those nobody has in hand

    def take(self, suspect: Suspect) -> None:
        """Try one."""
        self._waiting[suspect] = self._spawn(self._try(suspect))

    def stop(self) -> int:
        """Start no further trial; return how many waited for one."""
        for task in self._waiting.values():
            task.cancel()
        return len(self._waiting)

    async def _try(self, suspect: Suspect) -> None:
        task = self._waiting[suspect]
        try:
            async with self._places:
                follows = await self._try_until_convicted(suspect, task)
        except (NotStarted, NotHandedOver):
            self._put_off(suspect)
            return
        finally:
            self._waiting.pop(suspect, None)
        self._answered(suspect, follows)

    async def _try_until_convicted(self, suspect: Suspect, task: asyncio.Task[None]) -> Settlement:
        while True:
            process = await self._starts.process()
            try:
                del self._waiting[suspect]
                return await process.handle(suspect.delivery, suspect.tell)
            except NotHandedOver:
                raise
            except Ended as error:
                self._waiting[suspect] = task
                suspect.crashes += 1
                self._tell(suspect, str(error))
                if suspect.crashes >= CRASHES:
                    return self._convict(suspect, str(error))
            finally:
                await process.close()
            await self._clock.sleep(PAUSE)

    def _tell(self, suspect: Suspect, how: str) -> None:
        what = "a message crashed the process that tried it alone"
        self._log.trouble(what, id=suspect.delivery.message_id, how=how, times=suspect.crashes)
