"""Letters on their way to a mail server: each is told of once, with those it was given with.

Plain bookkeeping for the courier. A letter may go back into the line as often as need be; it ends
with ``tell``, which is the end of it whatever whoever is told does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from services.deliverer.courier import CourierResult, MailObject, ReportResult, Result
from services.deliverer.smtp.waiting_line import WaitingLine


@dataclass(slots=True, eq=False)
class Submission:
    """Letters that were given together.

    Attributes:
        tell: told what became of each.
        left: how many were not told yet.
        over: done when all are told.
    """

    tell: ReportResult
    left: int
    over: asyncio.Future[None]


@dataclass(slots=True, eq=False)
class WaitingMail:
    """A letter in the line, or in somebody's hands.

    Attributes:
        post: what is to be sent: to recipients that are safe to send.
        refused: the results for the others.
        place: which it is of its batch.
        breaks: how often the connection broke over which it was being sent.
        limits: how often the server said that it takes no more for now.
        declined: what it said of it, if that was a 5xx: to put it aside would not count, and so
            never end.
    """

    mail_object: MailObject
    refused: Mapping[str, Result]
    place: int
    batch: Submission
    breaks: int = 0
    limits: int = 0
    declined: str = ""

    def tell(self, delivered: CourierResult) -> None:
        """Tell what became of it."""
        batch = self.batch
        if self.refused and not isinstance(delivered, Exception):
            delivered = {**self.refused, **delivered}
        try:
            batch.tell(self.place, delivered)
        except Exception as error:  # noqa: BLE001  (a defect of theirs: they hear of it)
            self.fail(error)
        batch.left -= 1
        if not batch.left and not batch.over.done():
            batch.over.set_result(None)

    def fail(self, error: BaseException) -> None:
        """End its batch with an error that is no letter's."""
        if not self.batch.over.done():
            self.batch.over.set_exception(error)


@dataclass(slots=True)
class NextMail:
    """Finds the letter that goes over the same connection next: of the same batch.

    Only letters that were given together bind each other, so that they are withdrawn together.

    Attributes:
        next: that letter, once there is one.
    """

    line: WaitingLine[WaitingMail]
    batch: Submission
    next: WaitingMail | None = field(default=None)

    def following(self, fit: Callable[[MailObject], bool]) -> MailObject | None:
        """Take the first in line, if it can go over this connection as it is."""
        if self.next is None:
            self.next = self.line.next_if(lambda waiting: self._can_follow(waiting, fit))
        return None if self.next is None else self.next.mail_object

    def _can_follow(self, waiting: WaitingMail, fit: Callable[[MailObject], bool]) -> bool:
        return waiting.batch is self.batch and not waiting.refused and fit(waiting.mail_object)
