"""Puts aside what would wait too long for one server: it waits in a retry tier then, and not here.

How much that is, ``fair_share`` says; how long a pause the server wants, ``pace``. No try is
counted of what is put aside, but for what the server has declined with a 5xx: it would never end.
"""

from __future__ import annotations

from typing import Any, Final

from services.deliverer.servers.fair_share import FairShare
from services.deliverer.servers.pace import Pace
from services.deliverer.servers.waiting_line import WaitingLine
from services.deliverer.servers.waiting_mail import WaitingMail
from services.deliverer.servers.workers import Workers

PAUSE: Final = 5.0
"""The longest pause, in seconds, that is waited out in the line."""


class Overflow:
    """What does not fit into the waiting line of one server.

    Args:
        server: what it is called where what waits is looked at.
        waiting: its waiting line.
        share: how long that may be.
        pace: what the server said of how much it takes.
        workers: those who send what waits.
    """

    def __init__(
        self,
        server: str,
        waiting: WaitingLine[WaitingMail],
        share: FairShare,
        pace: Pace,
        workers: Workers[Any],
    ) -> None:
        self._server = server
        self._waiting = waiting
        self._share = share
        self._pace = pace
        self._workers = workers
        self._limit = ""  # what the server said of it

    def put_aside(self) -> None:
        """Put aside what is too much, and all where the server wants a long pause."""
        if self._pace.steady or self._pace.pause_left() <= PAUSE:
            self.put_surplus_aside()
        else:
            self._put_aside_for_limit()

    def put_surplus_aside(self) -> None:
        """Put aside what is more than the share of the line."""
        at_work = self._workers.sending
        surplus = self._share.surplus(at_work)
        if surplus:
            why = f"more mail waits for {self._server} than it accepts in half a minute"
            if not self._workers.connected:
                why = f"{self._server} has accepted no connection so far"
            self._put_last_aside(surplus, why, self._share.note_put_aside(surplus, at_work))

    def put_all_aside(self, why: str) -> None:
        """Put aside all that waits.

        Args:
            why: what the server does, as a predicate to its name.
        """
        self._put_last_aside(len(self._waiting), f"{self._server} {why}", 0.0)

    def note_limit(self, said: str) -> None:
        """Note a limit of the server; put all aside if it wants a long pause.

        Args:
            said: what it said of it.
        """
        self._limit = said
        if self._pace.pause_left() > PAUSE:
            self._put_aside_for_limit()

    def _put_aside_for_limit(self) -> None:
        why = f"{self._server} accepts no more for now: {self._limit}"
        self._put_last_aside(len(self._waiting), why, self._pace.pause_left())

    def _put_last_aside(self, count: int, why: str, seconds: float) -> None:
        for waiting in self._waiting.take_last(count):
            waiting.put_aside(why, seconds)
