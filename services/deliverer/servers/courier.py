"""The courier for mail servers, whatever the protocol.

Mail waits in one line, and for each connection a worker takes the first in it, again and again: so
no mail object waits for another, but for a connection. A worker takes none before it has a
connection over which it can be sent. What goes wrong and is not its fault puts it back into the
line: the connection had died, or had carried enough, or the server states a limit. That a server
lets in no more connections is no failure while others live (``pace``); and what would wait too long
is put aside (``fair_share``). A server is down when nobody gets in. Some protocols take several
mail objects in one command; where that fails, each goes once more by itself.

Known limit: what is learnt of a server, its limits and what it does not keep, is known to this
process alone, and lost when it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Generic

from services.deliverer.courier import CourierResult, Crowded, DeliveryRequest, Spent, Throttled
from services.deliverer.servers.connection import NoReplyInTime
from services.deliverer.servers.fair_share import FIRST_LOOK, LOOK_EVERY, DeliverySlots, FairShare
from services.deliverer.servers.overflow import Overflow
from services.deliverer.servers.pace import Pace
from services.deliverer.servers.pool import Pool
from services.deliverer.servers.protocol import (
    MailProtocol,
    PipelineBroken,
    S,
    SendSingly,
    nothing_follows,
)
from services.deliverer.servers.waiting_line import WaitingLine
from services.deliverer.servers.waiting_mail import NextMail, Submission, WaitingMail, waiting_mail
from services.deliverer.servers.workers import ServerWorker, Workers
from shared.clock import Clock
from shared.errors import SpoolMissing, SpoolUnavailable, Unreachable
from shared.supervision import supervise

DOWN: Final = 5
"""Failures in a row after which a server counts as down for all that waits for it."""

BREAKS: Final = 2
"""How often a mail object goes over another connection after one broke that had been good before;
twice more where there may have been one connection too many."""

LIMITS: Final = 5
"""How often a mail object goes back into the line because the server takes no more for now. Others
were taken meanwhile, or it would have been put aside: it is about this one then."""

LATELY: Final = 5.0
"""Seconds for which a server that has taken mail is waited for when it lets nobody in."""

KNOWN: Final = 86_400.0
"""Seconds for which a server that has taken mail is believed when it says that it has a limit."""

STILL: Final = 120.0
"""Seconds without any answer after which nothing is left in the line: RabbitMQ takes away from us
what we have in hand for half an hour, and a server may hang for ten minutes."""

UNGREETED: Final = 5.0
"""Seconds without a greeting after which a server counts as having no more room, if it has some of
our connections. Servers with a number of processes let the others wait in their backlog."""


class ServerCourier(Generic[S]):
    """Delivers to one mail server.

    Args:
        protocol: how to talk to it.
        clock: the time.
        connections: how many there may be at once.
        slots: shared with other destinations.
    """

    def __init__(
        self,
        protocol: MailProtocol[S],
        clock: Clock,
        connections: int = 8,
        slots: DeliverySlots | None = None,
    ) -> None:
        self._protocol = protocol
        self._server = protocol.server
        self._clock = clock
        self._pool = Pool(protocol, clock)
        self._waiting: WaitingLine[WaitingMail] = WaitingLine()
        self._pace = Pace(clock, connections)
        self._share = FairShare(slots or DeliverySlots(), self._waiting, connections, clock)
        self._workers: Workers[S] = Workers()
        self._overflow = Overflow(
            self._server, self._waiting, self._share, self._pace, self._workers
        )
        self._watch: asyncio.Task[None] | None = None
        self._took_at = float("-inf")  # when the server last answered for a mail object
        self._failures = 0  # in a row
        self._shut_out = 0  # of these, connections that nobody has answered for yet
        self._limited_at = float("inf")  # when it first stated a limit

    async def deliver(self, requests: Sequence[DeliveryRequest]) -> None:
        """Deliver mail objects, as many at the same time as there are connections."""
        if not requests:
            return
        over = asyncio.get_running_loop().create_future()
        submission = Submission(len(requests), over)
        self._take_in(requests, submission)
        del requests  # each is let go of when it was delivered
        try:
            await submission.over
        except BaseException:
            await self._withdraw(submission)
            raise

    async def probe(self, recipients: Sequence[str]) -> None:
        """Connect, begin TLS and log in as for a delivery; ``close`` says QUIT."""
        session = self._pool.take_idle()
        if session is None:
            session = await self._pool.open()
        self._pool.take_back(session)

    async def close(self) -> None:
        """Stop all workers, and close the connections with QUIT."""
        tasks = [*self._workers.tasks, *([self._watch] if self._watch is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pool.close()

    def _take_in(self, requests: Sequence[DeliveryRequest], submission: Submission) -> None:
        """Put mail into the line, unless no recipient of it can be named to the server."""
        entering = [waiting_mail(request, submission) for request in requests]
        if not self._waiting:
            self._share.begin()
        for waiting in entering:
            if waiting.refused and not waiting.mail_object.recipients:
                waiting.tell({})
            else:
                self._waiting.join(waiting)
        self._overflow.put_aside()
        self._start_workers()

    def _start_workers(self) -> None:
        """Start workers for what waits, as many as there may be."""
        if not self._waiting:
            return
        if self._watch is None or self._watch.done():
            what = f"sees how the line to {self._server} moves"
            self._watch = supervise(self._watch_line, what, self._clock)
        free = len(self._workers) - self._workers.sending
        for _ in range(min(len(self._waiting) - free, self._pace.limit - len(self._workers))):
            self._workers.start(self._work, self._note_worker_ended)

    async def _work(self, worker: ServerWorker[S]) -> None:
        """Send the first in line until none waits, or the server lets us in no more."""
        try:
            while self._waiting:
                if not await self._ensure_connection(worker):
                    break
                if not self._pace.steady and (seconds := self._pace.take_turn()):
                    await self._clock.sleep(seconds)
                    continue
                waiting = self._waiting.take_next()
                while waiting is not None:
                    waiting = await self._send(worker, waiting)
        finally:
            if worker.session is not None:
                self._pool.take_back(worker.session)
                worker.session = None

    async def _ensure_connection(self, worker: ServerWorker[S]) -> bool:
        """Open a connection if none is usable, and there may be one more; say if there is one."""
        if worker.session is not None and not worker.session.connection.idle:
            worker.cut_connection()
        if worker.session is None and len(self._workers) <= self._pace.limit:
            worker.session = self._pool.take_idle()
            if worker.session is None:
                worker.session = await self._open_connection(worker)
        return worker.session is not None

    async def _open_connection(self, worker: ServerWorker[S]) -> S | None:
        """Open a connection; return None where the server lets us in no more."""
        was_away = False
        while self._waiting:
            worker.opening_since = self._clock.monotonic()
            try:
                session = await self._pool.open()
            except Exception as error:  # noqa: BLE001  (whose fault it is, its type says)
                begun, worker.opening_since = worker.opening_since, None
                pause = self._handle_failed_connection(error, begun)
                if pause is None:
                    return None
                was_away = not isinstance(error, Throttled)
                await self._clock.sleep(pause)
            else:
                self._shut_out = 0
                if was_away:
                    self._pace.forget()
                self._pace.note_accepted(1 + self._workers.connected)
                return session
            finally:
                worker.opening_since = None
        return None

    def _handle_failed_connection(self, error: Exception, begun: float) -> float | None:
        """Handle a connection that could not be opened.

        Returns:
            Seconds after which to try again, None for not before others have.
        """
        living, coming = self._workers.connected, self._workers.opening
        if living or coming:
            self._failures += not living
            self._shut_out += not living
            self._pace.note_refused(living + coming)
            return None
        now = self._clock.monotonic()
        if isinstance(error, Throttled) and now - self._took_at < KNOWN:
            self._pace.slow_down(begun)
            self._overflow.note_limit(error.said)
            return self._pace.pause_left()
        if now - self._took_at < LATELY:
            return LATELY / 10
        self._failures += 1
        self._report_down(error, 1 + self._shut_out)
        return None

    def _report_down(self, error: Exception, count: int) -> None:
        """Tell that the server is down: for as many mail objects as have failed, or for all."""
        self._shut_out = 0
        self._pace.forget()
        for _ in range(len(self._waiting) if self._failures >= DOWN else count):
            waiting = self._waiting.take_next()
            if waiting is not None:
                waiting.tell(error)

    async def _send(self, worker: ServerWorker[S], first: WaitingMail) -> WaitingMail | None:
        """Send a mail object, and what goes with it; return what goes over this connection next."""
        session = worker.session
        if session is None:
            raise RuntimeError("mail was taken out of the line without a connection")
        group, bound = self._gather(session, first), NextMail(self._waiting, first.submission)
        worker.sending = group
        begun, before = self._clock.monotonic(), session.served
        following = bound.following if self._pace.steady else nothing_follows
        try:
            mail_objects = [waiting.mail_object for waiting in group]
            delivered = await self._protocol.send(session, mail_objects, following)
        except SendSingly:
            worker.sending = ()
            self._send_singly(group)
            return None
        except Exception as error:  # noqa: BLE001  (that of one mail object; its type says whose fault)
            if session.served == before and isinstance(error, SpoolMissing | SpoolUnavailable):
                worker.sending = ()  # the server has not heard of it
                first.tell(error)
                return None
            worker.cut_connection()
            if bound.next is not None:
                self._waiting.put_back(bound.next)
            if len(group) > 1:
                self._send_singly(group, doubtful=not isinstance(error, Throttled))
            else:
                self._handle_break(first, error, begun, reused=before > 0)
            return None
        except BaseException:
            worker.cut_connection()  # and what is bound, is withdrawn with it
            raise
        worker.sending = ()
        self._share.done += len(group)
        for waiting, result in zip(group, delivered, strict=True):
            self._note_sent(result)
            waiting.tell(result)
        return bound.next

    def _gather(self, session: S, first: WaitingMail) -> list[WaitingMail]:
        """Take out of the line what goes in one command with a mail object."""
        group = [first]

        def joins(waiting: WaitingMail) -> bool:
            if waiting.alone or waiting.submission is not first.submission:
                return False
            other = waiting.mail_object
            return self._protocol.together(session, first.mail_object, len(group), other)

        if not first.alone and self._pace.steady:
            while (waiting := self._waiting.take_next_if(joins)) is not None:
                group.append(waiting)
        return group

    def _send_singly(self, group: Sequence[WaitingMail], *, doubtful: bool = True) -> None:
        """Put back what went together: each by itself, it meets what is its own."""
        for waiting in reversed(group):
            waiting.alone = True
            if doubtful:
                waiting.doubt()
            self._waiting.put_back(waiting)

    def _note_sent(self, result: CourierResult) -> None:
        """Note that mail was sent, and whether the server has answered for it."""
        if isinstance(result, Exception):
            return
        if any(each.lost for each in result.values()):
            self._note_failure("no reply to a message that was sent")
        else:
            self._note_answered()

    def _note_answered(self) -> None:
        """Note that the server has answered for a mail object."""
        self._took_at = self._clock.monotonic()
        self._failures = self._shut_out = 0
        if not self._pace.steady:
            self._pace.note_taken()

    def _handle_break(
        self, waiting: WaitingMail, error: Exception, begun: float, *, reused: bool
    ) -> None:
        """Handle mail that was not sent, and that no recipient has: retry it, or give up."""
        again = isinstance(error, Spent) and waiting.breaks < BREAKS
        if isinstance(error, Crowded) and self._workers.connected:
            self._pace.note_refused(self._workers.connected)
            self._waiting.join(waiting)  # to be sent over those that live
        elif isinstance(error, Throttled) and not again:
            self._handle_limit(waiting, error, begun)
        elif not isinstance(error, Unreachable):
            waiting.tell(error)
        elif self._may_retry(waiting, error, begun, reused=reused):
            waiting.breaks += 1
            waiting.doubt()
            if not reused and self._is_one_too_many(waiting, error):
                self._pace.note_refused(self._workers.connected)
                self._waiting.join(waiting)  # others may find a connection that lives
                return
            self._waiting.put_back(waiting)
            if reused:
                self._pool.close_idle()  # what killed one has killed the others
        else:
            waiting.tell(error)
            self._note_failure(error.said)

    def _note_failure(self, why: str) -> None:
        """Note that mail was not sent, or not answered for, through the server's fault."""
        self._failures += 1
        if self._failures >= DOWN:
            self._report_down(Unreachable(self._server, why), 0)

    def _may_retry(
        self, waiting: WaitingMail, error: Unreachable, begun: float, *, reused: bool
    ) -> bool:
        """Return whether it is to be sent over another connection after one broke."""
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
        return self._workers.connected > 0 and not first and not isinstance(error, NoReplyInTime)

    def _handle_limit(self, waiting: WaitingMail, error: Throttled, begun: float) -> None:
        """Handle a limit that the server states.

        It is no failure if the server has accepted mail before, nor if it may be about to, over
        other connections, for what was begun before it first said so.
        """
        self._pace.slow_down(begun)
        waiting.limits += 1
        if error.said.startswith("5"):  # whatever it was said to
            waiting.declined = str(error)
        self._limited_at = min(self._limited_at, self._clock.monotonic())
        spared = begun <= self._limited_at and self._workers.connected
        if self._clock.monotonic() - self._took_at >= KNOWN and not spared:
            self._failures += 1
            waiting.tell(error)
        elif waiting.limits > LIMITS:
            waiting.tell_temporary(str(error))
        else:
            self._waiting.join(waiting)  # behind others: is it about this one?
        self._overflow.note_limit(error.said)

    async def _watch_line(self) -> None:
        """Check every second, while any mail waits, how the line moves."""
        done, since = self._share.done, self._clock.monotonic()
        await self._clock.sleep(FIRST_LOOK)
        self._overflow.put_surplus_aside()
        pause = LOOK_EVERY - FIRST_LOOK
        while self._waiting or self._workers.opening:
            await self._clock.sleep(pause)
            pause = LOOK_EVERY
            self._share.look()
            if self._share.done != done or not self._waiting:
                done, since = self._share.done, self._clock.monotonic()
            if (waited := self._seconds_kept_waiting()) >= STILL:
                self._report_down(self._protocol.no_answer(round(waited)), len(self._waiting))
            elif self._clock.monotonic() - since < STILL:
                self._overflow.put_surplus_aside()
            else:
                self._overflow.put_all_aside("does not answer")
            self._give_up_ungreeted()
            self._start_workers()

    def _seconds_kept_waiting(self) -> float:
        """Return for how many seconds the server has let nobody in, nor said why.

        What waited for it has not waited in vain: what comes later is told the same at once, until
        it lets somebody in after all, or these connections are given up.
        """
        since = self._workers.opened_in_vain_since()
        return 0.0 if since is None else self._clock.monotonic() - since

    def _give_up_ungreeted(self) -> None:
        """Do without connections that are not greeted while others live, or lived."""
        connected = self._workers.connected
        for task, since in self._workers.opening_before(self._clock.monotonic() - UNGREETED):
            if not self._waiting and self._took_at >= since:
                task.cancel()
            elif self._waiting and connected:
                self._pace.note_refused(connected)

    def _note_worker_ended(self, task: asyncio.Task[None]) -> None:
        worker = self._workers.remove(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:  # a defect: one of those who submitted what waits hears of it
            waiting = worker.sending[0] if worker.sending else self._waiting.take_next()
            if waiting is not None:
                waiting.fail(error)
        self._start_workers()  # more may have come in the meantime

    async def _withdraw(self, submission: Submission) -> None:
        """Take mail back: out of the line, and from the workers that are sending it."""
        self._waiting.remove(lambda waiting: waiting.submission is submission)
        busy = self._workers.sending_of(submission)
        for task in busy:
            task.cancel()
        if busy:
            await asyncio.wait(busy)
