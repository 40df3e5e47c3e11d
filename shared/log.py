"""Structured logs, with one function for each mail event.

Every line about a message starts with our id for it. What was fetched, delivered and deleted at the
server has a line each; of what a server or a sender can bring about again and again there are some
lines, then a count (``flood``). No secret and no body is ever logged, and text that came from mail
or from a server is escaped before it gets here or to a terminal.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from json.encoder import encode_basestring as quoted
from typing import Any, Final, Protocol, TextIO, TypeAlias

from shared.errors import SpoolMissing, SpoolUnavailable
from shared.flood import Flood, LogEvent
from shared.metrics import BYTES, EVENTS, HANDLING, LATENCY, SPOOL, Metrics
from shared.outlet import Outlet
from shared.unfinished import Unfinished

DEBUG: Final = logging.DEBUG
INFO: Final = logging.INFO
WARNING: Final = logging.WARNING
ERROR: Final = logging.ERROR

_NAMES: Final = {DEBUG: "debug", INFO: "info", WARNING: "warning", ERROR: "error"}


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


def configure(level: str = "INFO", stream: TextIO | None = None) -> LogLines:
    """Set up logging for this process: JSON lines, or readable ones where a person watches.

    Args:
        level: DEBUG, INFO, WARNING or ERROR.
        stream: where lines go, standard error if None; it is asked whether it is a terminal.

    Returns:
        Where this process's lines go, for its MailLog.
    """
    render = _for_a_person if (stream or sys.stderr).isatty() else as_json
    lines = LogLines(stream, logging.getLevelNamesMapping()[level], render)
    logging.basicConfig(stream=lines.outlet, level=WARNING, format="%(name)s: %(message)s")
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    return lines


Render: TypeAlias = Callable[[str, str, str, str, Mapping[str, object]], str]
"""Makes a line of its moment, level, stage and event, and of what it is about."""


def as_json(moment: str, level: str, stage: str, event: str, about: Mapping[str, object]) -> str:
    """Return a line as one JSON object.

    Written out, as each message has some: see docs/benchmarks.md.
    """
    text = "".join([f'"{k}": {_WRITTEN.get(type(v), _other)(v)}, ' for k, v in about.items()])
    return (
        f'{{"stage": {quoted(stage)}, {text}"event": {quoted(event)},'
        f' "level": "{level}", "timestamp": "{moment}"}}'
    )


_other: Final = json.JSONEncoder(ensure_ascii=False, default=repr).encode
_WRITTEN: Final[Mapping[type, Callable[[Any], str]]] = {str: quoted, int: int.__repr__}


_RED, _GREEN, _YELLOW, _PURPLE, _CYAN = (f"\x1b[{code}m" for code in (31, 32, 33, 35, 36))
_PLAIN, _BOLD, _DIM = (f"\x1b[{code}m" for code in (0, 1, 2))
_COLOURS: Final = {"debug": _GREEN, "info": _GREEN, "warning": _YELLOW}


def _for_a_person(
    moment: str, level: str, stage: str, event: str, about: Mapping[str, object]
) -> str:
    """Return a line in colour, aligned for the eye; a traceback stands below it."""
    shown = {"stage": stage, **about}
    trace = shown.pop("exception", None)
    pairs = [f" {_CYAN}{k}{_PLAIN}={_PURPLE}{_readable(shown[k])}{_PLAIN}" for k in sorted(shown)]
    return (
        f"{_DIM}{moment}{_PLAIN} [{_COLOURS.get(level, _RED)}{_BOLD}{level:<9}{_PLAIN}]"
        f" {_BOLD}{event:<30}{_PLAIN}{''.join(pairs)}" + ("" if trace is None else f"\n{trace}")
    )


def _readable(value: object) -> str:
    bare = isinstance(value, str) and not set(value) & set(" \t=\r\n\"'")
    return str(value) if bare else repr(value)


class LogLines:
    """Writes log lines; one that cannot be written is no reason to stop the mail.

    In an event loop the lines of one turn are written together, at the next: a write for each line
    costs more than making it. A process that is killed takes the lines of its last turn with it,
    and those that the stream has not taken yet: nobody waits for that (``Outlet``).

    Args:
        stream: where to; None for what standard error is at that moment.
        level: what is less than this is left out.
        render: makes the lines.
        monotonic: the clock by which a flood of the same trouble is cut.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        level: int = INFO,
        render: Render = as_json,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._flood = Flood(monotonic)
        self.outlet = Outlet(stream, self._lost)
        """Where they are written; what else goes to this stream goes here, too."""
        self._level = level
        self._render = render
        self._held: list[str] = []
        self._date = (-1, "")

    def say(self, level: int, stage: str, event: str, about: Mapping[str, object]) -> None:
        """Write a line, unless its level is too low."""
        if level >= self._level:
            if self._flood:
                self.tell_left_out()
            self._put(self._render(self._moment(), _NAMES[level], stage, event, about))

    def tell_left_out(self, *, ended: bool = False) -> None:
        """Write how often there was what was only counted, where its time is over."""
        for (level, stage, what), told in self._flood.over(ended=ended):
            self._put(self._render(self._moment(), _NAMES[level], stage, what, told))

    def say_some(
        self,
        level: int,
        stage: str,
        event: str,
        about: Mapping[str, object],
        *,
        lasting: bool = False,
    ) -> None:
        """Write a line, unless there were many of the kind just now: then it is counted.

        Who debugs gets them all.

        Args:
            level: how bad it is.
            stage: where it happened.
            event: what happened.
            about: whom it happened to, and why.
            lasting: it happens to all alike, for as long as its cause lasts: one line will do.
        """
        if level < self._level:
            return
        told = LogEvent(level, stage, event)
        if self._level <= DEBUG or self._flood.tells(told, about, lasting=lasting):
            self.say(level, stage, event, about)

    def tells(self, level: int) -> bool:
        """Return whether lines of this level are written at all."""
        return level >= self._level

    def _moment(self) -> str:
        """Return the time (UTC) in ISO 8601; the date is made once a second."""
        now, micros = divmod(time.time_ns() // 1000, 1_000_000)
        second, date = self._date
        if now != second:
            date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
            self._date = (now, date)
        return f"{date}.{micros:06d}Z"

    def _put(self, line: str) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.outlet.write(f"{line}\n")
            self.outlet.flush()
            return
        if not self._held:
            loop.call_soon(self._flush)
        self._held.append(line)

    def _flush(self) -> None:
        held, self._held = self._held, []
        if held:
            held.append("")  # a line end for the last one too
            self.outlet.write("\n".join(held))

    def flush(self) -> None:
        """Write what is held, as far as somebody reads it, before the process ends."""
        self._flush()
        self.outlet.flush()

    def _lost(self, count: int) -> str:
        """Return the line that tells how many were lost."""
        event = "log lines were lost: nobody read them"
        return self._render(self._moment(), "warning", "log", event, {"lines": count}) + "\n"


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
