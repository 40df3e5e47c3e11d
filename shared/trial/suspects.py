"""Which suspects are tried with whom, and what it means when their process ends.

Three lines. In the first many are tried side by side: nearly all of them are sound, there may be
thousands after a restart of the broker, and those for a server that hangs must not hold up others.
If that process ends, each that was in its first moments there goes to the second line, where one is
in its first moments at a time. Who is there when that process ends, goes to the third, and so does
who was in hand at the end of three processes, as what crashes late. There each has a process of its
own to its end, few at a time. Three crashes in a row there, and the message is convicted.

Where no process starts, suspects are put off: they wait somewhere else, and come again, so that
sound mail is not held up by those that wait here.

So no message is given up for what others do: a neighbour that crashes, somebody who kills. One that
is goes to quarantine as it is, and is not read for that: reading it may be what crashes. What an
operator sees of it was read where it was tried, as far as it came.

Known limit: who kills three processes in a row with the same message alone in them has it given up.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from shared.broker import Delivery
from shared.clock import Clock
from shared.log import MailLog
from shared.settlement import Settlement, undecodable
from shared.stage import Stage
from shared.trial import Start, hand_outs, kept_headers
from shared.trial.isolated import IsolatedTrials
from shared.trial.side_by_side import ProcessEnded, SideBySideTrials, Spawn, Suspect
from shared.trial.starter import ProcessStarter

SUSPECT: Final = 2
"""Hand-outs without a settlement that make a message a suspect."""

ABREAST: Final = 32
"""Suspects that are in their first moments side by side, while none has crashed."""

ENDS: Final = 3
"""Ends of processes that a message was in beyond its first moments; then it is tried by itself."""

REMEMBERED: Final = 1000
"""Messages that were given up, of which copies are suspects."""

Settle: TypeAlias = Callable[[Delivery, Settlement], None]
"""Takes what follows from a delivery."""


class Suspects:
    """All suspects of one stage.

    Args:
        stage: which one.
        start: starts a process that handles messages of this stage.
        settle: is told what follows from each.
        put_off: is told of each that cannot be tried now, and is to come again later.
        spawn: starts tasks that are waited for when the stage ends.
        watch: is told of each other task that ends, in case it failed.
        clock: the time.
        log: is told of crashes, and of a process that does not start.
    """

    def __init__(
        self,
        stage: Stage,
        start: Start,
        settle: Settle,
        put_off: Callable[[Delivery], None],
        spawn: Spawn,
        watch: Callable[[asyncio.Task[None]], None],
        clock: Clock,
        log: MailLog,
    ) -> None:
        self._stage = stage
        self._settle = settle
        self._put_off = put_off
        self._starts = starts = ProcessStarter(start, clock, log)
        self._watch = watch
        self._clock = clock
        self._log = log
        self._ids: Counter[str] = Counter()  # of those that are waiting or in hand
        self._given_up: OrderedDict[str, None] = OrderedDict()
        self._stopped = False

        def line(width: int, ended: ProcessEnded) -> SideBySideTrials:
            return SideBySideTrials(
                width, starts, self._settle_answered, self._later, ended, spawn, clock
            )

        self._abreast = line(ABREAST, self._among_many)
        self._single = line(1, self._alone_at_first)
        self._alone = IsolatedTrials(
            starts, self._settle_answered, self._later, self._convict, spawn, clock, log
        )
        self._running: dict[SideBySideTrials, asyncio.Task[None]] = {}

    def concerns(self, delivery: Delivery) -> bool:
        """Return whether a message is a suspect, or a copy of one.

        A copy was fetched anew, as the fetcher died with the one that crashed its process.
        """
        id_ = delivery.message_id
        return hand_outs(delivery) >= SUSPECT or id_ in self._ids or id_ in self._given_up

    @property
    def any(self) -> bool:
        """Whether a message may be a copy of a suspect."""
        return bool(self._ids or self._given_up)

    def take(self, delivery: Delivery) -> None:
        """Try a message."""
        self._ids[delivery.message_id] += 1
        self._put(self._abreast, Suspect(delivery))

    @property
    def untried(self) -> float:
        """Seconds for which suspects cannot be tried, 0 while they can; from any thread."""
        return self._starts.untried

    def warnings(self) -> Sequence[str]:
        """Return that suspects cannot be tried, if that is so for long; from any thread."""
        return self._starts.warnings()

    def stop(self) -> int:
        """Start no further trial; return how many wait for one, and are left to the broker."""
        self._stopped = True
        return sum(trials.stop() for trials in (self._abreast, self._single, self._alone))

    async def close(self) -> None:
        """End the processes, with what they have in hand."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    def _put(self, trials: SideBySideTrials | IsolatedTrials, suspect: Suspect) -> None:
        if self._stopped:
            return
        if isinstance(trials, IsolatedTrials):
            trials.take(suspect)
            return
        trials.put(suspect)
        running = self._running.get(trials)
        if running is None or running.done():
            self._running[trials] = task = asyncio.create_task(trials.run())
            task.add_done_callback(self._watch)

    def _settle_answered(self, suspect: Suspect, follows: Settlement) -> None:
        self._forget(suspect.delivery.message_id)
        self._settle(suspect.delivery, follows)

    def _later(self, suspect: Suspect) -> None:
        self._forget(suspect.delivery.message_id)
        self._put_off(suspect.delivery)

    def _forget(self, id_: str) -> None:
        self._ids[id_] -= 1
        if not self._ids[id_]:
            del self._ids[id_]

    def _convict(self, suspect: Suspect, how: str) -> Settlement:
        """Give a message up; return what follows.

        Args:
            suspect: the message, which has crashed its process.
            how: how the last one has ended.
        """
        self._given_up[suspect.delivery.message_id] = None
        if len(self._given_up) > REMEMBERED:
            self._given_up.popitem(last=False)
        reason = f"it crashed its process {suspect.crashes} times, alone in it: {how}"
        return _quarantined(self._stage, suspect, reason, self._clock.now())

    def _among_many(self, how: str, young: list[Suspect], others: list[Suspect]) -> None:
        self._tell(how, len(young) + len(others))
        for suspect in young:
            self._put(self._single if len(young) > 1 else self._alone, suspect)
        self._once_more(self._abreast, others)

    def _alone_at_first(self, how: str, young: list[Suspect], others: list[Suspect]) -> None:
        self._tell(how, len(young) + len(others))
        for suspect in young:
            self._put(self._alone, suspect)
        self._once_more(self._single, others)

    def _once_more(self, trials: SideBySideTrials, suspects: list[Suspect]) -> None:
        """Try again what had lived through its first moments, but not for ever."""
        for suspect in suspects:
            suspect.ends += 1
            self._put(self._alone if suspect.ends >= ENDS else trials, suspect)

    def _tell(self, how: str, suspects: int) -> None:
        what = "a process that tried suspects has ended; they are tried again"
        self._log.trouble(what, how=how, suspects=suspects)


def _quarantined(stage: Stage, suspect: Suspect, reason: str, now: float) -> Settlement:
    delivery = suspect.delivery
    step = undecodable(
        delivery.body,
        delivery.message_id,
        reason,
        stage=stage.name,
        inbox=stage.inbox,
        now=now,
    )
    if step.send is None:
        return Settlement((step,))
    told = {**kept_headers(delivery), **step.send.headers, **(suspect.told or {}), "reason": reason}
    return Settlement((step._replace(send=step.send._replace(headers=told)),))
