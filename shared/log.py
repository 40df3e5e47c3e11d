"""Structured logs, with one function for each mail event.

Every line about a message starts with our id for it. What was fetched, delivered and deleted at the
server has a line each; of what a server or a sender can bring about again and again there are some
lines, then a count (``flood``). No secret and no body is ever logged, and text that came from mail
or from a server is escaped before it gets here or to a terminal.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

from shared.errors import SpoolMissing, SpoolUnavailable
from shared.log_lines import DEBUG, ERROR, INFO, WARNING, LogLines
from shared.metrics import BYTES, EVENTS, HANDLING, LATENCY, SPOOL, Metrics
from shared.unfinished import Unfinished


class Report(Protocol):
    """Where trouble is told, such as ``MailLog.trouble``."""

    def __call__(self, what: str, /, **about: object) -> None:
        """Say what is wrong, and about what."""


def silent(what: str, /, **about: object) -> None:
    """Drop the report."""


def printable(text: str, limit: int = 500) -> str:
    """Return text that is safe on one line of a terminal: control characters escaped, cut short.

    Args:
        text: anything, also hostile.
        limit: how many characters to keep.
    """
    cut = text if len(text) <= limit else text[:limit] + "…"
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


class MailLog:
    """Says what happens to mail, and counts it.

    Args:
        stage: the name of the stage or process, on every line.
        counts: where events are counted by name (``bytes``: the sum of fetched sizes).
        metrics: where they are measured for Prometheus, if anybody can ask.
        lines: where the lines go, as ``configure`` returns it; JSON on standard error if None.
        unfinished: is told which messages have begun and ended; None where nobody asks, as it grows
            where another process ends what this one begins.
    """

    def __init__(
        self,
        stage: str,
        counts: Counter[str] | None = None,
        metrics: Metrics | None = None,
        lines: LogLines | None = None,
        unfinished: Unfinished | None = None,
    ) -> None:
        self.unfinished = unfinished
        self.counts: Counter[str] = Counter() if counts is None else counts
        self.metrics = Metrics() if metrics is None else metrics
        self._lines = LogLines() if lines is None else lines
        self._stage = stage
        self._latency = self.metrics.histogram(LATENCY)
        self._handling = self.metrics.histogram(HANDLING, stage)
        self._bytes = self.metrics.counter(BYTES)
        # From the beginning, so that an alert sees the first one as an increase.
        self._missing = self.metrics.counter(SPOOL, stage, "missing")
        self._unavailable = self.metrics.counter(SPOOL, stage, "unavailable")
        self._events: dict[str, Callable[[float], None]] = {}

    def of(self, stage: str) -> MailLog:
        """Return the log of another stage in this process, with the same counts and metrics."""
        return MailLog(stage, self.counts, self.metrics, self._lines, self.unfinished)

    def _end(self, id_: str) -> None:
        if self.unfinished is not None:
            self.unfinished.end(id_)

    def _count(self, event: str) -> None:
        self.counts[event] += 1
        one_more = self._events.get(event)
        if one_more is None:
            one_more = self._events[event] = self.metrics.counter(EVENTS, self._stage, event)
        one_more(1)

    def _say(self, level: int, event: str, /, **about: object) -> None:
        self._lines.say(level, self._stage, event, about)

    def _say_some(self, level: int, event: str, /, **about: object) -> None:
        """Say what a server, or a sender, can bring about again and again."""
        self._lines.say_some(level, self._stage, event, about)

    def fetched(self, id_: str, account: str, uidl: str, size: int) -> None:
        """A message was taken from a maildrop and is durable in our queue."""
        self._count("fetched")
        if self.unfinished is not None:
            self.unfinished.begin(id_)
        self.counts["bytes"] += size
        self._bytes(size)
        self._say(INFO, "fetched", id=id_, account=account, uidl=printable(uidl), size=size)

    def suppressed(self, id_: str, account: str, why: str) -> None:
        """A message has been here before and is not delivered a second time."""
        self._count("suppressed")
        if self._stage != "fetcher":  # which has begun nothing then
            self._end(id_)
        self._say_some(INFO, "suppressed", id=id_, account=account, why=printable(why))

    def forwarded(self, id_: str, account: str, queue: str) -> None:
        """A message went on to the next queue."""
        self._count("forwarded")
        self._say(DEBUG, "forwarded", id=id_, account=account, queue=queue)

    def delivered(self, id_: str, account: str, receipt: str, age: float) -> None:
        """A message arrived at its destination, so many seconds after it was fetched."""
        self._count("delivered")
        self._end(id_)
        self._latency(max(age, 0.0))
        self._say(INFO, "delivered", id=id_, account=account, receipt=printable(receipt))

    def retrying(self, id_: str, account: str, queue: str, reason: str, attempt: int) -> None:
        """A message waits for another try."""
        self._count("retrying")
        self._say_some(
            WARNING,
            "retrying",
            id=id_,
            account=account,
            queue=queue,
            reason=printable(reason),
            attempt=attempt,
        )

    def waiting(self, id_: str, account: str, queue: str, reason: str) -> None:
        """A message waits for room at its destination; it was not tried."""
        self._count("waiting")
        self._say(DEBUG, "waiting", id=id_, account=account, queue=queue, reason=printable(reason))

    def failed(self, id_: str, account: str, queue: str, reason: str) -> None:
        """A message went to Failed Mail."""
        self._count("failed")
        self._end(id_)
        self._say_some(
            ERROR, "failed", id=id_, account=account, queue=queue, reason=printable(reason)
        )

    def quarantined(self, id_: str, account: str, reason: str) -> None:
        """A corrupt message went to quarantine."""
        self._count("quarantined")
        self._end(id_)
        self._say_some(ERROR, "quarantined", id=id_, account=account, reason=printable(reason))

    def removed(self, id_: str, account: str, uidl: str) -> None:
        """A message was deleted at the POP3 server, after it was safe with us."""
        self._count("removed")
        self._say(INFO, "removed", id=id_, account=account, uidl=printable(uidl))

    def polled(self, account: str, found: int, fetched: int, seconds: float) -> None:
        """An account was polled to the end."""
        self._count("polled")
        self._say(
            INFO, "polled", account=account, found=found, fetched=fetched, seconds=round(seconds, 3)
        )

    def left_undone(self, account: str, what: str) -> None:
        """A poll that came to its end has left something as it was, such as a message."""
        self._count("left_undone")
        self.trouble("left undone", account=account, what=what)

    def account_failed(
        self, account: str, reason: str, again_in: float, *, ours: bool = False
    ) -> None:
        """An account could not be polled; it is backed off.

        Args:
            account: its name.
            reason: why.
            again_in: seconds until the next try.
            ours: it is no fault of its own, and of no server: others fail for the same reason.
        """
        self._count("accounts_failed")
        said = {"account": account, "reason": printable(reason), "again_in": round(again_in)}
        self._lines.say_some(ERROR, self._stage, "account failed", said, lasting=ours)

    def account_held(self, account: str, why: str) -> None:
        """An account was not polled, as the operator has to choose first: nothing has failed."""
        self._count("accounts_failed")
        self._say(WARNING, "account held", account=account, why=printable(why))

    def crashed(self, id_: str, account: str, error: BaseException) -> None:
        """A handler raised what it should not; the message is retried, the programmer told."""
        self._count("crashed")
        self._say_some(
            ERROR, "handler crashed", id=id_, account=account, exception=_traceback(error)
        )

    def spool_failed(
        self, error: SpoolMissing | SpoolUnavailable, account: str, id_: str = ""
    ) -> None:
        """The spool has lost a large message, or does not work: somebody has to look."""
        missing = isinstance(error, SpoolMissing)
        (self._missing if missing else self._unavailable)(1)
        what = "blob missing" if missing else "spool unavailable"
        self._say_some(ERROR, what, id=id_, account=account, why=printable(str(error)))

    def dialogue(self, **about: object) -> Callable[[str], None] | None:
        """Return what takes the lines of a dialogue with a server; None unless for debugging.

        Args:
            about: with whom, and for which account.
        """
        if not self._lines.tells(DEBUG):
            return None
        return lambda line: self._say(DEBUG, line, **about)

    def handled(self, seconds: float) -> None:
        """A handler is done with a message, however it went."""
        self._handling(seconds)

    def trouble(self, what: str, /, **about: object) -> None:
        """Something that is not a message is wrong: a connection, a database, a worker."""
        said = {name: printable(str(value)) for name, value in about.items()}
        self._lines.say_some(WARNING, self._stage, what, said, lasting=what in _LASTING)

    def finish(self) -> None:
        """Tell what was only counted, as the process ends."""
        self._lines.tell_left_out(ended=True)
        self._lines.flush()

    def note(self, what: str, /, **about: object) -> None:
        """A step in the life of the process: started, connected, stopping."""
        self._say(INFO, what, **about)


_LASTING: Final = frozenset(
    {
        "settling failed; it is retried",
        "poll jobs could not be queued",
        "cannot consume yet",
        "cannot publish: the topology is not declared yet",
        "a bundle cannot be split",
    }
)
"""Troubles that happen to all alike while a queue is full or absent."""


def _traceback(error: BaseException) -> str:
    """Return the traceback of an error; what it says may have come from mail."""
    lines = "".join(traceback.format_exception(error)).rstrip("\n").split("\n")
    return "\n".join(printable(line) for line in lines)
