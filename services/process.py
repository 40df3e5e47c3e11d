"""Hosts stages in a process: opens what they need, runs them until told to stop, closes it again.

One stage makes a process of its own, four make the whole connector. It waits for a broker or a
database that is not there yet; once running, it ends on SIGTERM or SIGINT alone, after it has
settled what is in hand. A stage that ends by itself is a defect, and ends the process with it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Final, TypeVar

from services.disk_watch import room_of, watch_disks
from services.health import Health, serve_health
from services.marks import Marks
from services.postmaster.opening import open_management
from services.queue_ownership import LOST, SHARED, QueueOwnership
from services.trial import child
from services.wiring import Assembly, Resources, StageWiring
from shared import failpoint
from shared.broker import Broker
from shared.clock import SystemClock
from shared.disk.space import Room
from shared.errors import SpoolUnavailable, StateUnavailable
from shared.log import MailLog
from shared.log_lines import LogLines
from shared.metrics import IN_HAND, UNTRIED, Metrics
from shared.queues import RETRIED
from shared.retry_memory import RetryMemory
from shared.runner import Runner
from shared.settings.model import Settings
from shared.settings.written_secrets import secrets_in
from shared.settlement import RetryPolicy
from shared.spool import Spool
from shared.supervision import report_failures, supervise
from shared.trial import Start
from shared.unfinished import Unfinished
from shared.waiting import any_of, until_there

if TYPE_CHECKING:
    from shared.state import State

GRACE: Final = 30.0
"""Seconds that what is in hand may take after SIGTERM."""

COLLECT_AFTER: Final = 20_000
"""New objects after which the garbage collector looks at them."""

T = TypeVar("T")


async def nothing() -> None:
    """Prepare nothing."""


class Stopped(Exception):
    """The process was told to stop before everything was open."""


def serve(
    settings: Settings,
    lines: LogLines,
    *wirings: StageWiring,
    prepare: Callable[[], Awaitable[None]] = nothing,
) -> int:
    """Run these stages in this process until SIGTERM, SIGINT or SIGHUP; return the exit status.

    Args:
        settings: the configuration.
        lines: where log lines go.
        wirings: of the stages.
        prepare: see ``open_resources``.

    Raises:
        ConfigError: the settings do not lead to a broker, a database or a destination.
    """
    return asyncio.run(_serve(settings, lines, wirings, prepare))


async def _serve(
    settings: Settings,
    lines: LogLines,
    wirings: Sequence[StageWiring],
    prepare: Callable[[], Awaitable[None]],
) -> int:
    stop = asyncio.Event()
    stop_on_signals(stop)
    with suppress(Stopped):
        async with open_resources(settings, lines, wirings, stop, prepare=prepare) as (
            resources,
            assemblies,
        ):
            await run_until(stop, resources, assemblies)
    return 0


def spare_collections() -> None:
    """Let the garbage collector look at what is new, seldom, and never at what was loaded.

    Messages in hand are thousands of objects without cycles; looking at them after every 700 new
    ones costs much, and finds nothing.
    """
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 10, 10)


def stop_on_signals(stop: asyncio.Event) -> None:
    """Set ``stop`` on SIGTERM, SIGINT, and SIGHUP where that is not ignored (``nohup``)."""
    loop = asyncio.get_running_loop()

    def end(*_: object) -> None:
        # The loop's own handlers go with it, and the process would die of a second signal.
        with suppress(RuntimeError):  # it is closed: all has ended
            loop.call_soon_threadsafe(stop.set)

    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(name) is not signal.SIG_IGN:
            signal.signal(name, end)


@asynccontextmanager
async def open_resources(
    settings: Settings,
    lines: LogLines,
    wirings: Sequence[StageWiring],
    stop: asyncio.Event,
    counts: Counter[str] | None = None,
    prepare: Callable[[], Awaitable[None]] = nothing,
) -> AsyncGenerator[tuple[Resources, list[Assembly]], None]:
    """Open what the stages need, and assemble them.

    Args:
        settings: the configuration.
        lines: where log lines go.
        wirings: of the stages.
        stop: ends the waiting for a broker or database that is away.
        counts: where mail events are counted.
        prepare: what comes before the broker is opened; it may wait for it.

    Raises:
        Stopped: told to stop while waiting.
        ConfigError: the settings do not lead there.
    """
    name = wirings[0].name if len(wirings) == 1 else "postmaster"
    # Who counts has all stages in this process, and asks at the end what is left.
    unfinished = None if counts is None else Unfinished()
    metrics = Metrics(served=settings.monitor.listen is not None)
    log = MailLog(name, counts, metrics, lines, unfinished)
    if (fault := failpoint.arm(os.environ)) is not None:
        log.trouble("this process will kill itself", at=fault, because=failpoint.VARIABLE)
    async with AsyncExitStack() as stack:
        stack.callback(log.finish)
        stack.enter_context(report_failures(log.trouble))
        resources, health = await _begin_monitoring(settings, name, log, stop, stack)
        await unless(stop, prepare())
        await unless(stop, resources.broker.open())
        _tell_strays(getattr(resources.broker, "strays", {}), log)
        await _watch_policies(resources, health, stack)
        log.note("started", version=resources.version)
        assemblies = [
            await stack.enter_async_context(
                wiring.assemble(replace(resources, log=log.of(wiring.name)))
            )
            for wiring in wirings
        ]
        spare_collections()
        health.started = True
        yield resources, assemblies


async def _begin_monitoring(
    settings: Settings, name: str, log: MailLog, stop: asyncio.Event, stack: AsyncExitStack
) -> tuple[Resources, Health]:
    """Return what there is before anything is open, and begin to tell how this process is."""
    version = metadata.version("pop3-connector")
    hostname = socket.getfqdn()
    clock = SystemClock()
    room = room_of(settings)
    broker = broker_of(settings, name, f"{name}@{hostname}", version, log, room)
    stack.push_async_callback(broker.close)
    health = Health(broker, clock, log.metrics, version)
    await stack.enter_async_context(serve_health(health, settings.monitor.listen))
    states: list[State] = []
    ownerships: list[QueueOwnership] = []

    async def state() -> State:
        if not states:
            states.append(await unless(stop, open_state(settings, log)))
            stack.push_async_callback(states[0].close)
            health.damages.append(lambda: states[0].damage)
            advice = LOST if embedded else SHARED
            ownerships.append(QueueOwnership(states[0], marks, log, clock, advice))
            health.waits.append(ownerships[0].why_not)
        return states[0]

    spool = Spool(settings.spool_url, dict(settings.spool.options))
    marks = Marks(settings, spool, name, log.trouble, clock)
    health.damages.append(lambda: getattr(broker, "damage", None))
    embedded = settings.broker.embedded
    stuck = lambda: embedded and broker.blocked is not None  # noqa: E731
    await stack.enter_async_context(watch_disks(settings, room, stuck, log, clock))
    resources = Resources(
        settings,
        broker,
        state,
        spool,
        log,
        clock,
        hostname,
        version,
        room,
        damage=health.damage,
        known=secrets_in(settings),
        marks=marks,
        ownership=lambda: ownerships[0] if ownerships else None,
        unless_stopped=partial(unless, stop),
        warn=health.warnings.append,
    )
    return resources, health


def broker_of(
    settings: Settings, sender: str, name: str, version: str, log: MailLog, room: Room
) -> Broker:
    """Return the broker that the settings name: RabbitMQ, or the embedded one without a URL."""
    urls = settings.broker.addresses()
    tiers = settings.retry.tiers
    # Of the two brokers, only the one in use is loaded.
    if not urls:
        from shared.broker.embedded.broker import EmbeddedBroker

        return EmbeddedBroker(
            settings.queue_file,
            tiers=tiers,
            name=name,
            lacking=lambda: room.lacking() is not None,
            scarce=room.scarce,
        )
    from shared.broker.rabbitmq.broker import RabbitBroker

    ca_file = settings.broker.ca_file
    return RabbitBroker(
        urls,
        sender=sender,
        name=name,
        tiers=tiers,
        version=version,
        names=settings.broker.names,
        ca_file=None if ca_file is None else str(ca_file),
        report=log.trouble,
    )


async def _watch_policies(resources: Resources, health: Health, stack: AsyncExitStack) -> None:
    """Report what policies could do to mail, where the settings say how to read them."""
    if (management := open_management(resources.settings)) is None:
        return
    # Not at the top: whoever has no such URL needs none of it, kombu least of all.
    from services.policy_watch import PolicyWatch
    from shared.broker.topology import protected

    ask = partial(management.dangers, protected(resources.settings.retry.tiers))
    watch = PolicyWatch(ask, resources.log, resources.clock)
    health.warnings.append(lambda: watch.found)
    task = supervise(watch.watch, "looks at the policies of the broker", resources.clock)
    stack.callback(task.cancel)


def _tell_strays(strays: Mapping[str, int], log: MailLog) -> None:
    """Say which queues hold messages, and are no longer in the configuration.

    Over RabbitMQ ``topology declare`` says so: no stage may look into queues that are not its own.
    """
    for queue, count in strays.items():
        log.trouble("a queue that was removed holds messages", queue=queue, messages=count)


async def open_state(settings: Settings, log: MailLog) -> State:
    """Open the state database, waiting for it with backoff for as long as it takes."""
    # Not at the top: a parser and a rewriter have no state, and SQLAlchemy takes 0.1 s to load.
    from shared.state import State, new_owner

    address, owner = settings.state_address(), new_owner()
    return await until_there(
        lambda: State.open(address, owner=owner, report=log.trouble),
        any_of(StateUnavailable, SpoolUnavailable),
        log.trouble,
        "waiting for the state database",
    )


async def unless(stop: asyncio.Event, work: Awaitable[T]) -> T:
    """Await ``work``, but give up on it when ``stop`` is set.

    Raises:
        Stopped: it was.
    """
    task = asyncio.ensure_future(work)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task.done():
        return task.result()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    raise Stopped


def make_runner(assembly: Assembly, resources: Resources, *, once: bool = False) -> Runner:
    """Return a runner for an assembled stage.

    Args:
        assembly: the stage.
        resources: what is open.
        once: it tries nothing again that it has put into a retry tier itself.
    """
    retry, stage = resources.settings.retry, assembly.stage
    policy = RetryPolicy(retry.tiers, retry.give_up_after)
    runner = Runner(
        stage,
        resources.broker,
        policy,
        resources.log.of(stage.name),
        resources.clock,
        resources.spool,
        RetryMemory(stage.inbox, policy) if once else None,
        _trial_starter(assembly, resources),
    )
    resources.warn(runner.warnings)
    resources.log.metrics.watch(IN_HAND, lambda: float(runner.in_hand), stage.name)
    resources.log.metrics.watch(UNTRIED, lambda: runner.untried, stage.name)
    return runner


def _trial_starter(assembly: Assembly, resources: Resources) -> Start | None:
    """Return what starts a process for this stage's suspects; a poll job is none."""
    stage = assembly.stage
    if stage.inbox not in RETRIED:
        return None
    debug = resources.log.dialogue() is not None
    return partial(
        child.start,
        child.command(resources.settings.file, stage.name, debug=debug),
        resources.settings.digest,
    )


