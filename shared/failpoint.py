"""Named steps at which a process can be made to die, so that tests can kill it exactly there.

Nothing happens at a step unless the environment variable ``POP3_CONNECTOR_FAULT`` names it when the
process starts: ``fetcher.before-ledger``, or ``fetcher.before-ledger#3`` for the third time that it
is reached. Then the process gets SIGKILL, as from the kernel's out-of-memory killer: no handler
runs, nothing is flushed. It trusts whoever sets the environment; a name that no step has does
nothing, so a test has to see the process die.

What is armed lies in the context (PEP 567), which tasks inherit: not in the module, so that two
connectors in one process stay apart. A thread sees it if it is started with a copy of the context.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Final

VARIABLE: Final = "POP3_CONNECTOR_FAULT"

_ID_LENGTH: Final = 32


class _Point:
    """The step to die at, and how often it is still to be reached until then."""

    __slots__ = ("_left", "_step")

    def __init__(self, step: str, times: int) -> None:
        self._step = step
        self._left = times

    def reached(self, step: str) -> None:
        if step != self._step:
            return
        self._left -= 1
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


_ARMED: Final[ContextVar[_Point | None]] = ContextVar("fault point", default=None)


def arm(environ: Mapping[str, str]) -> str | None:
    """Arm the step that the environment names, for this context and all that inherit it.

    Args:
        environ: the environment of the process.

    Returns:
        What was named, None where nothing was.

    Raises:
        ValueError: what stands after ``#`` is no number.
    """
    named = environ.get(VARIABLE)
    if not named:
        return None
    step, _, times = named.partition("#")
    _ARMED.set(_Point(step, int(times or 1)))
    return named


def arm_for_a_message(environ: Mapping[str, str]) -> None:
    """Arm the step that the environment names if it is about one message.

    For a process that another one has started: a step of a stage is meant for that one.
    """
    where, _, _ = environ.get(VARIABLE, "").partition(".")
    if len(where) == _ID_LENGTH:
        arm(environ)


def reach_all(places: Iterable[str], step: str) -> None:
    """Say that a step is reached in each of these places; looks once whether anything is armed."""
    point = _ARMED.get()
    if point is not None:
        for where in places:
            point.reached(f"{where}.{step}")


def reach(where: str, step: str) -> None:
    """Say that a step is reached; it is the last thing that this process does if that is armed.

    Args:
        where: the stage, the queue or the id of the message that it is about.
        step: what has just been done, or is to be done next.
    """
    point = _ARMED.get()
    if point is not None:
        point.reached(f"{where}.{step}")
