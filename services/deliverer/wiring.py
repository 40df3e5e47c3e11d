"""Puts the deliverer together from what a process has open. Wires, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from services.deliverer.breaker import Breaker
from services.deliverer.deliver import Deliverer
from services.deliverer.destinations import courier_for
from services.deliverer.servers.fair_share import IN_HAND, DeliverySlots
from services.deliverer.unrecorded import Unrecorded
from services.wiring import Assembly, Resources, StageWiring
from shared.authentication.tokens import AccessTokens
from shared.log import MailLog
from shared.message import Addressed
from shared.metrics import BREAKER
from shared.network.dialogue import TraceFor
from shared.queues import PICKUP
from shared.settings.access_tokens import OAuthTokens
from shared.stage import Stage
from shared.state import State  # here, so that it is loaded before the stage says it has started


@asynccontextmanager
async def assemble(r: Resources) -> AsyncGenerator[Assembly, None]:
    """Put the deliverer together, with a courier for each destination."""
    slots = DeliverySlots(IN_HAND)
    tokens = await _access_tokens(r)
    couriers = {
        name: courier_for(
            name,
            table.address() or "",
            clock=r.clock,
            connections=table.connections,
            listen=dialogues(r.log, name),
            slots=slots,
            known=r.known,
            tokens=tokens.get(name),
        )
        for name, table in r.settings.every_destination.items()
    }
    state: State = await r.state()
    unrecorded = Unrecorded(r.settings.unrecorded_file)
    await unrecorded.make()
    deliverer = Deliverer(
        couriers, state, r.spool, r.clock, report=r.log.trouble, unrecorded=unrecorded
    )
    for name, breaker in deliverer.breakers.items():
        r.log.metrics.watch(BREAKER, partial(_open, breaker), name)
    try:
        stage = Stage(
            "deliverer", PICKUP, Addressed, None, deliverer.handle, IN_HAND, deliverer.lane
        )
        yield Assembly(stage)
    finally:
        await deliverer.close()


async def _access_tokens(r: Resources) -> Mapping[str, AccessTokens]:
    """Return where the access tokens of destinations come from, by name."""
    destinations = r.settings.every_destination
    with_tokens = {name: table for name, table in destinations.items() if table.oauth is not None}
    if not with_tokens:
        return {}
    tokens = OAuthTokens(r.settings, await r.state(), r.clock, r.known, r.log.trouble)
    return {name: tokens.of_destination(name, table) for name, table in with_tokens.items()}


def dialogues(log: MailLog, destination: str) -> TraceFor | None:
    """Return what takes the dialogues with a destination; None unless for debugging."""
    if log.dialogue() is None:
        return None
    return lambda number: log.dialogue(destination=destination, connection=number)


def _open(breaker: Breaker) -> float:
    return float(breaker.open)


WIRING: Final = StageWiring("deliverer", assemble)
