"""A process that tries messages which may crash it: what its stage is made of, and who dies first.

It is there to be crashed: the kernel's out-of-memory killer takes it before any other process, and
it does not outlive its parent. Frames come on standard input, and answers go to what was standard
output; what anything else prints goes to standard error. It ends when its input does. Signals that
are meant for the parent are none of its business. With another configuration than its parent's it
does not begin: it would speak of queues that the parent does not know, or use another ledger.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack, suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Final

from services.disk_watch import room_of
from services.process import broker_of, open_state, spare_collections
from services.trial.handling import beat, or_end, send, try_all
from services.wiring import Resources, StageWiring
from shared import failpoint
from shared.clock import SystemClock
from shared.log import MailLog
from shared.log_lines import LogLines
from shared.settings.model import Settings
from shared.settings.written_secrets import secrets_in
from shared.settlement import RetryPolicy
from shared.spool import Spool
from shared.stage import StageHandler
from shared.state import State
from shared.trial import frames

CHANGED: Final = "the configuration has changed since this process started; restart it"

_PR_SET_PDEATHSIG: Final = 1
"""See prctl(2)."""


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
    say = partial(send, answers)
    source = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(source), sys.stdin
    )
    log = MailLog(part.name, lines=lines)
    if (await frames.read(source)).head != ["settings", settings.digest]:
        say(frames.pack(["unfit", CHANGED]))
        return
    failpoint.arm_for_a_message(os.environ)
    beating = asyncio.create_task(or_end(beat(say), log))
    async with AsyncExitStack() as stack:
        stack.callback(beating.cancel)
        stack.callback(log.finish)
        resources = _resources(settings, part.name, log, stack)
        assembly = await stack.enter_async_context(part.assemble(resources))
        policy = RetryPolicy(settings.retry.tiers, settings.retry.give_up_after)
        handling = StageHandler(assembly.stage, policy, log, resources.clock)
        spare_collections()
        say(frames.pack(["ready"]))
        await try_all(source, handling, assembly.stage, say, log)


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
