"""``run --once``: polls every account once, and lets the pipeline run dry.

Dry means: nothing is left in the inboxes of the stages or in their hands, and what waited for room
at a destination has come back, as long as any arrive meanwhile. Messages that wait for a retry are
counted and not waited for. Those that were refused in this run and are back before it has ended are
put back as they are: where nothing else is met in a whole round of an inbox, that is dry as well.

It ends, whatever a stage or a destination does. A stage that ends by itself ends the run. An
account whose poll raises what it should not has failed, and the others go on. A server that says
nothing runs into the time-outs of who talks to it. Should something hang all the same, the run is
given up when nothing has moved for ``STUCK_AFTER``; what is in hand then is left to the broker.
Over a file that turns out to be damaged it is given up as soon as nothing moves any more. From
queues that another state database has filled nothing is taken.
What cannot be ended even then, as a write to a file system that is away, is told to the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple, cast

from services.process import GRACE, Stopped, make_runner, unless
from services.wiring import Assembly, Resources
from shared.errors import BrokerUnavailable
from shared.log import MailLog
from shared.message import Envelope, Poll, poll_id
from shared.outcome import Outcome
from shared.queues import RETRIED, plan
from shared.runner import Runner
from shared.stage import Perform

STUCK_AFTER: Final = 1_800.0
"""Seconds without any movement after which a run is given up. Longer than any time-out of a server,
and than a piece of a large message takes on a slow line."""

RETURN: Final = 2.0
"""Seconds that a broker may take to bring back what has waited out its time."""

FAREWELL: Final = 10.0
"""Seconds that what was told to end at once may take: a write to a disk, say, is waited for."""

WATCH_EVERY: Final = 1.0
"""Seconds; a run over a damaged file ends when nothing has moved for so long."""

QUIET_LOOKS: Final = 3
LOOK_EVERY: Final = 0.05
LOOK_AGAIN: Final = 0.01
"""Seconds between two looks at a broker that tells exactly whether all is settled."""


class Drained(NamedTuple):
    """How a run has ended.

    Attributes:
        waiting: how many messages wait for a retry, or were fetched in this run and are elsewhere
            as yet, None if the broker could not be asked.
        broken: whether a stage ended by itself, suspects could not be tried, the queues are not
            ours, or nothing moved any more.
        hung: whether something does not end though it was told to, and would keep the process.
        damage: which file turned out to be damaged, and what to do; None where none is.
    """

    waiting: int | None
    broken: bool
    hung: bool = False
    damage: str | None = None


async def drain(
    resources: Resources,
    assemblies: Sequence[Assembly],
    interrupted: asyncio.Event,
    grace: float = GRACE,
) -> Drained:
    """Poll every account, and return when all stages have done what there is to do.

    Args:
        resources: what is open.
        assemblies: the stages, the fetcher first.
        interrupted: ends it early.
        grace: seconds that what is in hand may take then.

    Raises:
        Stopped: it ended before anything was begun.
    """
    fetching, *consuming = assemblies
    ownership = resources.ownership()
    ours = ownership is None or await unless(interrupted, ownership.are_ours())
    if not ours:  # accounts are polled as far as they are not held, and nothing is taken
        consuming = []
    work = _Work(
        resources, fetching, [make_runner(assembly, resources, once=True) for assembly in consuming]
    )
    stop = asyncio.Event()
    runs = {
        asyncio.create_task(r.run(stop, grace)): assembly.stage.name
        for r, assembly in zip(work.runners, consuming, strict=True)
    }
    doing = asyncio.create_task(work.do())
    watching = asyncio.create_task(work.wait_for_stall())
    everything = {doing, watching, *runs}
    try:
        with suppress(Stopped):
            await unless(interrupted, asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED))
        finished = doing.done()
        ended = [task for task in runs if task.done()]
    finally:
        doing.cancel()
        watching.cancel()
        stop.set()
        _, hung = await asyncio.wait(everything, timeout=grace + FAREWELL)
    if finished:
        doing.result()
    for task in ended:
        _tell(resources.log.of(runs[task]), runs[task], task)
    if put_off := sum(r.put_off for r in work.runners):
        resources.log.trouble(
            "suspects were not tried, as their process does not start; they wait for a retry",
            suspects=put_off,
        )
    broken = bool(ended or put_off) or not (ours and (finished or interrupted.is_set()))
    if damage := resources.damage():
        resources.log.trouble("run abandoned: a file is damaged", why=damage)
    return Drained(await _waiting(resources, finished), broken, bool(hung), damage)


def _tell(log: MailLog, stage: str, run: asyncio.Task[None]) -> None:
    error = run.exception()
    why = "its queue can no longer be consumed" if error is None else _describe(error)
    log.trouble(
        "a stage ended unexpectedly; its messages in hand stay queued", which=stage, why=why
    )
    if error is not None:
        log.crashed("", "", error)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


class _Work:
    """What there is to do.

    Args:
        fetching: the fetcher.
        runners: those of the other stages.
    """

    def __init__(self, resources: Resources, fetching: Assembly, runners: Sequence[Runner]) -> None:
        self._resources = resources
        self._fetching = fetching
        self.runners = runners
        self._tried = [r.tried for r in runners if r.tried is not None]
        self._back_at = 0.0  # when those are back that wait for room, as far as was known
        self._arrived = -1  # how many had arrived when that was known
        self._taken = -1  # how many had been taken in hand at the last look
        self._looks = -1  # how many in a row have found the same stillness; -1: something moved

    async def do(self) -> None:
        """Return when every account was polled, and nothing moves any more."""
        await self._poll_all()
        if self.runners:
            await self._quiet()

    async def wait_for_stall(self) -> None:
        """Return, and say so, when nothing has moved for long."""
        clock = self._resources.clock
        moved, since = self._movement(), clock.monotonic()
        while clock.monotonic() - since < STUCK_AFTER:
            await clock.sleep(WATCH_EVERY)
            if (now := self._movement()) != moved:
                moved, since = now, clock.monotonic()
            elif self._resources.damage():
                return
        self._resources.log.trouble(
            "no progress any more; messages in hand stay queued",
            in_hand=sum(r.in_hand for r in self.runners),
            for_seconds=round(STUCK_AFTER),
        )

    def _movement(self) -> tuple[int, ...]:
        """Return what changes with anything that happens to mail."""
        resources = self._resources
        hands = [n for r in self.runners for n in (r.taken, r.in_hand)]
        return (*hands, sum(resources.log.counts.values()), resources.spool.moved)

    async def _poll_all(self) -> None:
        """Poll every account once; the fetcher knows how many at a time."""
        accounts = self._resources.settings.accounts
        await asyncio.gather(*(self._poll(account.name) for account in accounts if account.enabled))

    async def _poll(self, name: str) -> None:
        fetch = cast(Perform, self._fetching.stage.handle)
        job = Envelope(poll_id(name), name, Poll("once"), self._resources.clock.now())
        raised: list[Exception] = []

        def answer(_: int, outcome: Outcome | Exception) -> None:
            if isinstance(outcome, Exception):  # of anything else the fetcher has told
                raised.append(outcome)

        try:
            await fetch([job], answer)
        except Exception as error:  # noqa: BLE001  (a defect, of this account alone)
            raised.append(error)
        for what in raised:
            log = self._resources.log.of(self._fetching.stage.name)
            log.crashed("", name, what)
            log.account_failed(name, f"unexpected error: {_describe(what)}", 0.0)

    async def _quiet(self) -> None:
        """Return when nothing moves any more but what was refused in this run."""
        while True:
            exactly = await self._is_drained()
            if (exactly or await self._still()) and self._all_back():
                return
            await asyncio.sleep(LOOK_EVERY if exactly is None else LOOK_AGAIN)

    def _all_back(self) -> bool:
        """Return whether nothing waits for room at its destination, to be tried in this run.

        A destination may have a limit for hours: it is not waited for where nothing has arrived
        since the last time.
        """
        if self._resources.clock.now() < self._back_at:
            return False
        back = max(r.returns_at for r in self.runners) + RETURN
        arrived = self._resources.log.counts["delivered"]
        if back <= max(self._back_at, RETURN) or arrived <= self._arrived:
            return True
        self._back_at, self._arrived = back, arrived
        return False

    async def _is_drained(self) -> bool | None:
        try:
            return await self._resources.broker.drained(RETRIED)
        except BrokerUnavailable:
            return False

    async def _still(self) -> bool:
        """Return whether nothing is left that was not refused in this run, as far as can be told.

        A delivery can be between the broker and us, counted by neither for a moment; so several
        looks in a row have to find the same stillness.
        """
        taken = sum(r.taken for r in self.runners)
        moved = taken != self._taken or any(r.in_hand for r in self.runners)
        if moved or self._looks < 0:
            # A round begins anew also after the last move, as what was passed on then lies there.
            self._taken, self._looks = taken, -1 if moved else 0
            for tried in self._tried:
                tried.begin_round()
            return False
        self._looks = self._looks + 1 if await self._nothing_fresh() else 0
        return self._looks >= QUIET_LOOKS

    async def _nothing_fresh(self) -> bool:
        """Return whether each inbox is empty, or was gone through since anything has moved."""
        try:
            depths = await self._resources.broker.depths(RETRIED)
        except BrokerUnavailable:
            return False
        looks = zip(self.runners, self._tried, strict=True)
        return all(tried.been_round or not depths[r.inbox] for r, tried in looks)


async def _waiting(resources: Resources, finished: bool) -> int | None:
    """Return how many messages wait for a retry, whenever they began to.

    Args:
        resources: what is open.
        finished: all is done; what is in the inboxes has just come back from its tier.
    """
    queues = [q.name for q in plan(resources.settings.retry.tiers) if q.kind == "retry"]
    try:
        depths = await resources.broker.depths([*queues, *RETRIED] if finished else queues)
    except BrokerUnavailable:
        return None
    # Another connector that shares the inboxes may have some in hand, to give them back by a tier.
    unfinished = resources.log.unfinished
    return max(sum(depths.values()), 0 if unfinished is None else unfinished.count)
