"""What breaks how often: the faults of each component, as tables.

A component is one part of the whole (a server and its network, a process), of which one thing is
broken at a time. Components know nothing of each other, so their faults overlap. Each has a chance
of its own, seeded: the same seed breaks the same things in the same order, as far as the machine is
as quick.
"""

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.flow.connector import STAGES
from tests.soak import faults
from tests.soak.crew import SECOND
from tests.soak.faults import Strike
from tests.soak.hostile import TRICKS
from tests.soak.mail import Mail
from tests.soak.place import HOSTILE

Seconds = tuple[float, float]
AT_ONCE: Seconds = (0.0, 0.0)
MOMENT: Seconds = (0.2, 4.0)
WHILE: Seconds = (4.0, 15.0)
PAST_LEASES: Seconds = (22.0, 32.0)
"""A lease runs for 20 seconds after it was renewed."""
PAST_HEARTBEATS: Seconds = (70.0, 100.0)
"""Two heartbeats of 30 seconds missed, and either side gives an AMQP connection up."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
        name: in the table of results.
        hold: for how many seconds it lasts, at least and at most.
        strike: makes it, and heals it at the end of the context.
        weight: how often it is chosen, compared with the others of its component.
    """

    name: str
    hold: Seconds
    strike: Strike
    weight: float = 1.0


@dataclass(frozen=True)
class Component:
    """One part of the whole, and its faults, of which there is one at a time.

    Attributes:
        name: of what breaks.
        quiet: seconds from one fault to the next, at least and at most.
    """

    name: str
    quiet: Seconds
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class Struck:
    """A fault that there was, from and to when (seconds since 1970)."""

    component: str
    name: str
    begin: float
    end: float


def _cut(what: str, size: int, at_once: float, after_some: float) -> tuple[Fault, Fault]:
    """Return how connections are cut: those that there are; each one after so many bytes."""
    network = what.lower()
    return (
        Fault(f"{what} connections cut", AT_ONCE, faults.cut(network), at_once),
        Fault(
            f"{what} connections cut after some bytes",
            MOMENT,
            faults.cutting(network, size),
            after_some,
        ),
    )


def _destination(
    name: str, server: tuple[Fault, ...], network: tuple[Fault, ...] = ()
) -> Component:
    """Return what happens to a mail server that is delivered to, and to the network before it."""
    slow = (
        Fault(f"{name} network slow", WHILE, faults.slow(name.lower())),
        Fault(f"{name} server sends 20 bytes a second", WHILE, faults.thin(name.lower(), 20)),
    )
    return Component(name, (8.0, 30.0), (*server, *_cut(name, 2_000, 3, 2), *network, *slow))


BROKER = Component(
    "RabbitMQ",
    (20.0, 60.0),
    (
        Fault("RabbitMQ restarted", AT_ONCE, faults.down("broker")),
        Fault("RabbitMQ away", WHILE, faults.down("broker")),
        Fault("RabbitMQ killed", AT_ONCE, faults.broker_killed, 2),
        Fault("RabbitMQ closes all connections", AT_ONCE, faults.broker_closes, 2),
        Fault("RabbitMQ short of memory", WHILE, faults.broker_alarmed),
        Fault("RabbitMQ frozen", MOMENT, faults.broker_frozen),
        Fault("RabbitMQ frozen past the heartbeats", PAST_HEARTBEATS, faults.broker_frozen, 0.5),
        *_cut("AMQP", 200_000, 2, 2),
        Fault("AMQP network away", WHILE, faults.apart("amqp")),
        Fault("AMQP network slow", WHILE, faults.slow("amqp")),
    ),
)
DATABASE = Component(
    "PostgreSQL",
    (15.0, 45.0),
    (
        Fault("PostgreSQL restarted", AT_ONCE, faults.down("database"), 2),
        Fault("PostgreSQL away", WHILE, faults.down("database")),
        Fault("PostgreSQL away past the leases", PAST_LEASES, faults.down("database"), 0.5),
        Fault("PostgreSQL frozen", MOMENT, faults.database_frozen),
        Fault("PostgreSQL frozen past the leases", PAST_LEASES, faults.database_frozen, 0.5),
        Fault("PostgreSQL cuts all connections", AT_ONCE, faults.database_disconnects, 2),
        *_cut("SQL", 20_000, 2, 2),
        Fault("SQL network slow", MOMENT, faults.slow("sql")),
    ),
)
PROVIDER = Component(
    "POP3",
    (15.0, 45.0),
    (
        Fault("POP3 server restarted", AT_ONCE, faults.down("provider"), 2),
        Fault("POP3 server away", WHILE, faults.down("provider")),
        *_cut("POP3", 100_000, 2, 3),
        Fault("POP3 network away", WHILE, faults.apart("pop3")),
        Fault("POP3 network slow", WHILE, faults.slow("pop3")),
        Fault("POP3 server sends 2,000 bytes a second", WHILE, faults.thin("pop3", 2_000)),
    ),
)
DISK = Component(
    "disk",
    (20.0, 60.0),
    (
        Fault("disk full", WHILE, faults.disk_full(0), 2),
        Fault("disk full past the leases", PAST_LEASES, faults.disk_full(0)),
        Fault("disk below min_free", WHILE, faults.disk_full(50 << 20)),
    ),
)
SMTP = _destination(
    "SMTP",
    (Fault("SMTP server answers 4xx", WHILE, faults.smtp_later, 2),),
    (Fault("SMTP network away", WHILE, faults.apart("smtp")),),
)
LMTP = _destination(
    "LMTP",
    (
        Fault("LMTP server restarted", AT_ONCE, faults.down("store"), 2),
        Fault("LMTP server away", WHILE, faults.down("store")),
    ),
)
POISON = Component(
    "poison",
    (60.0, 240.0),
    tuple(
        Fault(f"message that kills its {stage}", (30.0, 30.0), faults.poisonous(stage))
        for stage in ("parser", "rewriter", "deliverer")
    ),
)