async def _run(runner: Runner, resources: Resources, stop: asyncio.Event) -> None:
    """Run a stage, as soon as the queues are ours."""
    if (ownership := resources.ownership()) is not None:
        try:
            await unless(stop, ownership.wait_until_ours())
        except Stopped:
            return
    await runner.run(stop, GRACE)


async def run_until(
    stop: asyncio.Event, resources: Resources, assemblies: Sequence[Assembly]
) -> None:
    """Run assembled stages and their companions until ``stop`` is set, and settle what is in hand.

    Raises:
        Exception: whatever a stage or companion ended with, where it ended by itself.
        RuntimeError: it ended by itself, and with nothing.
    """
    runs = [
        asyncio.create_task(_run(make_runner(a, resources), resources, stop)) for a in assemblies
    ]
    beside = [asyncio.create_task(c(stop)) for a in assemblies for c in a.companions]
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({stopping, *runs, *beside}, return_when=asyncio.FIRST_COMPLETED)
    by_itself = not stop.is_set()
    resources.log.note("stopping")
    stop.set()
    for task in beside:
        task.cancel()
    results = await asyncio.gather(*runs, *beside, return_exceptions=True)
    await stopping
    for result in results:
        if isinstance(result, Exception):
            raise result
    if by_itself:
        raise RuntimeError("a stage, or a task beside it, ended unexpectedly")
