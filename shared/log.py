"""Structured logs, with one function for each mail event.

Every line about a message starts with our id for it. No secret and no body is ever logged, and
text that came from mail or from a server is escaped before it gets here or to a terminal.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, TextIO

import structlog

from shared.errors import SpoolMissing, SpoolUnavailable
from shared.metrics import BYTES, EVENTS, HANDLING, LATENCY, SPOOL, Metrics


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


def configure(level: str = "INFO", stream: TextIO | None = None) -> None:
    """Set up logging for this process: JSON lines, or readable ones where a person watches.

    Args:
        level: DEBUG, INFO, WARNING or ERROR.
        stream: where lines go, standard error if None; it is asked whether it is a terminal.
    """
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=True) if (stream or sys.stderr).isatty() else _as_json
    )
    lines = Lines(stream)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(stream=stream, level=logging.WARNING, format="%(name)s: %(message)s")
    logging.getLogger("pika").setLevel(logging.CRITICAL)


_JSON: Final = json.JSONEncoder(ensure_ascii=False, default=repr)


def _as_json(_: object, __: str, event: Mapping[str, Any]) -> str:
    return _JSON.encode(event)


class Lines:
    """Writes log lines; one that cannot be written is no reason to stop the mail.

    In an event loop the lines of one turn are written together, at the next: a write for each line
    costs more than making it. A process that is killed takes the lines of its last turn with it.

    Args:
        stream: where to; None for what standard error is at that moment.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._held: list[str] = []

    def msg(self, line: str) -> None:
        """Write a line."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._write(line)
            return
        if not self._held:
            loop.call_soon(self._flush)
        self._held.append(line)

    def _flush(self) -> None:
        held, self._held = self._held, []
        self._write("\n".join(held))

    def _write(self, lines: str) -> None:
        with suppress(OSError, ValueError):
            print(lines, file=self._stream or sys.stderr, flush=True)

    debug = info = warning = error = critical = exception = msg


class MailLog:
    """Says what happens to mail, and counts it.

    Args:
        stage: the name of the stage or process, on every line.
        counts: where events are counted by name (``bytes``: the sum of fetched sizes).
        metrics: where they are measured for Prometheus.
    """

    def __init__(
        self, stage: str, counts: Counter[str] | None = None, metrics: Metrics | None = None
    ) -> None:
        self.counts: Counter[str] = Counter() if counts is None else counts
        self.metrics = Metrics() if metrics is None else metrics
        self._stage = stage
        self._log = structlog.get_logger().bind(stage=stage)
        self._latency = self.metrics.histogram(LATENCY)
        self._handling = self.metrics.histogram(HANDLING, stage)
        self._bytes = self.metrics.counter(BYTES)
        # From the beginning, so that an alert sees the first one as an increase.
        self._missing = self.metrics.counter(SPOOL, stage, "missing")
        self._unavailable = self.metrics.counter(SPOOL, stage, "unavailable")
        self._events: dict[str, Callable[[], None]] = {}

    def of(self, stage: str) -> MailLog:
        """Return the log of another stage in this process, with the same counts and metrics."""
        return MailLog(stage, self.counts, self.metrics)

    def _count(self, event: str) -> None:
        self.counts[event] += 1
        one_more = self._events.get(event)
        if one_more is None:
            one_more = self._events[event] = self.metrics.counter(EVENTS, self._stage, event).inc
        one_more()

    def fetched(self, id_: str, account: str, uidl: str, size: int) -> None:
        """A message was taken from a maildrop and is durable in our queue."""
        self._count("fetched")
        self.counts["bytes"] += size
        self._bytes.inc(size)
        self._log.info("fetched", id=id_, account=account, uidl=printable(uidl), size=size)

    def suppressed(self, id_: str, account: str, why: str) -> None:
        """A message has been here before and is not delivered a second time."""
        self._count("suppressed")
        self._log.info("suppressed", id=id_, account=account, why=printable(why))

    def forwarded(self, id_: str, account: str, queue: str) -> None:
        """A message went on to the next queue."""
        self._count("forwarded")
        self._log.debug("forwarded", id=id_, account=account, queue=queue)

    def delivered(self, id_: str, account: str, receipt: str, age: float) -> None:
        """A message arrived at its destination, so many seconds after it was fetched."""
        self._count("delivered")
        self._latency.observe(max(age, 0.0))
        self._log.info("delivered", id=id_, account=account, receipt=printable(receipt))

    def retrying(self, id_: str, account: str, queue: str, reason: str, attempt: int) -> None:
        """A message waits for another try."""
        self._count("retrying")
        self._log.warning(
            "retrying",
            id=id_,
            account=account,
            queue=queue,
            reason=printable(reason),
            attempt=attempt,
        )

    def failed(self, id_: str, account: str, queue: str, reason: str) -> None:
        """A message went to Failed Mail."""
        self._count("failed")
        self._log.error("failed", id=id_, account=account, queue=queue, reason=printable(reason))

    def quarantined(self, id_: str, account: str, reason: str) -> None:
        """A corrupt message went to quarantine."""
        self._count("quarantined")
        self._log.error("quarantined", id=id_, account=account, reason=printable(reason))

    def removed(self, id_: str, account: str, uidl: str) -> None:
        """A message was deleted at the POP3 server, after it was safe with us."""
        self._count("removed")
        self._log.info("removed", id=id_, account=account, uidl=printable(uidl))

    def polled(self, account: str, found: int, fetched: int, seconds: float) -> None:
        """An account was polled to the end."""
        self._count("polled")
        self._log.info(
            "polled", account=account, found=found, fetched=fetched, seconds=round(seconds, 3)
        )

    def account_failed(self, account: str, reason: str, again_in: float) -> None:
        """An account could not be polled; it is backed off."""
        self._count("accounts_failed")
        self._log.error(
            "account failed", account=account, reason=printable(reason), again_in=round(again_in)
        )

    def crashed(self, id_: str, account: str, error: BaseException) -> None:
        """A handler raised what it should not; the message is retried, the programmer told."""
        self._count("crashed")
        self._log.error("handler crashed", id=id_, account=account, exc_info=error)

    def spool_failed(
        self, error: SpoolMissing | SpoolUnavailable, account: str, id_: str = ""
    ) -> None:
        """The spool has lost a large message, or does not work: somebody has to look."""
        missing = isinstance(error, SpoolMissing)
        (self._missing if missing else self._unavailable).inc()
        what = "blob missing" if missing else "spool unavailable"
        self._log.error(what, id=id_, account=account, why=printable(str(error)))

    def handled(self, seconds: float) -> None:
        """A handler is done with a message, however it went."""
        self._handling.observe(seconds)

    def trouble(self, what: str, /, **about: object) -> None:
        """Something that is not a message is wrong: a connection, a database, a worker."""
        self._log.warning(what, **{k: printable(str(v)) for k, v in about.items()})

    def note(self, what: str, /, **about: object) -> None:
        """A step in the life of the process: started, connected, stopping."""
        self._log.info(what, **about)