def _first(stage: str) -> Component:
    """Return what happens to the process of a stage that is always there."""
    return Component(
        stage,
        (10.0, 40.0),
        (
            Fault(f"{stage} killed", AT_ONCE, faults.killed(stage), 3),
            Fault(f"{stage} killed at a named step", MOMENT, faults.armed(stage), 4),
            Fault(f"{stage} killed, and away", WHILE, faults.away(stage)),
            Fault(f"{stage} frozen", MOMENT, faults.frozen(stage)),
            Fault(f"{stage} frozen past its leases", PAST_LEASES, faults.frozen(stage), 0.5),
            Fault(
                f"{stage} frozen past the heartbeats", PAST_HEARTBEATS, faults.frozen(stage), 0.5
            ),
        ),
    )


def _second(name: str) -> Component:
    """Return what happens to a second process of a stage, which comes and goes."""
    stage = name.partition("#")[0]
    ends = {
        f"second {stage} joins, ends on SIGTERM": faults.by_sigterm,
        f"second {stage} joins, is killed": faults.by_sigkill,
        f"second {stage} joins, is killed at a named step": faults.by_a_step,
    }
    kinds = tuple(Fault(n, (4.0, 40.0), faults.second(name, end)) for n, end in ends.items())
    return Component(name, (15.0, 60.0), kinds)


def _hostile(number: int) -> Component:
    """Return what a hostile server does: always something, and never for long."""
    kinds = (
        Fault(f"hostile server {name}", (3.0, 20.0), faults.trick(number, name)) for name in TRICKS
    )
    return Component(f"hostile {number}", (0.0, 2.0), tuple(kinds))


def components(*, sqlite: bool, disk: bool) -> Sequence[Component]:
    """Return all components; with SQLite there is no database server to break.

    Args:
        sqlite: whether the state is in SQLite.
        disk: whether there is a disk that can be filled.
    """
    database = () if sqlite else (DATABASE,)
    own = (DISK,) if disk else ()
    harm = map(_hostile, range(HOSTILE))
    processes = (*map(_first, STAGES), *map(_second, SECOND))
    return (BROKER, *database, *own, PROVIDER, *harm, SMTP, LMTP, POISON, *processes)


@dataclass
class Breaker:
    """Breaks a component, again and again, in a thread of its own.

    Attributes:
        pace: what the quiet times are multiplied with.
        longest: seconds that a fault may last; kinds that last longer are left out.
        struck: all faults that there were.
        failure: what went wrong with breaking or healing, which is a defect of the soak's own.
    """

    component: Component
    mail: Mail
    seed: int
    pace: float
    longest: float
    struck: list[Struck] = field(default_factory=list)
    failure: BaseException | None = None

    def run(self, stop: threading.Event) -> None:
        """Break and heal until ``stop`` is set."""
        chance = random.Random(f"{self.seed} {self.component.name}")
        kinds = [fault for fault in self.component.faults if fault.hold[0] <= self.longest]
        weights = [fault.weight for fault in kinds]
        try:
            while kinds and not stop.wait(self.pace * chance.uniform(*self.component.quiet)):
                self._one(chance.choices(kinds, weights)[0], chance, stop)
        except BaseException as error:
            self.failure = error

    def _one(self, fault: Fault, chance: random.Random, stop: threading.Event) -> None:
        begin = time.time()
        with fault.strike(self.mail, chance):
            stop.wait(min(self.longest, chance.uniform(*fault.hold)))
        self.struck.append(Struck(self.component.name, fault.name, begin, time.time()))
