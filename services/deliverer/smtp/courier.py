"""The courier for mail servers, over SMTP or LMTP.

Letters wait in one line, and for each connection a task takes the first of them, again and again:
so none waits for another, but for a connection. Nobody takes a letter before it has a connection
over which it can be sent. What a connection does to a letter that is not the letter's fault puts it
back at the head of the line: the connection had died, or had carried enough, or the server states a
limit. That a server lets in no more connections is no failure while others live (``pace``); and
what waits too long is put aside (``fair_share``). A server is down when nobody gets in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from services.deliverer.addresses import refusals
from services.deliverer.courier import (
    CourierResult,
    Crowded,
    MailObject,
    PutAside,
    ReportResult,
    Result,
    Spent,
    Throttled,
    same_for_all,
)
from services.deliverer.smtp.connection import NoReplyInTime
from services.deliverer.smtp.fair_share import FIRST_LOOK, LOOK_EVERY, DeliverySlots, FairShare
from services.deliverer.smtp.pace import Pace
from services.deliverer.smtp.pool import Pool
from services.deliverer.smtp.prefetch import prefetched
from services.deliverer.smtp.session import PipelineBroken, SmtpSession
from services.deliverer.smtp.target import Target
from services.deliverer.smtp.transaction import transact
from services.deliverer.smtp.waiting_line import WaitingLine
from services.deliverer.smtp.waiting_mail import NextMail, Submission, WaitingMail
from shared.clock import Clock
from shared.errors import SpoolMissing, SpoolUnavailable, Unreachable
from shared.supervision import supervise

DOWN: Final = 5
"""Failures in a row after which a server counts as down for all who wait for it."""

BREAKS: Final = 2
"""How often a letter goes over another connection when one broke that had been good before; twice
more where there may have been one connection too many."""

LIMITS: Final = 5
"""How often a letter goes back into the line because the server takes no more for now. Others were
taken meanwhile, or it would have been put aside: it is about this letter then."""

LATELY: Final = 5.0
"""Seconds for which a server that has taken a letter is waited for when it lets nobody in."""

KNOWN: Final = 86_400.0
"""Seconds for which a server that has taken a letter is believed that it has a limit."""

PAUSE: Final = 5.0
"""The longest pause, in seconds, that letters wait out in the line."""

STILL: Final = 120.0
"""Seconds without any answer after which nobody waits in the line any more: RabbitMQ takes away
from us what we have in hand for half an hour, and a server may hang for ten minutes."""

UNGREETED: Final = 5.0
"""Seconds without a greeting after which a server counts as having no more room, if it has some of
our connections. Servers with a number of processes let the others wait in their backlog."""


@dataclass(slots=True, eq=False)
class _Worker:
    """What a worker has in hand.

    Attributes:
        session: the connection, None while there is none.
        at: the letter that is being sent.
        since: since when a connection is being opened (monotonic), None if none is.
    """

    session: SmtpSession | None = None
    at: WaitingMail | None = None
    since: float | None = None


class SmtpCourier:
    """Delivers to one SMTP or LMTP server.

    Args:
        target: the server.
        clock: the time.
        connections: how many there may be at once.
        places: shared with other destinations.
    """

    def __init__(
        self,
        target: Target,
        clock: Clock,
        connections: int = 8,
        places: DeliverySlots | None = None,
    ) -> None:
        self._server = target.server
        self._clock = clock
        self._pool = Pool(target, clock)
        self._line: WaitingLine[WaitingMail] = WaitingLine()
        self._pace = Pace(clock, connections)
        self._share = FairShare(places or DeliverySlots(), self._line, connections, clock)
        self._hands: dict[asyncio.Task[None], _Worker] = {}
        self._watch: asyncio.Task[None] | None = None
        self._took_at = float("-inf")  # when the server last took, or refused, a letter
        self._failures = 0  # in a row
        self._shut_out = 0  # of these, connections that nobody has answered for yet
        self._limit = ""  # what the server said of it
        self._limited_at = float("inf")  # when it first stated a limit

    async def deliver(self, mail_objects: Sequence[MailObject], tell: ReportResult) -> None:
        """Deliver letters, as many at the same time as there are connections."""
        if not mail_objects:
            return
        batch = Submission(tell, len(mail_objects), asyncio.get_running_loop().create_future())
        self._enter(mail_objects, batch)
        del mail_objects  # each is let go of when it was delivered
        try:
            await batch.over
        except BaseException:
            await self._withdraw(batch)
            raise

    async def probe(self, recipients: Sequence[str]) -> None:
        """Connect, begin TLS and log in as for a delivery; ``close`` says QUIT."""
        self._pool.take_back(self._pool.idle() or await self._pool.open())

    async def close(self) -> None:
        """Take leave of the server."""
        tasks = [*self._hands, *([self._watch] if self._watch is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pool.close()

    def _enter(self, mail_objects: Sequence[MailObject], batch: Submission) -> None:
        """Put letters into the line, less those that are for nobody who can be told the server."""
        entering = [
            _waiting(mail_object, place, batch) for place, mail_object in enumerate(mail_objects)
        ]
        if not self._line:
            self._share.begin()
        for waiting in entering:
            if waiting.refused and not waiting.mail_object.recipients:
                waiting.tell({})
            else:
                self._line.join((waiting,))
        if self._pace.steady or self._pace.pause_left() <= PAUSE:
            self._put_surplus_aside()
        else:
            self._put_all_aside()
        self._staff()

    def _staff(self) -> None:
        """See that there are workers for those who wait, as many as there may be."""
        if not self._line:
            return
        if self._watch is None or self._watch.done():
            what = f"sees how the line to {self._server} moves"
            self._watch = supervise(self._look, what, self._clock)
        free = sum(1 for hand in self._hands.values() if hand.at is None)
        for _ in range(min(len(self._line) - free, self._pace.limit - len(self._hands))):
            hand = _Worker()
            worker = asyncio.create_task(self._work(hand))
            self._hands[worker] = hand
            worker.add_done_callback(self._forget_worker)

    async def _work(self, hand: _Worker) -> None:
        """Deliver the first in line until nobody waits, or there is no connection to be had."""
        try:
            while self._line and await self._ensure_connection(hand):
                if not self._pace.steady and (seconds := self._pace.turn()):
                    await self._clock.sleep(seconds)
                    continue
                waiting = self._line.next()
                while waiting is not None:
                    waiting = await self._send(hand, waiting)
        finally:
            if hand.session is not None:
                self._pool.take_back(hand.session)
                hand.session = None

    async def _ensure_connection(self, hand: _Worker) -> bool:
        """See that there is a connection that can be used, and not one more than there may be."""
        if hand.session is not None and not hand.session.connection.idle:
            hand.session.connection.abort()
            hand.session = None
        if hand.session is None and len(self._hands) <= self._pace.limit:
            hand.session = self._pool.idle() or await self._open_connection(hand)
        return hand.session is not None

    async def _open_connection(self, hand: _Worker) -> SmtpSession | None:
        """Open a connection; return None where the server lets us in no more."""
        was_away = False
        while self._line:
            hand.since = self._clock.monotonic()
            try:
                session = await self._pool.open()
            except Exception as error:  # noqa: BLE001  (whose fault it is, its type says)
                begun, hand.since = hand.since, None
                pause = self._not_let_in(error, begun)
                if pause is None:
                    return None
                was_away = not isinstance(error, Throttled)
                await self._clock.sleep(pause)
            else:
                self._shut_out = 0
                if was_away:
                    self._pace.forget()
                self._pace.note_accepted(1 + self._living())
                return session
            finally:
                hand.since = None
        return None

    def _living(self) -> int:
        """Return over how many connections mail can be sent."""
        return sum(1 for hand in self._hands.values() if hand.session is not None)

    def _not_let_in(self, error: Exception, begun: float) -> float | None:
        """Handle a connection that could not be opened.

        Returns:
            Seconds after which to try again, None for not before others have.
        """
        living = self._living()
        coming = sum(1 for hand in self._hands.values() if hand.since is not None)
        if living or coming:
            self._failures += not living
            self._shut_out += not living
            self._pace.note_refused(living + coming)
            return None
        now = self._clock.monotonic()
        if isinstance(error, Throttled) and now - self._took_at < KNOWN:
            self._pace.slow_down(begun)
            self._see_to_pause(error)
            return self._pace.pause_left()
        if now - self._took_at < LATELY:
            return LATELY / 10
        self._failures += 1
        self._down(error, 1 + self._shut_out)
        return None

    def _down(self, error: Exception, count: int) -> None:
        """Tell those in line that the server is down: as many as have failed, or all of them."""
        self._shut_out = 0
        self._pace.forget()
        for _ in range(len(self._line) if self._failures >= DOWN else count):
            waiting = self._line.next()
            if waiting is not None:
                waiting.tell(error)

    async def _send(self, hand: _Worker, waiting: WaitingMail) -> WaitingMail | None:
        """Send a letter; return the one that goes over the same connection next."""
        session, bound = hand.session, NextMail(self._line, waiting.batch)
        if session is None:
            raise RuntimeError("a letter was taken without a connection")
        hand.at = waiting
        begun, before = self._clock.monotonic(), session.served
        try:
            following = bound.following if self._pace.steady else _nobody
            if waiting.mail_object.content.data is not None:
                delivered = await transact(session, waiting.mail_object, following)
            else:
                async with prefetched(waiting.mail_object) as mail_object:
                    delivered = await transact(session, mail_object, following)
        except Exception as error:  # noqa: BLE001  (that of one letter; whose fault, its type says)
            if session.served == before and isinstance(error, SpoolMissing | SpoolUnavailable):
                hand.at = None  # the server has not heard of it
                waiting.tell(error)
                return None
            self._drop(hand)
            if bound.next is not None:
                self._line.put_back(bound.next)
            self._handle_break(waiting, error, begun, reused=before > 0)
            return None
        except BaseException:
            self._drop(hand)  # and what is bound, is withdrawn with it
            raise
        hand.at = None
        if any(result.lost for result in delivered.values()):
            self._note_failure("no reply to a message that was sent")
        else:
            self._note_answered()
        self._share.done += 1
        waiting.tell(delivered)
        return bound.next

    def _drop(self, hand: _Worker) -> None:
        """Cut a connection, with nothing more sent."""
        if hand.session is not None:
            hand.session.connection.abort()
        hand.session = hand.at = None

    def _note_answered(self) -> None:
        """Note that the server has answered for a letter."""
        self._took_at = self._clock.monotonic()
        self._failures = self._shut_out = 0
        if not self._pace.steady:
            self._pace.note_taken()

    def _handle_break(
        self, waiting: WaitingMail, error: Exception, begun: float, *, reused: bool
    ) -> None:
        """Handle a letter that was not sent, and that no recipient has: retry it, or give up."""
        again = isinstance(error, Spent) and waiting.breaks < BREAKS
        if isinstance(error, Crowded) and self._living():
            self._pace.note_refused(self._living())
            self._line.join((waiting,))  # those that live take it
        elif isinstance(error, Throttled) and not again:
            self._handle_limit(waiting, error, begun)
        elif not isinstance(error, Unreachable):
            waiting.tell(error)
        elif self._may_retry(waiting, error, begun, reused=reused):
            waiting.breaks += 1
            if not reused and self._is_one_too_many(waiting, error):
                self._pace.note_refused(self._living())
                self._line.join((waiting,))  # others may find a connection that lives
                return
            self._line.put_back(waiting)
            if reused:
                self._pool.close_idle()  # what killed one has killed the others
        else:
            waiting.tell(error)
            self._note_failure(error.said)

    def _note_failure(self, why: str) -> None:
        """Note that a letter was not sent, or not answered for, through the server's fault."""
        self._failures += 1
        if self._failures >= DOWN:
            self._down(Unreachable(self._server, why), 0)

    def _may_retry(
        self, waiting: WaitingMail, error: Unreachable, begun: float, *, reused: bool
    ) -> bool:
        """Return whether a letter is to go over another connection after one broke."""
        beyond = not reused and self._is_one_too_many(waiting, error)
        if waiting.breaks >= BREAKS + 2 * beyond:
            return False
        lives = self._took_at >= begun or self._clock.monotonic() - self._took_at < LATELY
        return reused or lives or beyond or isinstance(error, PipelineBroken)

    def _is_one_too_many(self, waiting: WaitingMail, error: Unreachable) -> bool:
        """Return whether a connection that has carried nothing may have broken for the others.

        Some servers let everybody in, and say at MAIL only that they take no more.
        """
        first = isinstance(error, PipelineBroken) and waiting.breaks < 2
        return self._living() > 0 and not first and not isinstance(error, NoReplyInTime)

    def _handle_limit(self, waiting: WaitingMail, error: Throttled, begun: float) -> None:
        """Handle that the server accepts no more for now: no failure, if it accepted any before.

        Nor if it may be about to, over other connections that began before it first said so.
        """
        self._pace.slow_down(begun)
        waiting.limits += 1
        if error.said.startswith("5"):  # whatever it was said to
            waiting.declined = str(error)
        self._limited_at = min(self._limited_at, self._clock.monotonic())
        spared = begun <= self._limited_at and self._living()
        if self._clock.monotonic() - self._took_at >= KNOWN and not spared:
            self._failures += 1
            waiting.tell(error)
        elif waiting.limits > LIMITS:
            waiting.tell(_another_time(waiting, str(error)))
        else:
            self._line.join((waiting,))  # behind others, which may fare better: is it this letter?
        self._see_to_pause(error)

    def _see_to_pause(self, error: Throttled) -> None:
        """Let nobody wait in the line for as long as a server may want."""
        self._limit = error.said
        if self._pace.pause_left() > PAUSE:
            self._put_all_aside()

    async def _look(self) -> None:
        """See every second, while anybody waits, how the line moves."""
        done, since = self._share.done, self._clock.monotonic()
        await self._clock.sleep(FIRST_LOOK)
        self._put_surplus_aside()
        pause = LOOK_EVERY - FIRST_LOOK
        while self._line or any(hand.since is not None for hand in self._hands.values()):
            await self._clock.sleep(pause)
            pause = LOOK_EVERY
            self._share.look()
            if self._share.done != done or not self._line:
                done, since = self._share.done, self._clock.monotonic()
            if (waited := self._seconds_kept_waiting()) >= STILL:
                self._down(self._pool.mute(round(waited)), len(self._line))
            elif self._clock.monotonic() - since < STILL:
                self._put_surplus_aside()
            else:
                self._put_aside(len(self._line), f"{self._server} does not answer", 0.0)
            self._see_to_ungreeted()
            self._staff()

    def _seconds_kept_waiting(self) -> float:
        """Return for how many seconds the server has let nobody in, nor said why.

        Who waited for it has not waited in vain: what comes later is told the same at once, until
        it lets somebody in after all, or these connections are given up.
        """
        tried = [hand.since for hand in self._hands.values() if hand.since is not None]
        if not tried or len(tried) < len(self._hands):
            return 0.0
        return self._clock.monotonic() - min(tried)

    def _see_to_ungreeted(self) -> None:
        """Do without connections that are not greeted while others live, or lived."""
        living, before = self._living(), self._clock.monotonic() - UNGREETED
        for worker, hand in self._hands.items():
            if hand.since is None or hand.since > before:
                continue
            if not self._line and self._took_at >= hand.since:
                worker.cancel()
            elif self._line and living:
                self._pace.note_refused(living)

    def _put_surplus_aside(self) -> None:
        at_work = sum(1 for hand in self._hands.values() if hand.at is not None)
        surplus = self._share.surplus(at_work)
        if surplus:
            why = f"more mail waits for {self._server} than it accepts in half a minute"
            if not self._living():
                why = f"{self._server} has accepted no connection so far"
            self._put_aside(surplus, why, self._share.note_put_aside(surplus, at_work))

    def _put_all_aside(self) -> None:
        why = f"{self._server} accepts no more for now: {self._limit}"
        self._put_aside(len(self._line), why, self._pace.pause_left())

    def _put_aside(self, count: int, why: str, seconds: float) -> None:
        for waiting in self._line.last(count):
            said = waiting.declined
            waiting.tell(_another_time(waiting, said) if said else PutAside(why, seconds))

    def _forget_worker(self, worker: asyncio.Task[None]) -> None:
        hand = self._hands.pop(worker)
        error = None if worker.cancelled() else worker.exception()
        if error is not None:  # a defect: of those who wait, one hears of it
            waiting = hand.at or self._line.next()
            if waiting is not None:
                waiting.fail(error)
        self._staff()  # somebody may have come in the meantime

    async def _withdraw(self, batch: Submission) -> None:
        """Take letters back: from the line, and out of the hands of whoever is at them."""
        self._line.leave(lambda waiting: waiting.batch is batch)
        busy = [w for w, h in self._hands.items() if h.at is not None and h.at.batch is batch]
        for worker in busy:
            worker.cancel()
        if busy:
            await asyncio.wait(busy)


def _nobody(_: Callable[[MailObject], bool]) -> None:
    """Bind no letter to a connection: each has its turn."""


def _another_time(waiting: WaitingMail, why: str) -> CourierResult:
    """Return that a letter was tried, which counts, and is to be tried again."""
    return same_for_all(waiting.mail_object.recipients, Result("temporary", why))


def _waiting(mail_object: MailObject, place: int, batch: Submission) -> WaitingMail:
    refused = refusals(mail_object.recipients)
    if refused:
        rest = [recipient for recipient in mail_object.recipients if recipient not in refused]
        mail_object = mail_object._replace(recipients=rest)
    return WaitingMail(mail_object, refused, place, batch)
