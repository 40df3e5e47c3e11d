"""One at a time changes the topology of a RabbitMQ: ``topology declare`` or ``topology migrate``.

What says so is an exclusive queue, which goes with the connection that made it: a process that is
killed leaves no lock, and one that has lost the lock has lost the connection that it works over,
too. It binds those who ask; versions before this one declared without.
"""

# kombu has few annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from amqp.exceptions import AccessRefused, AMQPError, NotFound, ResourceLocked
from kombu.connection import Connection

from shared.broker import topology
from shared.errors import BrokerUnavailable, ConfigError
from shared.log import printable
from shared.queues import MOVING, Tier

LOCK: Final = "topology.migrating"
_PATIENCE: Final = 2.0
"""Seconds to wait for another process that declares."""
_TURN: Final = 0.1


@contextmanager
def exclusive(connection: Connection) -> Iterator[None]:
    """Let nobody else declare or migrate until the block ends.

    Args:
        connection: open, of a user who may configure.

    Raises:
        BrokerUnavailable: somebody else does, for longer than declaring takes.
        ConfigError: this user may not.
    """
    until = time.monotonic() + _PATIENCE
    while not _take_lock(connection):
        if time.monotonic() > until:
            what = "another topology migrate is running, or a topology declare; wait for its end"
            raise BrokerUnavailable(f"queue {LOCK}: {what}")
        time.sleep(_TURN)
    try:
        yield
    finally:
        with suppress(AMQPError, OSError), connection.channel() as channel:
            channel.queue_delete(LOCK)


def require_none_moving(connection: Connection, tiers: Sequence[Tier]) -> None:
    """Check that no migration was begun that has not come to its end.

    Args:
        connection: open.
        tiers: the retry tiers.

    Raises:
        ConfigError: one was.
    """
    for spec in topology.every(tiers):
        with connection.channel() as channel, suppress(NotFound):
            channel.queue_declare(spec.name + MOVING, passive=True)
            what = "a topology migrate was begun, and has not come to its end; run it again"
            raise ConfigError(f"queue {spec.name}{MOVING}", what)


def _take_lock(connection: Connection) -> bool:
    with connection.channel() as channel:
        try:
            channel.queue_declare(
                LOCK,
                exclusive=True,
                durable=False,
                auto_delete=False,
                arguments={"x-queue-type": "classic"},
            )
        except ResourceLocked:
            return False
        except AccessRefused as error:
            what = "this user may not declare it; use one with the permission to configure"
            raise ConfigError(
                f"queue {LOCK}", f"{what}. RabbitMQ says: {printable(str(error))}"
            ) from error
    return True
