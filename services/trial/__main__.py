"""The child's side: ``python -m services.trial STAGE`` handles what its parent hands it over.

It is there to be crashed: the kernel's out-of-memory killer takes it before any other process, and
it does not outlive its parent. Frames come on standard input, and answers go to what was standard
output; what anything else prints goes to standard error. It ends when its input does. Signals that
are meant for the parent are none of its business. With another configuration than its parent's it
does not begin: it would speak of queues that the parent does not know, or use another ledger.

What fails here and must not, ends the process, as a crash does: the parent waits for an answer for
as long as it sees signs of life.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":  # before anything is loaded
    from pop3_connector import main

    sys.exit(main("trial"))

import asyncio
import ctypes
import importlib
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from services.disk_watch import room_of
from services.process import broker_of, open_state, spare_collections
from services.wiring import Resources, StageWiring
from shared import failpoint
from shared.broker import Delivery
from shared.clock import SystemClock
from shared.log import LogLines, MailLog
from shared.settings.model import Settings
from shared.settings.written_secrets import secrets_in
from shared.settlement import RetryPolicy, failure_headers
from shared.spool import Spool
from shared.stage import HandledDelivery, Stage, StageHandler
from shared.state import State
from shared.trial import frames

BEAT: Final = 5.0
"""Seconds between two signs of life."""

FAILED: Final = 70
"""The exit status where something failed that must not (EX_SOFTWARE of sysexits.h)."""

CHANGED: Final = "the configuration has changed since this process started; restart it"

_PR_SET_PDEATHSIG: Final = 1
"""See prctl(2)."""

Say: TypeAlias = Callable[[bytes], None]
"""Sends a frame to the parent."""


def serve(settings: Settings, lines: LogLines, stage: str) -> int:
    """Try what the parent hands over until it is gone; return the exit status."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    _yield_to_others()
    answers = os.dup(1)
    os.dup2(2, 1)
    part: StageWiring = importlib.import_module(f"services.{stage}.wiring").WIRING
    asyncio.run(_serve(settings, lines, part, answers))
    return 0


def _yield_to_others() -> None:
    """Be the first to be killed where memory is short, and die with the parent."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


async def _serve(settings: Settings, lines: LogLines, part: StageWiring, answers: int) -> None:
    say = partial(_say, answers)
    source = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(source), sys.stdin
    )
    log = MailLog(part.name, lines=lines)
    if (await frames.read(source)).head != ["settings", settings.digest]:
        say(frames.pack(["unfit", CHANGED]))
        return
    failpoint.arm_for_a_message(os.environ)
    beating = asyncio.create_task(_or_end(_beat(say), log))
    async with AsyncExitStack() as stack:
        stack.callback(beating.cancel)
        stack.callback(log.finish)
        resources = _resources(settings, part.name, log, stack)
        assembly = await stack.enter_async_context(part.assemble(resources))
        policy = RetryPolicy(settings.retry.tiers, settings.retry.give_up_after)
        handling = StageHandler(assembly.stage, policy, log, resources.clock)
        spare_collections()
        say(frames.pack(["ready"]))
        await _try_all(source, handling, assembly.stage, say, log)


async def _or_end(work: Coroutine[Any, Any, None], log: MailLog) -> None:
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


async def _try_all(
    source: asyncio.StreamReader, handling: StageHandler, stage: Stage, say: Say, log: MailLog
) -> None:
    """Handle whatever comes, until nothing does; then give up what is in hand."""
    trials = set[asyncio.Task[None]]()
    with suppress(asyncio.IncompleteReadError):
        while True:
            delivery = frames.delivery(await frames.read(source))
            trial = _try(delivery, handling, stage, say)
            task = asyncio.create_task(_or_end(trial, log))
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


async def _beat(say: Say) -> None:
    while True:
        say(frames.pack(["beat"]))
        await asyncio.sleep(BEAT)


def _say(answers: int, frame: bytes) -> None:
    left = memoryview(frame)
    while left:
        left = left[os.write(answers, left) :]


def _resources(settings: Settings, name: str, log: MailLog, stack: AsyncExitStack) -> Resources:
    """Return what there is for a stage; the broker is not opened, as nothing is sent from here."""
    version, room = metadata.version("pop3-connector"), room_of(settings)
    states = list[State]()

    async def state() -> State:
        if not states:
            states.append(await open_state(settings, log))
            stack.push_async_callback(states[0].close)
        return states[0]

    return Resources(
        settings,
        broker_of(settings, name, name, version, log, room),
        state,
        Spool(settings.spool_url, dict(settings.spool.options)),
        log,
        SystemClock(),
        socket.getfqdn(),
        version,
        room,
        known=secrets_in(settings),
    )
