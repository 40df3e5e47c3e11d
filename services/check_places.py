"""Tries where a connector keeps its own: state database, broker and spool.

Nothing is made or changed there, neither a table nor a queue nor a file. What is a file, or a
folder, on this machine and is not there yet is made at the first start, and counts as good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path

from services.postmaster.opening import open_management, open_spool, open_steward
from services.postmaster.state import PATIENCE, ledger_file
from shared.errors import ConfigError
from shared.queues import POLL
from shared.settings.model import Settings
from shared.sqlite.rebuild import damage_error, look
from shared.state.database import probe
from shared.words import counted


def places(settings: Settings) -> Iterator[tuple[str, str, Coroutine[None, None, str]]]:
    """Yield what is to be tried: its kind and name, and what returns what is there.

    What is yielded raises ConfigError, BrokerUnavailable, StateUnavailable or SpoolUnavailable.
    """
    yield "state", "database", asyncio.to_thread(_state, settings)
    yield "broker", "queues", asyncio.to_thread(_broker, settings)
    if settings.broker.management_url is not None and not settings.broker.embedded:
        yield "broker", "management", asyncio.to_thread(_management, settings)
    yield "spool", "blobs", _spool(settings)


def _state(settings: Settings) -> str:
    if (file := ledger_file(settings)) is not None:
        return _file(file)
    there = probe(settings.state_address(), PATIENCE)
    return f"logged in to {settings.state.url}{'' if there else '; its tables are not made yet'}"


def _broker(settings: Settings) -> str:
    if settings.broker.embedded:
        return _file(settings.queue_file)
    with open_steward(settings) as steward:
        depths = steward.depths()
    absent = sum(depth is None for depth in depths.values())
    missing = f"; {counted(absent, 'queue')} to be declared (topology declare)" if absent else ""
    return f"logged in to {', '.join(map(str, settings.broker.every_url))}{missing}"


def _management(settings: Settings) -> str:
    if (management := open_management(settings)) is not None:
        management.queues([POLL])
    return f"logged in to {settings.broker.management_url}"


async def _spool(settings: Settings) -> str:
    where = settings.spool.url or settings.data_dir / "spool"
    await open_spool(settings).mark()
    return f"reached {where}"


def _file(path: Path) -> str:
    if not path.exists():
        return f"not there yet, and made at the start: {path}"
    health = look(path)
    if health.faults:
        raise damage_error(path, health.faults[0])
    if health.unknown:
        raise ConfigError(str(path), health.unknown)
    return f"opened {path}"
