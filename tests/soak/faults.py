"""How each fault is made, and healed: context managers that break something while they last."""

import contextlib
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from operator import attrgetter
from typing import Protocol

from shared.errors import BrokerUnavailable
from tests.ids import identify
from tests.servers.proxy import Proxy
from tests.servers.rabbitmq import RabbitServer
from tests.soak.crew import Crew, stage_of
from tests.soak.mail import Mail
from tests.soak.place import ACCOUNTS

Strike = Callable[[Mail, random.Random], AbstractContextManager[None]]

POINTS = {
    "fetcher": (
        "poll.published", "fetcher.retrieving", "fetcher.spooled", "incoming.published",
        "fetcher.before-ledger", "fetcher.after-ledger", "fetcher.before-quit", "fetcher.quit-sent",
    ),
    "parser": ("parser.before-publish", "parsed.published", "incoming.before-ack"),
    "rewriter": ("rewriter.before-publish", "pickup.published", "parsed.before-ack"),
    "deliverer": (
        "deliverer.before-file", "deliverer.before-dot", "deliverer.dot-sent", "deliverer.replied",
        "deliverer.before-ledger", "deliverer.after-ledger", "pickup.before-ack",
    ),
}  # fmt: skip
"""The steps of each stage at which a process can be made to die; see ``shared.failpoint``."""
MOST = 12
"""Times that a step is reached, at the most, until the process dies there."""
PATIENCE = 15.0
"""Seconds for a process to reach the step that it is to die at; then it is killed anyway."""
POISONING = 240.0
"""Seconds for a poisonous message to end in quarantine."""
AFTERWARDS = 5.0
"""Seconds in which one may still get there that has killed for the last time."""
TRIES = 5
NOBODY = 1
"""A port on which nobody listens."""


