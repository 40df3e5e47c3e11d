"""The deliverer as a process: ``python -m services.deliverer``. Wires, and nothing else."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from services.deliverer.courier import Courier
from services.deliverer.couriers import courier_for
from services.deliverer.deliver import Deliverer
from services.host import serve as host
from services.parts import Assembly, Part, Resources
from shared.message import Addressed
from shared.queues import PICKUP
from shared.settings import Settings
from shared.stage import Stage

CONCURRENCY: Final = 128
"""Deliveries in hand, over all destinations; each bounds its own connections."""


@asynccontextmanager
async def assemble(r: Resources) -> AsyncGenerator[Assembly, None]:
    """Put the deliverer together, with a courier for each destination."""
    async with AsyncExitStack() as stack:
        couriers: dict[str, Courier] = {}
        for name, destination in r.settings.every_destination.items():
            courier = courier_for(
                name,
                destination.address() or "",
                clock=r.clock,
                connections=destination.connections,
            )
            stack.push_async_callback(courier.close)
            couriers[name] = courier
        deliverer = Deliverer(couriers, r.state, r.spool, r.clock)
        yield Assembly(Stage("deliverer", PICKUP, Addressed, None, deliverer.handle, CONCURRENCY))


PART: Final = Part("deliverer", assemble)


def serve(configuration: Settings) -> int:
    """Run until SIGTERM; return the exit status."""
    return host(configuration, PART)


if __name__ == "__main__":
    from services.__main__ import main

    sys.exit(main(["deliverer", *sys.argv[1:]]))
