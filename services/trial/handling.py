"""The child's side of a trial: handles what its parent hands it over, and gives signs of life.

What fails here and must not, ends the process, as a crash does: the parent waits for an answer for
as long as it sees signs of life.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeAlias, cast

from shared.broker import Delivery
from shared.log import MailLog
from shared.settlement import failure_headers
from shared.stage import HandledDelivery, Stage, StageHandler
from shared.trial import frames

BEAT: Final = 5.0
"""Seconds between two signs of life."""

FAILED: Final = 70
"""The exit status where something failed that must not (EX_SOFTWARE of sysexits.h)."""

Say: TypeAlias = Callable[[bytes], None]
"""Sends a frame to the parent."""


async def or_end(work: Coroutine[Any, Any, None], log: MailLog) -> None:
    """Do this work, which nobody waits for; where it fails, the process ends."""
    try:
        await work
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001  (whatever it is)
        try:
            log.crashed("", "", error)
            log.finish()
        finally:  # there may be no memory to say it
            os._exit(FAILED)


async def try_all(
    source: asyncio.StreamReader, handling: StageHandler, stage: Stage, say: Say, log: MailLog
) -> None:
    """Handle whatever comes, until nothing does; then give up what is in hand."""
    trials = set[asyncio.Task[None]]()
    with suppress(asyncio.IncompleteReadError):
        while True:
            delivery = frames.delivery(await frames.read(source))
            trial = _try(delivery, handling, stage, say)
            task = asyncio.create_task(or_end(trial, log))
            trials.add(task)
            task.add_done_callback(trials.discard)
    left = set(trials)
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left)


async def _try(delivery: Delivery, handling: StageHandler, stage: Stage, say: Say) -> None:
    number = cast(int, delivery.tag)
    cases = list[HandledDelivery]()
    found = handling.decode(delivery)
    if isinstance(found, HandledDelivery):
        cases.append(found)
    else:
        told = failure_headers(
            found.envelope, "", stage=stage.name, inbox=stage.inbox, now=time.time()
        )
        say(frames.pack(["read", number, told]))
        await handling.handle([found], cases.append)
    say(frames.pack_answer(number, cases[0].settlement))


async def beat(say: Say) -> None:
    """Give the parent a sign of life, again and again."""
    while True:
        say(frames.pack(["beat"]))
        await asyncio.sleep(BEAT)


def send(answers: int, frame: bytes) -> None:
    """Write a frame to the parent, who reads from this descriptor."""
    left = memoryview(frame)
    while left:
        left = left[os.write(answers, left) :]
