"""Opens what the operator's commands work on, as the settings say.

Modules are imported when they are needed: of the two brokers, only the one in use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from services.postmaster.parked import Blobs
from shared.broker import Steward
from shared.clock import SystemClock
from shared.settings import Settings


@contextmanager
def open_steward(settings: Settings) -> Iterator[Steward]:
    """Yield the operator's side of the broker, and disconnect at the end.

    Raises:
        ConfigError: the broker's URL, credentials or file are wrong.
        BrokerUnavailable: it does not answer.
    """
    steward = _rabbitmq(settings) or _embedded(settings)
    try:
        yield steward
    finally:
        steward.close()


def open_spool(settings: Settings) -> Blobs:
    """Return the spool.

    Raises:
        ConfigError: its URL is wrong, or a package for it is not installed.
    """
    from shared.spool import Spool

    return Spool(settings.spool_url, settings.spool.options)


def _rabbitmq(settings: Settings) -> Steward | None:
    url = settings.broker.address()
    if url is None:
        return None
    from shared.broker.steward import KombuSteward

    ca_file = settings.broker.ca_file
    return KombuSteward(
        url, settings.retry.tiers, ca_file=None if ca_file is None else str(ca_file)
    )


def _embedded(settings: Settings) -> Steward:
    from shared.broker.embedded_steward import EmbeddedSteward

    return EmbeddedSteward(settings.queue_file, settings.retry.tiers, SystemClock())
