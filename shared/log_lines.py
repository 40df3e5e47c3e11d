"""Log lines, and where they go: JSON, or readable where a person watches.

A line that cannot be written is no reason to stop the mail. What comes again and again has some
lines, then a count (``flood``); nobody waits for a reader (``outlet``).
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from json.encoder import encode_basestring as quoted
from typing import Any, Final, TextIO, TypeAlias

from shared.flood import Flood, LogEvent
from shared.outlet import Outlet

DEBUG: Final = logging.DEBUG
INFO: Final = logging.INFO
WARNING: Final = logging.WARNING
ERROR: Final = logging.ERROR

_NAMES: Final = {DEBUG: "debug", INFO: "info", WARNING: "warning", ERROR: "error"}


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
