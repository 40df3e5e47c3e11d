"""Puts the rewriter together from what a process has open. Wires, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from services.rewriter.rewrite import Rewriter, Route
from services.wiring import Assembly, Resources, StageWiring
from shared.message import Parsed
from shared.queues import PARSED, PICKUP
from shared.stage import Stage

CONCURRENCY: Final = 256
"""Deliveries in hand: enough to keep confirms and rewriting overlapped."""


@asynccontextmanager
async def assemble(r: Resources) -> AsyncGenerator[Assembly, None]:
    """Put the rewriter together: every account has its route, also one that is not polled."""
    routes = {t.name: Route((t.mailbox,), t.destination) for t in r.settings.accounts}
    rewriter = Rewriter(routes, r.hostname, r.version)
    yield Assembly(Stage("rewriter", PARSED, Parsed, PICKUP, rewriter.handle, CONCURRENCY))


WIRING: Final = StageWiring("rewriter", assemble)
