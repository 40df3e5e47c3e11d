"""Mail on its way to a mail server: what became of each mail object is told once.

Plain bookkeeping for the courier. A mail object may go back into the line as often as need be; it
ends with ``tell``, even where what is called there raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from services.deliverer.addresses import refusals
from services.deliverer.courier import (
    CourierResult,
    DeliveryRequest,
    MailObject,
    PutAside,
    Result,
    same_for_all,
)
from services.deliverer.servers.waiting_line import WaitingLine
from shared.errors import SpoolUnavailable


@dataclass(slots=True, eq=False)
class Submission:
    """Mail objects that were given together.

    Attributes:
        left: of how many it was not told yet what became of them.
        over: done when it was told of all.
    """

    left: int
    over: asyncio.Future[None]


@dataclass(slots=True, eq=False)
class WaitingMail:
    """A mail object in the line, or being sent by a worker.

    Attributes:
        mail_object: what is to be sent, to recipients that are safe to send.
        refused: the results for the others.
        request: where it is told what became of it.
        submission: what it was given with.
        breaks: how often the connection broke over which it was being sent.
        limits: how often the server said that it takes no more for now.
        declined: what it said of it, if that was a 5xx: to put it aside would not count, and so
            never end.
        alone: it went with others in one command, in vain, and goes by itself from now on.
        doubtful: it was sent, and nobody knows whether it has arrived.
    """

    mail_object: MailObject
    refused: Mapping[str, Result]
    request: DeliveryRequest
    submission: Submission
    breaks: int = 0
    limits: int = 0
    declined: str = ""
    alone: bool = False
    doubtful: bool = False

    def tell(self, delivered: CourierResult) -> None:
        """Tell what became of it."""
        submission = self.submission
        if self.doubtful and isinstance(delivered, PutAside | SpoolUnavailable):
            # As a try that does not count, it would come again as if it had never been sent.
            delivered = same_for_all(
                self.mail_object.recipients, Result("temporary", str(delivered))
            )
        if self.refused and not isinstance(delivered, Exception):
            delivered = {**self.refused, **delivered}
        try:
            self.request.tell(delivered)
        except Exception as error:  # noqa: BLE001  (a defect of theirs: they hear of it)
            self.fail(error)
        submission.left -= 1
        if not submission.left and not submission.over.done():
            submission.over.set_result(None)

    def doubt(self) -> None:
        """Note that it was sent, and that nobody knows whether it has arrived."""
        content = self.mail_object.content._replace(replay=True)
        self.mail_object = self.mail_object._replace(content=content)
        self.doubtful = True

    def tell_temporary(self, why: str) -> None:
        """Tell that it was tried, which counts, and is to be tried again."""
        self.tell(same_for_all(self.mail_object.recipients, Result("temporary", why)))

    def put_aside(self, why: str, seconds: float) -> None:
        """Tell that it was not tried, or what was said when it was.

        Args:
            why: a sentence for the operator who looks at what waits.
            seconds: of work, or of waiting, that are before it; 0 if nobody knows.
        """
        if self.declined:
            self.tell_temporary(self.declined)
        else:
            self.tell(PutAside(why, seconds))

    def fail(self, error: BaseException) -> None:
        """End its submission with an error that is that of no mail object."""
        if not self.submission.over.done():
            self.submission.over.set_exception(error)


def waiting_mail(request: DeliveryRequest, submission: Submission) -> WaitingMail:
    """Return a mail object with the results for recipients that can be named to no server."""
    mail_object = request.mail_object
    refused = refusals(mail_object.recipients)
    if refused:
        rest = [recipient for recipient in mail_object.recipients if recipient not in refused]
        mail_object = mail_object._replace(recipients=rest)
    return WaitingMail(mail_object, refused, request, submission)


@dataclass(slots=True)
class NextMail:
    """Finds the mail object that goes over the same connection next: of the same submission.

    Only what was given together binds each other, so that it is withdrawn together.

    Attributes:
        next: that mail object, once there is one.
    """

    line: WaitingLine[WaitingMail]
    submission: Submission
    next: WaitingMail | None = field(default=None)

    def following(self, fit: Callable[[MailObject], bool]) -> MailObject | None:
        """Take the first in line, if it can go over this connection as it is."""
        if self.next is None:
            self.next = self.line.take_next_if(lambda waiting: self._can_follow(waiting, fit))
        return None if self.next is None else self.next.mail_object

    def _can_follow(self, waiting: WaitingMail, fit: Callable[[MailObject], bool]) -> bool:
        if waiting.submission is not self.submission or waiting.refused:
            return False
        return fit(waiting.mail_object)
