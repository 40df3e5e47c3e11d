"""What a stage is made of in a running process: open resources, and a way to put it together.

Opening happens in ``services.process``, by settings; a stage itself gets only what it needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from services.marks import Marks
from services.queue_ownership import QueueOwnership
from shared.broker import Broker
from shared.clock import Clock
from shared.disk.space import USUAL, Room
from shared.log import MailLog
from shared.redaction.known_secrets import KnownSecrets
from shared.settings.model import Settings
from shared.spool import Spool
from shared.stage import Stage

if TYPE_CHECKING:
    from shared.state import State


async def _await(work: Awaitable[None]) -> None:
    await work


@dataclass(frozen=True, slots=True)
class Resources:
    """What is open in this process.

    Attributes:
        state: opens the state database for the first stage that asks, and returns it.
        hostname: of this machine, for trace lines.
        version: of this program, for trace lines.
        room: how much there is on the disks that fetched mail comes to lie on.
        marks: what tells whether the state database is the one of this installation.
        ownership: returns what tells whether the queues are; None without a state database.
        unless_stopped: awaits something, and gives up when this process is told to stop.
        warn: is given what tells of things that somebody should look at; /readyz says them.
        damage: tells which file is damaged and will not mend by itself, and what to do.
        known: the passwords that this process has read: no server is quoted with one of them.
    """

    settings: Settings
    broker: Broker
    state: Callable[[], Awaitable[State]]
    spool: Spool
    log: MailLog
    clock: Clock
    hostname: str
    version: str
    room: Room = field(default_factory=lambda: Room((), USUAL))
    damage: Callable[[], str | None] = lambda: None
    known: KnownSecrets = field(default_factory=KnownSecrets)
    marks: Marks | None = None
    ownership: Callable[[], QueueOwnership | None] = lambda: None
    unless_stopped: Callable[[Awaitable[None]], Awaitable[None]] = _await
    warn: Callable[[Callable[[], Sequence[str]]], None] = lambda _: None


Companion: TypeAlias = Callable[[asyncio.Event], Coroutine[None, None, None]]


@dataclass(frozen=True, slots=True)
class Assembly:
    """A stage ready to run.

    Attributes:
        stage: what the runner runs.
        companions: what runs beside it until the process stops, such as the schedule.
    """

    stage: Stage
    companions: tuple[Companion, ...] = ()


@dataclass(frozen=True, slots=True)
class StageWiring:
    """One of the four stages: its name, and how to assemble it from resources."""

    name: str
    assemble: Callable[[Resources], AbstractAsyncContextManager[Assembly]]
