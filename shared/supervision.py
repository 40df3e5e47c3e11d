"""Background tasks that nobody awaits: a defect ends none of them for good, and none in silence.

A task that dies alone takes along what it was there for: a connection is not made again, a disk not
looked at, waiting mail not moved; and nobody hears of it. Here it is said, and begun anew. Who
has a task's outcome awaited anyway (a stage, a poll, a delivery) has no need of this.

What is said goes to the exception handler of the event loop, as does what asyncio finds by itself:
callbacks and tasks whose errors nobody looked at. ``report_failures`` gives all of that one place.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from shared.backoff import Backoff
from shared.clock import Clock
from shared.log import Report

FIRST: Final = 1.0
LONGEST: Final = 30.0
"""Seconds from a failure to the next try: doubled each time, up to this."""

DEFECT: Final = "a background task failed"
"""What is said, and counted, of each."""


def supervise(
    work: Callable[[], Coroutine[Any, Any, None]], what: str, clock: Clock
) -> asyncio.Task[None]:
    """Return a task that does this work until it returns or is cancelled, whatever it raises.

    Args:
        work: is begun anew after it has failed; what it had begun by then is its own to clear up.
        what: completes "the task that ...", and is the name of the task.
        clock: times the pauses.
    """
    return asyncio.create_task(_again_and_again(work, what, clock), name=what)


@contextmanager
def report_failures(report: Report) -> Iterator[None]:
    """Have all that fails in the background of this event loop reported until the block ends."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: _tell(report, context))
    try:
        yield
    finally:
        loop.set_exception_handler(before)


async def _again_and_again(
    work: Callable[[], Coroutine[Any, Any, None]], what: str, clock: Clock
) -> None:
    backoff = Backoff(clock, FIRST, LONGEST)
    while True:
        begun = clock.monotonic()
        try:
            return await work()
        except Exception as error:  # noqa: BLE001  (a defect, whatever it is)
            if clock.monotonic() - begun > LONGEST:
                backoff.reset()
            message = f"the task that {what} failed, and is restarted"
            asyncio.get_running_loop().call_exception_handler(
                {"message": message, "exception": error}
            )
        await backoff.pause()


def _tell(report: Report, context: dict[str, Any]) -> None:
    error = context.get("exception")
    why = "" if error is None else f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    report(DEFECT, what=context["message"], why=why, where=where)
