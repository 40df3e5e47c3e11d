"""Whose the queues are, by the mark with them and what the state database says."""

import asyncio
import io
import json
from typing import NamedTuple

import pytest

from services.queue_ownership import EVERY, QueueOwnership
from shared.errors import StateUnavailable
from shared.log import MailLog
from shared.log_lines import LogLines
from shared.mark import Mark
from shared.state.installation import Question
from tests.clock import ManualClock

OTHER = Mark("another", 7, 1_000_000.0)
OWN = Mark("mine", 9, 1_000_000.0)
ASKED = json.dumps(["another"])


class Place:
    """A state database and a mark that say what a test wants them to, and what was said of them."""

    def __init__(self, question: Question | None, mark: Mark | None) -> None:
        self.answer: Question | Exception | None = question
        self.mark = mark
        self._stream = io.StringIO()
        self._lines = LogLines(self._stream)
        self.log = MailLog("test", lines=self._lines)

    @property
    def said(self) -> list[str]:
        self._lines.flush()
        return self._stream.getvalue().splitlines()

    async def question(self) -> Question | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def queues(self) -> Mark | None:
        return self.mark


class Case(NamedTuple):
    question: Question | None
    mark: Mark | None
    ours: bool


CASES = {
    "first": Case(Question(None, None, chosen=False), None, ours=True),
    "own": Case(Question("mine", None, chosen=True), OWN, ours=True),
    "earlier-copy": Case(Question("mine", ASKED, chosen=False), OWN, ours=True),
    "new-state": Case(Question(None, None, chosen=False), OTHER, ours=False),
    "moved-beside-another": Case(Question("mine", None, chosen=True), OTHER, ours=False),
    "asked": Case(Question("mine", ASKED, chosen=False), OTHER, ours=False),
    "chosen": Case(Question("mine", ASKED, chosen=True), OTHER, ours=True),
    "asked-of-a-third": Case(Question("mine", '["third"]', chosen=True), OTHER, ours=False),
    "chosen-before-the-start": Case(Question(None, None, chosen=True), OTHER, ours=True),
    "may-not-look": Case(None, OTHER, ours=True),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_whose_they_are(case: Case, clock: ManualClock) -> None:
    place = Place(case.question, case.mark)
    ownership = QueueOwnership(place, place, place.log, clock)
    assert await ownership.are_ours() == case.ours
    assert (ownership.why_not() is None) == case.ours


async def test_who_waits_says_so_once_and_goes_on_for_good(clock: ManualClock) -> None:
    place = Place(Question(None, None, chosen=False), OTHER)
    ownership = QueueOwnership(place, place, place.log, clock)
    waiting = [asyncio.create_task(ownership.wait_until_ours()) for _ in range(3)]
    await clock.advance(3 * EVERY)
    (said,) = place.said
    assert "filled with another state database until 1970-01-12" in said
    assert "broker.instance" in said
    assert "account adopt" in said
    place.answer = StateUnavailable("away")
    await clock.advance(EVERY)
    assert "away" in (ownership.why_not() or "")
    place.answer, place.mark = Question("mine", None, chosen=True), OWN
    await clock.advance(EVERY)
    assert all(task.done() for task in waiting)
    assert "the queues are ours: work is taken from them" in place.said[-1]
    place.mark = OTHER
    assert await ownership.are_ours(), "a newcomer stops nobody"