class Server(Protocol):
    """A server that can be shut down and started."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


def down(server: str) -> Strike:
    """Shut a server of the place down, and start it at the end."""

    @contextlib.contextmanager
    def strike(mail: Mail, _: random.Random) -> Iterator[None]:
        it: Server = attrgetter(server)(mail.place)
        it.stop()
        try:
            yield
        finally:
            it.start()

    return strike


@contextlib.contextmanager
def broker_killed(mail: Mail, _: random.Random) -> Iterator[None]:
    """SIGKILL RabbitMQ, and start it at the end."""
    mail.place.broker.kill()
    try:
        yield
    finally:
        mail.place.broker.start()


@contextlib.contextmanager
def broker_frozen(mail: Mail, _: random.Random) -> Iterator[None]:
    """Let RabbitMQ stand still."""
    mail.place.broker.freeze()
    try:
        yield
    finally:
        mail.place.broker.thaw()


@contextlib.contextmanager
def broker_closes(mail: Mail, _: random.Random) -> Iterator[None]:
    """Let RabbitMQ close all connections, as an operator would."""
    # It may wait in vain for a client that is frozen, or has a slow network; others are closed.
    with contextlib.suppress(OSError):
        mail.place.broker.close_connections(mail.place.vhost, 0)
    yield


@contextlib.contextmanager
def broker_alarmed(mail: Mail, _: random.Random) -> Iterator[None]:
    """Let RabbitMQ be short of memory."""
    _watermark(mail.place.broker, "0.0000001")
    try:
        yield
    finally:
        _watermark(mail.place.broker, "absolute", "2GB")


def _watermark(broker: RabbitServer, *value: str) -> None:
    """Set the limit of memory; on a machine that is overloaded the command does not always end."""
    for _ in range(TRIES):
        with contextlib.suppress(subprocess.TimeoutExpired, AssertionError):
            broker.ctl("set_vm_memory_high_watermark", *value)
            return
    raise AssertionError("rabbitmqctl does not answer")


@contextlib.contextmanager
def database_frozen(mail: Mail, _: random.Random) -> Iterator[None]:
    """Let PostgreSQL stand still."""
    assert mail.place.database is not None
    mail.place.database.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        mail.place.database.signal(signal.SIGCONT)


@contextlib.contextmanager
def database_disconnects(mail: Mail, _: random.Random) -> Iterator[None]:
    """Let PostgreSQL cut all connections."""
    assert mail.place.database is not None
    mail.place.database.disconnect_everybody()
    yield


@contextlib.contextmanager
def smtp_later(mail: Mail, chance: random.Random) -> Iterator[None]:
    """Let Postfix say 4xx to some recipients."""
    names = [name for name, to in ACCOUNTS.items() if to == "smtp" and chance.random() < 0.7]
    addresses = [f"{name}@corp.example" for name in names]
    answers = mail.place.local.answers
    answers.update(dict.fromkeys(addresses, "451 4.7.1 greylisted, come back later"))
    try:
        yield
    finally:
        for address in addresses:
            del answers[address]


def _network(mail: Mail, name: str) -> Proxy:
    found: Proxy = getattr(mail.place.networks, name)
    return found


def cut(network: str) -> Strike:
    """Cut all connections of a network, once."""

    @contextlib.contextmanager
    def strike(mail: Mail, _: random.Random) -> Iterator[None]:
        _network(mail, network).cut()
        yield

    return strike


def apart(network: str) -> Strike:
    """Cut all connections of a network, and let nobody through."""

    @contextlib.contextmanager
    def strike(mail: Mail, _: random.Random) -> Iterator[None]:
        proxy = _network(mail, network)
        server, proxy.server = proxy.server, NOBODY
        proxy.cut()
        try:
            yield
        finally:
            proxy.server = server

    return strike


def cutting(network: str, most: int) -> Strike:
    """Cut every connection after so many bytes from the server, at the most."""

    @contextlib.contextmanager
    def strike(mail: Mail, chance: random.Random) -> Iterator[None]:
        proxy = _network(mail, network)
        proxy.cut_after = chance.randint(0, most)
        try:
            yield
        finally:
            proxy.cut_after = None

    return strike


def slow(network: str) -> Strike:
    """Let everything be late."""

    @contextlib.contextmanager
    def strike(mail: Mail, chance: random.Random) -> Iterator[None]:
        proxy = _network(mail, network)
        proxy.latency = chance.uniform(0.02, 0.4)
        try:
            yield
        finally:
            proxy.latency = 0.0

    return strike


def thin(network: str, rate: int) -> Strike:
    """Let no more than so many bytes a second come from a server."""

    @contextlib.contextmanager
    def strike(mail: Mail, _: random.Random) -> Iterator[None]:
        proxy = _network(mail, network)
        proxy.rate = rate
        try:
            yield
        finally:
            proxy.rate = 0

    return strike


def disk_full(leave: int) -> Strike:
    """Let somebody else fill the disk of spool and Maildirs, but for so many bytes."""

    @contextlib.contextmanager
    def strike(mail: Mail, _: random.Random) -> Iterator[None]:
        disk = mail.place.disk
        assert disk is not None
        disk.fill(leave)
        try:
            yield
        finally:
            disk.free()

    return strike


def trick(number: int, name: str) -> Strike:
    """Let a hostile server do something of ``TRICKS``."""

    @contextlib.contextmanager
    def strike(mail: Mail, _: random.Random) -> Iterator[None]:
        with mail.place.hostile[number].doing(name):
            yield

    return strike


def killed(name: str) -> Strike:
    """SIGKILL a process; another one follows at once."""

    @contextlib.contextmanager
    def strike(mail: Mail, _: random.Random) -> Iterator[None]:
        mail.place.crew.kill(name)
        yield

    return strike


def away(name: str) -> Strike:
    """SIGKILL a process, and let another one follow at the end."""

    @contextlib.contextmanager
    def strike(mail: Mail, _: random.Random) -> Iterator[None]:
        mail.place.crew.take_away(name)
        try:
            yield
        finally:
            mail.place.crew.want(name)

    return strike


def frozen(name: str) -> Strike:
    """Let a process stand still."""

    @contextlib.contextmanager
    def strike(mail: Mail, _: random.Random) -> Iterator[None]:
        mail.place.crew.freeze(name)
        try:
            yield
        finally:
            mail.place.crew.thaw(name)

    return strike


def armed(name: str) -> Strike:
    """Start a process anew that dies at a random step of its story."""

    @contextlib.contextmanager
    def strike(mail: Mail, chance: random.Random) -> Iterator[None]:
        mail.place.crew.arm(name, _point(name, chance))
        yield
        _until_dead(mail.place.crew, name)

    return strike


def second(name: str, end: Callable[[Crew, str, random.Random], None]) -> Strike:
    """Let a second process of a stage join, and end in some way."""

    @contextlib.contextmanager
    def strike(mail: Mail, chance: random.Random) -> Iterator[None]:
        crew = mail.place.crew
        crew.want(name)
        try:
            yield
            end(crew, name, chance)
        finally:
            crew.take_away(name)

    return strike


def by_sigterm(crew: Crew, name: str, _: random.Random) -> None:
    """End a process in good order."""
    crew.dismiss(name)


def by_sigkill(crew: Crew, name: str, _: random.Random) -> None:
    """Kill a process."""
    crew.take_away(name)


def by_a_step(crew: Crew, name: str, chance: random.Random) -> None:
    """Start a process anew, and let it die at a random step of its story."""
    crew.arm(name, _point(name, chance))
    _until_dead(crew, name)


def poisonous(stage: str) -> Strike:
    """Send a message that kills each process of a stage that takes it, until it is quarantined."""

    @contextlib.contextmanager
    def strike(mail: Mail, chance: random.Random) -> Iterator[None]:
        account = chance.choice(sorted(ACCOUNTS))
        message = mail.poison()
        id_ = identify(account, message)
        mail.place.crew.poison(stage, f"{id_}.handled")
        try:
            mail.put(account, message, "quarantine")
            yield
            _quarantined(mail, id_, POISONING)
        finally:
            mail.place.crew.poison(stage, None)
        if not _quarantined(mail, id_, AFTERWARDS):
            mail.pardon(id_)  # its account is backed off, and nobody has seen it

    return strike


def _point(name: str, chance: random.Random) -> str:
    return f"{chance.choice(POINTS[stage_of(name)])}#{chance.randint(1, MOST)}"


def _until_dead(crew: Crew, name: str) -> None:
    until = time.monotonic() + PATIENCE
    while crew.armed(name):
        if time.monotonic() > until:
            crew.disarm(name)
            return
        time.sleep(0.05)


def _quarantined(mail: Mail, id_: str, seconds: float) -> bool:
    """Return whether a message is in quarantine, as soon as it is, or after so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not mail.given_up.wait(1.0):
        with contextlib.suppress(BrokerUnavailable):
            if any(found == id_ for _, found, _ in mail.place.quarantined()):
                return True
    return False
