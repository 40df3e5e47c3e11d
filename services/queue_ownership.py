"""Whether the queues are those of this process's state database: from others nothing is taken.

Two connectors of one name in a virtual host would deliver each other's mail into their own
mailboxes. A mark with the queues (``shared.mark``) says which state database they were filled with.
Where that is another one, whoever has a state database waits until the mark is its own, or gone, or
until the operator has chosen what becomes of the accounts, and so has said that it is ours and was
lost. An earlier copy of our own stops nobody here: what waits is ours.
Once they are ours they are for as long as this process lives; a newcomer stops nobody. It trusts
the mark. Known limits: a process without a state database (parser, rewriter) cannot tell; nor can
one that starts before anybody has written a mark, or that may not read it, or the state: it goes
on.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final, Protocol

from shared.clock import Clock
from shared.errors import StateUnavailable
from shared.log import MailLog
from shared.mark import Mark, moment

if TYPE_CHECKING:
    from shared.state.installation import Question

EVERY: Final = 3.0
"""Seconds between two looks while they are another's."""

LOST: Final = (
    "if the state database was lost, choose with pop3-connector account adopt, or account"
    " fetch-again; if the fetcher has another one, give this process the same"
)
"""What to do where nobody else can have filled the queues: those of the embedded broker."""

SHARED: Final = (
    "if another connector uses this virtual host, give this one a virtual host or a"
    f" broker.instance of its own; {LOST}"
)
"""What to do where others may use the broker, too."""


class QuestionSource(Protocol):
    """The state database."""

    async def question(self) -> Question | None:
        """Return what it says of itself; None where this process may not ask.

        Raises:
            StateUnavailable: it cannot be reached.
        """


class QueueMark(Protocol):
    """The marks elsewhere."""

    async def queues(self) -> Mark | None:
        """Return the one that lies with the queues; None where there is none."""


class QueueOwnership:
    """Knows whether work may be taken from the queues.

    Args:
        ledger: the state database of this process.
        marks: elsewhere.
        log: told once of queues that are another's, and of when that is over.
        clock: the time.
        advice: what the operator can do.
    """

    def __init__(
        self,
        ledger: QuestionSource,
        marks: QueueMark,
        log: MailLog,
        clock: Clock,
        advice: str = SHARED,
    ) -> None:
        self._advice = advice
        self._ledger = ledger
        self._marks = marks
        self._log = log
        self._clock = clock
        self._ours = False
        self._one = asyncio.Lock()
        self._why: str | None = None

    def why_not(self) -> str | None:
        """Return why nothing is taken from the queues; None where it is."""
        return None if self._ours else self._why or "whose they are is not known yet"

    async def wait_until_ours(self) -> None:
        """Return when the queues are ours."""
        async with self._one:
            while not await self.are_ours():
                await self._clock.sleep(EVERY)

    async def are_ours(self) -> bool:
        """Return whether the queues are ours."""
        if not self._ours:
            try:
                why = await self._find_reason()
            except StateUnavailable as error:
                why = f"the state database cannot be asked whose the queues are: {error}"
            self._tell(why)
            self._ours = why is None
        return self._ours

    def _tell(self, why: str | None) -> None:
        if why == self._why:
            return
        self._why = why
        if why is None:
            self._log.note("the queues are ours: work is taken from them")
        else:
            self._log.trouble(f"nothing is taken from the queues: {why}", advice=self._advice)

    async def _find_reason(self) -> str | None:
        """Return why the queues are not ours; None where they are."""
        question = await self._ledger.question()
        if question is None:
            why = "this process may not look into its tables installation and account"
            self._log.trouble("it is not known whose the queues are", why=why)
            return None
        mark = await self._marks.queues()
        if mark is None or mark.state == question.own or _is_answered(question, mark):
            return None
        return f"they were filled with another state database until {moment(mark.at)}"


def _is_answered(question: Question, mark: Mark) -> bool:
    """Return whether the operator has chosen, knowing of this mark or before anything was asked."""
    before = question.own is None
    return question.chosen and (before or mark.state in json.loads(question.asked or "[]"))
